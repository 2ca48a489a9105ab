//! Live migration, as a frontend sees it: which pages of guest memory the device has written.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::daemon::{Daemon, make_namespace};
use common::frontend::{T_FLUSH, T_GET_ID, T_IN, T_OUT, readable, writable};
use common::raw::{
    DATA, GET_FEATURES, GET_PROTOCOL_FEATURES, GET_VRING_BASE, MEMORY, RawGuest, SET_FEATURES,
    SET_MEM_TABLE, SET_VRING_ADDR, STATUS, USER_BASE, VERSION, addresses, halves, memory_table,
    new_eventfd, new_memory, ring_at, words,
};

const SET_LOG_BASE: u32 = 6;
const SET_DEVICE_STATE_FD: u32 = 42;
const CHECK_DEVICE_STATE: u32 = 43;
const F_LOG_ALL: u64 = 1 << 26;
const LOG_SHMFD: u64 = 1 << 1;
const DEVICE_STATE: u64 = 1 << 19;
const PAGE: u64 = 4096;
/// A bit for each page of guest memory.
const LOG_SIZE: u64 = MEMORY / PAGE / 8;
/// Where a ring has its used ring, from its start.
const USED: u64 = 0x2000;

struct Disk {
    _folder: tempfile::TempDir,
    daemon: Daemon,
}

impl Disk {
    fn new() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        Disk { daemon: Daemon::start(&file, &[]), _folder: folder }
    }

    fn guest(&self, rings: usize) -> RawGuest {
        RawGuest::start(&self.daemon.socket, rings)
    }
}

fn log_of(size: u64) -> File {
    new_memory(size)
}

fn set_log(guest: &RawGuest, log: &File, size: u64, offset: u64) -> Option<Vec<u8>> {
    guest.raw.send(SET_LOG_BASE, VERSION, &words(&[size, offset]), &[log.as_fd()]);
    guest.raw.receive()
}

/// Logs in `log` from now on, as QEMU does.
fn log_in(guest: &RawGuest, log: &File) {
    assert_eq!(set_log(guest, log, LOG_SIZE, 0), Some(vec![0; 8]));
}

fn switch(guest: &RawGuest, is_on: bool) {
    let offered = guest.raw.ask_number(GET_FEATURES);
    assert_ne!(offered & F_LOG_ALL, 0);
    let features = if is_on { offered } else { offered & !F_LOG_ALL };
    assert!(guest.raw.call(SET_FEATURES, &words(&[features]), &[]));
    for ring in 0..guest.kicks.len() as u32 {
        let mut addresses = addresses(ring);
        addresses[4..8].copy_from_slice(&u32::from(is_on).to_ne_bytes());
        assert!(guest.raw.call(SET_VRING_ADDR, &addresses, &[]));
    }
}

/// The pages whose bits are set.
fn pages(log: &File) -> Vec<u64> {
    let mut bits = vec![0; LOG_SIZE as usize];
    log.read_exact_at(&mut bits, 0).unwrap();
    (0..MEMORY / PAGE).filter(|page| bits[*page as usize / 8] >> (page % 8) & 1 == 1).collect()
}

fn clear(log: &File) {
    log.write_all_at(&vec![0; LOG_SIZE as usize], 0).unwrap();
}

#[test]
fn each_request_logs_the_pages_that_it_has_stored_to() {
    let disk = Disk::new();
    let mut guest = disk.guest(1);
    assert_ne!(guest.raw.ask_number(GET_PROTOCOL_FEATURES) & LOG_SHMFD, 0);
    let log = log_of(LOG_SIZE);
    guest.put(DATA, &[1; 8192]);
    assert_eq!(guest.request(0, T_OUT, 0, Some(readable(DATA, 8192))), 0);
    log_in(&guest, &log);
    assert_eq!(guest.request(0, T_IN, 0, Some(writable(DATA, 4096))), 0);
    assert!(pages(&log).is_empty(), "the log has not been switched on");
    switch(&guest, true);
    let (status, used) = (STATUS / PAGE, (ring_at(0) + USED) / PAGE);
    let data = DATA / PAGE;
    for (kind, buffer, expected) in [
        (T_IN, Some(writable(DATA, 8192)), vec![used, status, data, data + 1]),
        // Part of a sector, over two pages.
        (T_IN, Some(writable(DATA + 0xf00, 512)), vec![used, status, data, data + 1]),
        (T_OUT, Some(readable(DATA, 8192)), vec![used, status]),
        (T_FLUSH, None, vec![used, status]),
        (T_GET_ID, Some(writable(DATA + 0x3000, 20)), vec![used, status, data + 3]),
        // A request that fails tells so.
        (77, None, vec![used, status]),
    ] {
        clear(&log);
        guest.request(0, kind, 0, buffer);
        assert!(guest.raw.call(SET_VRING_ADDR, &addresses(0), &[]));
        assert_eq!(pages(&log), expected, "request {kind}");
    }
    switch(&guest, false);
    clear(&log);
    assert_eq!(guest.request(0, T_IN, 0, Some(writable(DATA, 4096))), 0);
    assert!(pages(&log).is_empty(), "the log has been switched off");
}

