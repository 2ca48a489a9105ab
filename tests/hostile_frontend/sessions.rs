//! Whole sessions at random: messages, descriptors, memory that shrinks, rings that change, requests of
//! any kind. Seeds are tried until `SESSIONS_SECONDS` are over.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use vhost_user_btt::pmem::simulated::Random;

use crate::common::frontend::{Descriptor, readable, writable};
use crate::common::raw::*;
use crate::common::seeds::{Replay, figures, number};
use crate::common::usage::Usage;
use crate::setup::{House, QUEUES};

const COMMAND: &str = "cargo test --test hostile_frontend sessions";
/// Sessions of a seed.
const SESSIONS: u64 = 20;

#[test]
fn random_sessions_hurt_nothing_else() {
    let end = Instant::now() + Duration::from_secs(number("SESSIONS_SECONDS", 5));
    let house = House::new();
    let pid = house.daemon.pid();
    let first = number("CRASH_SEED", 1);
    let mut sum = Sum::default();
    // The first seed has what is done once.
    run_seed(&house, first, &mut sum);
    house.settle();
    let before = Usage::of(pid);
    for seed in first + 1.. {
        let replay = Replay { seed, command: COMMAND };
        run_seed(&house, seed, &mut sum);
        let after = before.wait_until_no_more(pid);
        assert!(after.anonymous_kib < before.anonymous_kib + 16_384, "{before:?} {after:?}");
        drop(replay);
        if Instant::now() >= end {
            break;
        }
    }
    let log = house.daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    let Sum { sessions, messages, batches, closed } = sum;
    assert!(batches > 0 && closed > 0 && closed < sessions);
    figures(&format!(
        "sessions sessions={sessions} messages={messages} batches={batches} closed-by-device={closed}"
    ));
    house.stands();
}

fn run_seed(house: &House, seed: u64, sum: &mut Sum) {
    let mut random = Random::new(seed);
    for _ in 0..SESSIONS {
        let socket = if random.one_in(5) { "pmem" } else { "victim" };
        let mut session = Session::new(&house.socket(socket), &mut random);
        session.run();
        sum.add(&session);
    }
    house.serves();
}

/// What the sessions have done.
#[derive(Default)]
struct Sum {
    sessions: u64,
    messages: u64,
    batches: u64,
    closed: u64,
}

impl Sum {
    fn add(&mut self, session: &Session<'_>) {
        self.sessions += 1;
        self.messages += session.messages;
        self.batches += session.batches;
        self.closed += u64::from(session.is_closed);
    }
}

/// A session.
struct Session<'r> {
    random: &'r mut Random,
    raw: Raw,
    /// Files that are, or were, guest memory.
    files: Vec<File>,
    kicks: Vec<OwnedFd>,
    available: [u16; QUEUES],
    messages: u64,
    batches: u64,
    is_closed: bool,
}

