//! A frontend that sends any bytes and any descriptors, and its guest, whose memory is a file.
//!
//! Nothing here maps the guest's memory, so that the file can be truncated at any time.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::frontend::{Descriptor, linked, readable, request_header, writable};
use super::patience::PATIENCE;

/// Requests of the vhost-user protocol.
pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const SET_VRING_ERR: u32 = 14;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const SET_BACKEND_REQ_FD: u32 = 21;
pub const GET_MAX_MEM_SLOTS: u32 = 36;
pub const ADD_MEM_REG: u32 = 37;

/// Flags of a message: the protocol's version, and that an answer is wanted.
pub const VERSION: u32 = 1;
pub const NEED_REPLY: u32 = 1 << 3;

/// Addresses of the frontend: guest memory begins here.
pub const USER_BASE: u64 = 0x7f00_0000_0000;
/// Bytes of guest memory.
pub const MEMORY: u64 = 16 << 20;
pub const SIZE: u16 = 64;
/// Where a ring has its parts, from the start of the ring.
const RING_SPACE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Buffers of a request.
pub const HEADER: u64 = 0x20_0000;
pub const STATUS: u64 = 0x20_1000;
pub const DATA: u64 = 0x30_0000;

/// A file of `size` bytes that is guest memory.
pub fn new_memory(size: u64) -> File {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

pub fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
}

/// The body of a memory table of `regions`: guest address, size, address of the frontend, offset.
pub fn memory_table(regions: &[[u64; 4]]) -> Vec<u8> {
    let header = halves(&[regions.len() as u32, 0]);
    [header, words(&regions.concat())].concat()
}

/// A connection.
pub struct Raw {
    pub stream: UnixStream,
}

impl Raw {
    pub fn connect(socket: &Path) -> Raw {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Raw { stream }
    }