/// Reads of one ring, all at once, each to a page of its own.
fn read_all(guest: &mut RawGuest, first: u64, count: u16) {
    for number in 0..count {
        let head = 3 * number;
        let header = 0x20_0000 + 32 * u64::from(number);
        guest.put(header, &common::frontend::request_header(T_IN, 0));
        let data = writable(first + PAGE * u64::from(number), 4096);
        let status = writable(STATUS + u64::from(number), 1);
        let chain = vec![readable(header, 16), data, status];
        guest.put_chain(0, head, &common::frontend::linked(head, chain));
    }
    let heads: Vec<u16> = (0..count).map(|number| 3 * number).collect();
    guest.offer(0, &heads);
}

/// A migration as QEMU carries it out, whose copy lacks nothing: each round takes the bits, and copies the
/// pages of those.
#[test]
fn what_is_copied_by_the_log_is_all_that_the_guest_has() {
    const BATCH: u16 = 20;
    let disk = Disk::new();
    for round in 0..20u8 {
        let mut guest = disk.guest(1);
        guest.put(DATA, &[round + 1; 4096]);
        assert_eq!(guest.request(0, T_OUT, 0, Some(readable(DATA, 4096))), 0);
        let (first, second) = (log_of(LOG_SIZE), log_of(LOG_SIZE));
        // The log is switched on, and replaced, while requests are carried out.
        let mut copy = vec![0; MEMORY as usize];
        read_all(&mut guest, DATA, BATCH);
        log_in(&guest, &first);
        switch(&guest, true);
        guest.memory.read_exact_at(&mut copy, 0).unwrap();
        guest.wait(0);
        read_all(&mut guest, DATA + 0x40_0000, BATCH);
        log_in(&guest, &second);
        let done = pages(&first);
        guest.wait(0);
        assert_eq!(pages(&first), done, "a bit was set in the log that was replaced");
        read_all(&mut guest, DATA + 0x80_0000, BATCH);
        // The guest is stopped in the middle.
        let base = guest.raw.ask(GET_VRING_BASE, &halves(&[0, 0])).unwrap();
        let base = u32::from_ne_bytes(base[4..].try_into().unwrap());
        assert_eq!(u32::from(guest.used_index(0)), base);
        for page in done.into_iter().chain(pages(&second)) {
            let range = (page * PAGE) as usize..((page + 1) * PAGE) as usize;
            copy[range].copy_from_slice(&guest.get(page * PAGE, PAGE as usize));
        }
        // What the driver itself stores is none of the device's; here, it is the rings and the headers.
        let (device, whole) = (guest.get(0, MEMORY as usize), copy);
        for page in 0..MEMORY / PAGE {
            let range = (page * PAGE) as usize..((page + 1) * PAGE) as usize;
            let is_driver = [0x1_0000, 0x1_1000, 0x20_0000].contains(&(page * PAGE));
            assert!(is_driver || device[range.clone()] == whole[range], "page {page:#x} is lost");
        }
    }
}

#[test]
fn logs_are_replaced_under_load_and_no_bit_goes_to_an_old_one() {
    let disk = Disk::new();
    let mut guest = disk.guest(1);
    let log = log_of(LOG_SIZE);
    log_in(&guest, &log);
    switch(&guest, true);
    let stop = AtomicBool::new(false);
    let raw = common::raw::Raw { stream: guest.raw.stream.try_clone().unwrap() };
    let mut seen = 0;
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0u32;
            while !stop.load(Ordering::Relaxed) {
                read_all(&mut guest, DATA, 20);
                guest.wait(0);
                rounds += 1;
            }
            rounds
        });
        let mut old = log;
        for _ in 0..200 {
            let new = log_of(LOG_SIZE);
            raw.send(SET_LOG_BASE, VERSION, &words(&[LOG_SIZE, 0]), &[new.as_fd()]);
            assert_eq!(raw.receive(), Some(vec![0; 8]));
            seen += usize::from(!pages(&old).is_empty());
            clear(&old);
            thread::yield_now();
            assert!(pages(&old).is_empty());
            old = new;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 0);
    });
    assert!(seen > 0, "no log has ever seen a store");
}