impl<'r> Session<'r> {
    fn new(socket: &Path, random: &'r mut Random) -> Session<'r> {
        Session {
            random,
            raw: Raw::connect(socket),
            files: vec![new_memory(MEMORY)],
            kicks: Vec::new(),
            available: [0; QUEUES],
            messages: 0,
            batches: 0,
            is_closed: false,
        }
    }

    fn run(&mut self) {
        if self.chance(9) {
            self.raw.negotiate();
            self.set_memory();
            for ring in 0..QUEUES as u32 {
                self.start_ring(ring);
            }
        }
        for _ in 0..self.random.within(0..60) {
            if self.is_closed {
                return;
            }
            self.step();
        }
    }

    /// Returns whether something is done that is done in `tenths` of ten cases.
    fn chance(&mut self, tenths: u64) -> bool {
        self.random.within(0..10) < tenths
    }

    fn step(&mut self) {
        match self.random.within(0..16) {
            0..=5 => self.offer_batch(),
            6 => self.set_memory(),
            7 => self.resize_memory(),
            8 => self.start_any_ring(),
            9 => self.stop_ring(),
            10 => self.change_ring(),
            11 => self.set_descriptor(),
            12 => self.send_any_request(),
            13 => self.write_over_memory(),
            14 => self.kick_any(),
            _ => self.send_garbage(),
        }
    }

    /// Sends a request, and waits until it has been carried out: a question that has an answer in any
    /// case follows it.
    fn call(&mut self, request: u32, body: &[u8], files: &[&OwnedFd]) {
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        self.messages += 1;
        self.raw.send(request, VERSION | NEED_REPLY, body, &files);
        self.raw.send(GET_FEATURES, VERSION, &[], &[]);
        loop {
            match self.raw.receive_any() {
                Some((GET_FEATURES, _)) => return,
                Some(_) => {}
                None => break self.is_closed = true,
            }
        }
    }

    fn set_memory(&mut self) {
        let size =
            [MEMORY, MEMORY, MEMORY, 4096, 100, 0, 1 << 40][self.random.within(0..7) as usize];
        let file = new_memory(MEMORY);
        let fd = OwnedFd::from(file.try_clone().unwrap());
        let odd = self.odd_descriptor();
        let address = if self.chance(8) { 0 } else { self.random.any() };
        let one = [address, size, USER_BASE, 0];
        let two = [MEMORY, MEMORY, USER_BASE + MEMORY, 0];
        match self.random.within(0..4) {
            0 => self.call(SET_MEM_TABLE, &memory_table(&[one, two]), &[&fd, &fd]),
            1 if self.chance(3) => self.call(SET_MEM_TABLE, &memory_table(&[one]), &[&odd]),
            2 if self.chance(3) => {
                self.call(ADD_MEM_REG, &words(&[&[0], &two[..]].concat()), &[&fd]);
            }
            _ => self.call(SET_MEM_TABLE, &memory_table(&[one]), &[&fd]),
        }
        self.files.push(file);
        self.available = [0; QUEUES];
    }

    fn resize_memory(&mut self) {
        let index = self.random.within(0..self.files.len() as u64) as usize;
        let size = [0, 4096, DATA, STATUS, MEMORY, MEMORY][self.random.within(0..6) as usize];
        self.files[index].set_len(size).unwrap();
    }

    fn start_any_ring(&mut self) {
        let ring = self.random.within(0..QUEUES as u64 + 1) as u32;
        self.start_ring(ring);
    }

    fn start_ring(&mut self, ring: u32) {
        let index = words(&[ring.into()]);
        let kick = new_eventfd();
        self.call(SET_VRING_NUM, &halves(&[ring, SIZE.into()]), &[]);
        self.call(SET_VRING_BASE, &halves(&[ring, 0]), &[]);
        self.call(SET_VRING_ADDR, &addresses(ring), &[]);
        self.call(SET_VRING_CALL, &index, &[&new_eventfd()]);
        self.call(SET_VRING_KICK, &index, &[&kick]);
        self.call(SET_VRING_ENABLE, &halves(&[ring, 1]), &[]);
        self.kicks.push(kick);
    }

    fn stop_ring(&mut self) {
        let ring = self.random.within(0..QUEUES as u64) as u32;
        self.call(GET_VRING_BASE, &halves(&[ring, 0]), &[]);
    }

    /// Sets one thing of a ring, to any value.
    fn change_ring(&mut self) {
        let ring = self.random.within(0..QUEUES as u64) as u32;
        let value = [0, 1, 2, 63, 64, 256, 65_535, u32::MAX][self.random.within(0..8) as usize];
        let mut places = addresses(ring);
        let byte = 8 + self.random.within(0..places.len() as u64 - 8) as usize;
        places[byte] = self.random.any() as u8;
        match self.random.within(0..4) {
            0 => self.call(SET_VRING_NUM, &halves(&[ring, value]), &[]),
            1 => self.call(SET_VRING_BASE, &halves(&[ring, value]), &[]),
            2 => self.call(SET_VRING_ENABLE, &halves(&[ring, value]), &[]),
            _ => self.call(SET_VRING_ADDR, &places, &[]),
        }
    }

    fn set_descriptor(&mut self) {
        let requests = [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, SET_BACKEND_REQ_FD];
        let request = requests[self.random.within(0..4) as usize];
        let ring = self.random.within(0..QUEUES as u64);
        let descriptor = self.odd_descriptor();
        if self.chance(8) {
            self.call(request, &words(&[ring]), &[&descriptor]);
        } else {
            self.call(request, &words(&[ring | 1 << 8]), &[]);
        }
    }

    /// A descriptor of any kind.
    fn odd_descriptor(&mut self) -> OwnedFd {
        let counter = |flags: EventfdFlags, value: u64| {
            let descriptor = eventfd(0, flags | EventfdFlags::CLOEXEC).unwrap();
            rustix::io::write(&descriptor, &value.to_ne_bytes()).unwrap();
            descriptor
        };
        match self.random.within(0..7) {
            0 => new_eventfd(),
            1 => counter(EventfdFlags::empty(), u64::MAX - 1),
            2 => counter(EventfdFlags::SEMAPHORE, 1 << 40),
            3 => std::io::pipe().unwrap().1.into(),
            4 => UnixStream::pair().unwrap().0.into(),
            5 => File::open("/dev/null").unwrap().into(),
            _ => new_memory(4096).into(),
        }
    }

    fn send_any_request(&mut self) {
        let request = self.random.within(0..48) as u32;
        let body: Vec<u8> =
            (0..self.random.within(0..80)).map(|_| self.random.any() as u8).collect();
        let files: Vec<OwnedFd> =
            (0..self.random.within(0..3)).map(|_| self.odd_descriptor()).collect();
        self.call(request, &body, &files.iter().collect::<Vec<_>>());
    }

    fn send_garbage(&mut self) {
        if self.chance(8) {
            return;
        }
        let bytes: Vec<u8> =
            (0..self.random.within(0..40)).map(|_| self.random.any() as u8).collect();
        self.is_closed = true;
        self.raw.send_bytes(&bytes, &[]);
    }

    /// Any bytes over a part of the rings or of what they are about.
    fn write_over_memory(&mut self) {
        let places = [ring_at(0), ring_at(1), 0x2_0000, HEADER, STATUS, DATA];
        let place = places[self.random.within(0..6) as usize] + self.random.within(0..0x2100);
        let bytes: Vec<u8> =
            (0..self.random.within(0..64)).map(|_| self.random.any() as u8).collect();
        self.put(place, &bytes);
    }

    fn kick_any(&self) {
        if let Some(kick) = self.kicks.last() {
            let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
        }
    }

    /// Writes to guest memory, if it is that long: a file that was made shorter stays so.
    fn put(&self, address: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = self.files.last().unwrap();
        if file.metadata().unwrap().len() >= address + bytes.len() as u64 {
            file.write_all_at(bytes, address).unwrap();
        }
    }

    /// Offers requests on a ring, most of which are some.
    fn offer_batch(&mut self) {
        let ring = self.random.within(0..QUEUES as u64) as usize;
        let kinds = [0, 1, 1, 0, 4, 8, 11, 13, self.random.any() as u32];
        let kind = kinds[self.random.within(0..9) as usize];
        let sector = if self.chance(9) { self.random.within(0..60_000) } else { self.random.any() };
        self.put(HEADER, &crate::common::frontend::request_header(kind, sector));
        let chain = self.chain();
        for (index, descriptor) in chain.iter().enumerate() {
            let Descriptor { address, length, flags, next } = *descriptor;
            let mut bytes = words(&[address]);
            bytes.extend(length.to_le_bytes());
            bytes.extend([flags.to_le_bytes(), next.to_le_bytes()].concat());
            self.put(ring_at(ring) + 16 * index as u64, &bytes);
        }
        let count = 1 + self.random.within(0..u64::from(SIZE)) as u16;
        for _ in 0..count {
            let slot = self.available[ring] % SIZE;
            let head = if self.chance(9) { 0u16 } else { self.random.any() as u16 };
            self.put(ring_at(ring) + 0x1004 + 2 * u64::from(slot), &head.to_le_bytes());
            self.available[ring] = self.available[ring].wrapping_add(1);
        }
        self.put(ring_at(ring) + 0x1002, &self.available[ring].to_le_bytes());
        for kick in &self.kicks {
            let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
        }
        self.batches += 1;
    }

    fn chain(&mut self) -> Vec<Descriptor> {
        let length =
            [512, 4096, 4096, 65_536, 1 << 22, u32::MAX][self.random.within(0..6) as usize];
        let address = if self.chance(9) { DATA } else { self.random.any() };
        let data =
            if self.chance(5) { readable(address, length) } else { writable(address, length) };
        let chain = vec![readable(HEADER, 16), data, writable(STATUS, 1)];
        let mut chain = crate::common::frontend::linked(0, chain);
        if self.chance(2) {
            let index = self.random.within(0..3) as usize;
            chain[index].flags = self.random.any() as u16;
            chain[index].next = self.random.within(0..u64::from(SIZE) + 1) as u16;
        }
        chain
    }
}