    /// Sends bytes and descriptors. Returns `false` if the device has closed the connection.
    pub fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let flags = SendFlags::NOSIGNAL;
        sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, flags).is_ok()
    }

    pub fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let header = halves(&[request, flags, body.len() as u32]);
        self.send_bytes(&[&header, body].concat(), fds)
    }

    /// Receives an answer's body. Returns `None` if the device has closed the connection.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.receive_any().map(|(_, body)| body)
    }

    /// As `receive`, with the number of the request that it answers.
    pub fn receive_any(&self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        let mut stream = &self.stream;
        match stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => return None,
        }
        let mut body = vec![0; u32::from_ne_bytes(header[8..].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).ok()?;
        Some((u32::from_ne_bytes(header[..4].try_into().unwrap()), body))
    }

    /// Sends a request that has an answer of its own.
    pub fn ask(&self, request: u32, body: &[u8]) -> Option<Vec<u8>> {
        self.send(request, VERSION, body, &[]);
        self.receive()
    }

    pub fn ask_number(&self, request: u32) -> u64 {
        let body = self.ask(request, &[]).expect("an open connection");
        u64::from_ne_bytes(body.try_into().unwrap())
    }

    /// Sends a request. Returns whether it was carried out, or `None` if the connection is closed.
    pub fn try_call(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Option<bool> {
        self.send(request, VERSION | NEED_REPLY, body, fds);
        self.receive().map(|answer| answer == 0u64.to_ne_bytes())
    }

    /// Sends a request over a connection that stays open. Returns whether it was carried out.
    #[track_caller]
    pub fn call(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.try_call(request, body, fds).expect("an open connection")
    }

    pub fn negotiate(&self) {
        assert!(self.send(SET_OWNER, VERSION, &[], &[]));
        let features = self.ask_number(GET_FEATURES);
        self.send(SET_FEATURES, VERSION, &words(&[features]), &[]);
        let features = self.ask_number(GET_PROTOCOL_FEATURES);
        self.send(SET_PROTOCOL_FEATURES, VERSION, &words(&[features]), &[]);
    }

    /// Waits until the device closes the connection, whatever it says before.
    pub fn wait_until_closed(&self) {
        let mut bytes = [0; 256];
        loop {
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }
}

/// A guest with rings in one region of memory.
pub struct RawGuest {
    pub raw: Raw,
    pub memory: File,
    pub kicks: Vec<OwnedFd>,
    pub calls: Vec<OwnedFd>,
    wants_replies: bool,
    next: Vec<u16>,
}

impl RawGuest {
    /// A guest with a connection, and memory that the device knows.
    pub fn connect(socket: &Path) -> RawGuest {
        let raw = Raw::connect(socket);
        raw.negotiate();
        let memory = new_memory(MEMORY);
        let table = memory_table(&[[0, MEMORY, USER_BASE, 0]]);
        assert!(raw.call(SET_MEM_TABLE, &table, &[memory.as_fd()]));
        RawGuest::on(raw, memory, true)
    }

    /// A guest behind a connection over which `memory` was shared. `wants_replies`: the connection answers
    /// each request.
    pub fn on(raw: Raw, memory: File, wants_replies: bool) -> RawGuest {
        let (kicks, calls, next) = (Vec::new(), Vec::new(), Vec::new());
        RawGuest { raw, memory, kicks, calls, wants_replies, next }
    }

    /// A guest whose only ring was started, with these descriptors, over a connection that answers each request.
    pub fn of_started_ring(raw: Raw, memory: File, kick: OwnedFd, call: OwnedFd) -> RawGuest {
        let mut guest = RawGuest::on(raw, memory, true);
        guest.kicks.push(kick);
        guest.calls.push(call);
        guest.next.push(0);
        guest
    }

    /// The device was reset: rings are started anew.
    pub fn forget_rings(&mut self) {
        self.kicks.clear();
        self.calls.clear();
        self.next.clear();
        self.put(ring_at(0), &vec![0; RING_SPACE as usize * 8]);
    }

    /// As `connect`, and starts `rings` rings.
    pub fn start(socket: &Path, rings: usize) -> RawGuest {
        let mut guest = RawGuest::connect(socket);
        for _ in 0..rings {
            guest.start_next_ring(new_eventfd(), new_eventfd());
        }
        guest
    }

    /// Starts the next ring with these descriptors.
    pub fn start_next_ring(&mut self, kick: OwnedFd, call: OwnedFd) {
        self.start_ring_at(kick, call, 0, 0);
    }

    /// Stops a ring; returns the index of its next request.
    pub fn stop_ring(&self, ring: u32) -> u32 {
        let answer = self.raw.ask(GET_VRING_BASE, &halves(&[ring, 0])).expect("an open connection");
        u32::from_ne_bytes(answer[4..].try_into().unwrap())
    }

    /// Starts the next ring where one was stopped, in the same memory: `base` is the index of its next request,
    /// and `offered` that of the next that the guest offers.
    pub fn restore_next_ring(&mut self, base: u32, offered: u16) {
        self.start_ring_at(new_eventfd(), new_eventfd(), base, offered);
    }

    /// Sets ring 0 up, at its beginning, and does not enable it; returns its number.
    pub fn set_up_ring_anew(&mut self) -> u32 {
        self.set_up(0, 0, &new_eventfd(), &new_eventfd());
        0
    }

    /// The same guest, whose rings were all stopped, over the same connection.
    pub fn with_rings_stopped(self) -> RawGuest {
        RawGuest::on(self.raw, self.memory, self.wants_replies)
    }

    fn set_up(&self, ring: u32, base: u32, kick: &OwnedFd, call: &OwnedFd) {
        assert!(self.tell(SET_VRING_NUM, &halves(&[ring, SIZE.into()]), &[]));
        assert!(self.tell(SET_VRING_BASE, &halves(&[ring, base]), &[]));
        assert!(self.tell(SET_VRING_ADDR, &addresses(ring), &[]));
        let index = words(&[u64::from(ring)]);
        assert!(self.tell(SET_VRING_CALL, &index, &[call.as_fd()]));
        assert!(self.tell(SET_VRING_KICK, &index, &[kick.as_fd()]));
    }

    fn start_ring_at(&mut self, kick: OwnedFd, call: OwnedFd, base: u32, offered: u16) {
        let ring = self.kicks.len() as u32;
        self.set_up(ring, base, &kick, &call);
        assert!(self.tell(SET_VRING_ENABLE, &halves(&[ring, 1]), &[]));
        self.kicks.push(kick);
        self.calls.push(call);
        self.next.push(offered);
    }

    /// How many requests the guest has offered in a ring.
    pub fn offered(&self, ring: usize) -> u16 {
        self.next[ring]
    }

    /// Sends a request. Returns `false` if the device answers that it was not carried out.
    fn tell(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        if self.wants_replies {
            self.raw.call(request, body, fds)
        } else {
            self.raw.send(request, VERSION, body, fds)
        }
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address).unwrap();
    }

    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    pub fn put_descriptor(&self, table: u64, index: u16, descriptor: Descriptor) {
        let Descriptor { address, length, flags, next } = descriptor;
        let mut bytes = words(&[address]);
        bytes.extend(length.to_le_bytes());
        bytes.extend([flags.to_le_bytes(), next.to_le_bytes()].concat());
        self.put(table + 16 * u64::from(index), &bytes);
    }

    /// Puts a chain into a ring's table from `head` on.
    pub fn put_chain(&self, ring: usize, head: u16, chain: &[Descriptor]) {
        for (descriptor, index) in chain.iter().zip(head..) {
            self.put_descriptor(ring_at(ring), index, *descriptor);
        }
    }

    /// Makes chains available, and kicks.
    pub fn offer(&mut self, ring: usize, heads: &[u16]) {
        let available = ring_at(ring) + AVAILABLE;
        for head in heads {
            let next = &mut self.next[ring];
            let slot = available + 4 + 2 * u64::from(*next % SIZE);
            *next = next.wrapping_add(1);
            self.put(slot, &head.to_le_bytes());
        }
        self.put(available + 2, &self.next[ring].to_le_bytes());
        self.kick(ring);
    }

    pub fn kick(&self, ring: usize) {
        rustix::io::write(&self.kicks[ring], &1u64.to_ne_bytes()).unwrap();
    }

    pub fn used_index(&self, ring: usize) -> u16 {
        let bytes = self.get(ring_at(ring) + USED + 2, 2);
        u16::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Waits until everything that was offered is completed.
    #[track_caller]
    pub fn wait(&self, ring: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.used_index(ring) != self.next[ring] {
            assert!(Instant::now() < deadline, "no completion on ring {ring}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// The chain of a request: header, `data`, status.
    pub fn put_request(&self, ring: usize, kind: u32, sector: u64, data: Option<Descriptor>) {
        self.put(HEADER, &request_header(kind, sector));
        self.put(STATUS, &[0xee]);
        let mut chain = vec![readable(HEADER, 16)];
        chain.extend(data);
        chain.push(writable(STATUS, 1));
        self.put_chain(ring, 0, &linked(0, chain));
    }

    /// Carries a request out; returns its status.
    #[track_caller]
    pub fn request(&mut self, ring: usize, kind: u32, sector: u64, data: Option<Descriptor>) -> u8 {
        self.put_request(ring, kind, sector, data);
        self.offer(ring, &[0]);
        self.wait(ring);
        self.get(STATUS, 1)[0]
    }
}

/// Where a ring begins in guest memory.
pub fn ring_at(ring: usize) -> u64 {
    0x1_0000 + ring as u64 * RING_SPACE
}

/// The body of `SET_VRING_ADDR` for a ring where it is.
pub fn addresses(ring: u32) -> Vec<u8> {
    let start = USER_BASE + ring_at(ring as usize);
    let parts = words(&[start, start + USED, start + AVAILABLE, 0]);
    [halves(&[ring, 0]), parts].concat()
}
