//! Guest memory that is not there, or not for long.

use std::fs::File;
use std::os::fd::AsFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::frontend::{OK, T_FLUSH, T_IN, T_OUT, readable, writable};
use crate::common::raw::*;
use crate::setup::House;

#[test]
fn guest_memory_that_shrinks_ends_its_connection_alone() {
    let house = House::new();
    // Under data that are written and read, under the status byte, under the ring.
    for (length, kind) in [(DATA, T_OUT), (DATA, T_IN), (STATUS, T_FLUSH), (0, T_FLUSH)] {
        let mut guest = house.guest(1);
        let data = match kind {
            T_OUT => Some(readable(DATA, 4096)),
            T_IN => Some(writable(DATA, 4096)),
            _ => None,
        };
        assert_eq!(guest.request(0, kind, 0, data), OK);
        guest.put_request(0, kind, 0, data);
        if length == 0 {
            guest.memory.set_len(0).unwrap();
            guest.kick(0);
        } else {
            // The index is below the end; only the buffers are gone.
            guest.memory.set_len(length).unwrap();
            guest.offer(0, &[0]);
        }
        guest.raw.wait_until_closed();
    }
    house.stands();
}

#[test]
fn memory_that_shrinks_without_a_request_is_survived() {
    let house = House::new();
    for _ in 0..20 {
        let guest = house.guest(2);
        guest.memory.set_len(0).unwrap();
        drop(guest);
    }
    house.stands();
}

#[test]
fn regions_that_are_longer_than_their_files_are_refused() {
    let house = House::new();
    let raw = Raw::connect(&house.victim());
    raw.negotiate();
    let file = new_memory(1 << 20);
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let regions = [
        [0, 2 << 20, USER_BASE, 0],
        [0, 1 << 20, USER_BASE, 4096],
        [0, 1 << 20, USER_BASE, u64::MAX - 4095],
        [0, u64::MAX, USER_BASE, 0],
        [u64::MAX - 4095, 1 << 20, USER_BASE, 0],
        [0, 0, USER_BASE, 0],
    ];
    for region in regions {
        assert!(!raw.call(SET_MEM_TABLE, &memory_table(&[region]), &[file.as_fd()]), "{region:x?}");
        assert!(!raw.call(ADD_MEM_REG, &words(&[&[0], &region[..]].concat()), &[file.as_fd()]));
    }
    let whole = memory_table(&[[0, 1 << 20, USER_BASE, 0]]);
    for no_memory in [null.as_fd(), reader.as_fd(), new_eventfd().as_fd()] {
        assert!(!raw.call(SET_MEM_TABLE, &whole, &[no_memory]));
    }
    // Of two regions, one over the other.
    let two = memory_table(&[[0, 1 << 20, USER_BASE, 0], [4096, 1 << 19, USER_BASE, 0]]);
    assert!(!raw.call(SET_MEM_TABLE, &two, &[file.as_fd(), file.as_fd()]));
    assert!(raw.call(SET_MEM_TABLE, &whole, &[file.as_fd()]));
    drop(raw);
    house.stands();
}

#[test]
fn a_sigbus_that_a_process_sends_changes_nothing() {
    let house = House::new();
    let pid = Pid::from_raw(house.daemon.pid().cast_signed());
    for _ in 0..3 {
        kill(pid, Signal::SIGBUS).unwrap();
    }
    // The handler is still there.
    let mut guest = house.guest(1);
    guest.put_request(0, T_OUT, 0, Some(readable(DATA, 4096)));
    guest.memory.set_len(DATA).unwrap();
    guest.offer(0, &[0]);
    guest.raw.wait_until_closed();
    house.stands();
}