#[test]
fn memory_that_is_added_later_is_logged() {
    let disk = Disk::new();
    let guest = disk.guest(1);
    let log = log_of(LOG_SIZE);
    log_in(&guest, &log);
    switch(&guest, true);
    // The same memory again, as QEMU shares it while it migrates.
    let table = memory_table(&[[0, MEMORY, USER_BASE, 0]]);
    assert!(guest.raw.call(SET_MEM_TABLE, &table, &[guest.memory.as_fd()]));
    let mut guest = guest;
    assert_eq!(guest.request(0, T_IN, 0, Some(writable(DATA, 4096))), 0);
    assert!(pages(&log).contains(&(DATA / PAGE)));
}

#[test]
fn a_log_that_cannot_be_ends_its_connection_alone() {
    let disk = Disk::new();
    for (length, size, offset) in [
        // A byte too few, beyond the file, at no page, nothing, and everything.
        (LOG_SIZE, LOG_SIZE - 1, 0),
        (LOG_SIZE, LOG_SIZE + 1, 0),
        (2 * LOG_SIZE, LOG_SIZE, 1),
        (LOG_SIZE, 0, 0),
        (LOG_SIZE, u64::MAX, 0),
        (LOG_SIZE, LOG_SIZE, u64::MAX - 4095),
    ] {
        let guest = disk.guest(1);
        assert_eq!(set_log(&guest, &log_of(length), size, offset), None, "{size} at {offset}");
    }
    let guest = disk.guest(1);
    let pipe = new_eventfd();
    guest.raw.send(SET_LOG_BASE, VERSION, &words(&[LOG_SIZE, 0]), &[pipe.as_fd()]);
    assert_eq!(guest.raw.receive(), None);
    // Guest memory that outgrows its log.
    let guest = disk.guest(1);
    log_in(&guest, &log_of(LOG_SIZE));
    switch(&guest, true);
    let table = memory_table(&[[PAGE, MEMORY, USER_BASE, 0]]);
    guest.raw.send(SET_MEM_TABLE, VERSION, &table, &[guest.memory.as_fd()]);
    guest.raw.wait_until_closed();
    // A log that shrinks while it is written to.
    let mut guest = disk.guest(1);
    let log = log_of(LOG_SIZE);
    log_in(&guest, &log);
    switch(&guest, true);
    log.set_len(0).unwrap();
    guest.put_request(0, T_IN, 0, Some(writable(DATA, 4096)));
    guest.offer(0, &[0]);
    guest.raw.wait_until_closed();
    let mut guest = disk.guest(1);
    assert_eq!(guest.request(0, T_IN, 0, Some(writable(DATA, 4096))), 0);
}

#[test]
fn the_device_has_no_state_beside_its_rings() {
    let disk = Disk::new();
    let mut guest = disk.guest(1);
    assert_ne!(guest.raw.ask_number(GET_PROTOCOL_FEATURES) & DEVICE_STATE, 0);
    guest.put(DATA, &[9; 4096]);
    assert_eq!(guest.request(0, T_OUT, 0, Some(readable(DATA, 4096))), 0);
    let base = guest.raw.ask(GET_VRING_BASE, &halves(&[0, 0])).unwrap();
    // Saved, and loaded.
    for direction in [0, 1] {
        let (reader, writer) = std::io::pipe().unwrap();
        let pipe = if direction == 0 { writer.as_fd() } else { reader.as_fd() };
        guest.raw.send(SET_DEVICE_STATE_FD, VERSION, &halves(&[direction, 0]), &[pipe]);
        assert_eq!(guest.raw.receive(), Some(0x100u64.to_ne_bytes().to_vec()));
        if direction == 0 {
            drop(writer);
            let mut state = Vec::new();
            std::io::Read::read_to_end(&mut &reader, &mut state).unwrap();
            assert!(state.is_empty());
        }
        assert_eq!(guest.raw.ask_number(CHECK_DEVICE_STATE), 0);
    }
    // The ring goes on where it was.
    assert!(guest.raw.call(common::raw::SET_VRING_BASE, &base, &[]));
    assert!(guest.raw.call(SET_VRING_ADDR, &addresses(0), &[]));
    let kick = &[guest.kicks[0].as_fd()];
    assert!(guest.raw.call(common::raw::SET_VRING_KICK, &words(&[0]), kick));
    assert_eq!(guest.request(0, T_IN, 0, Some(writable(DATA + 0x1000, 4096))), 0);
    assert_eq!(guest.get(DATA + 0x1000, 4096), [9; 4096]);
}
