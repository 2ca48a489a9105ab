//! Descriptors of rings that are no eventfds, or that block.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::common::frontend::{OK, T_FLUSH};
use crate::common::raw::*;
use crate::common::usage::cpu_ticks;
use crate::setup::House;

#[test]
fn what_is_no_eventfd_is_refused_as_the_descriptor_of_a_ring() {
    let house = House::new();
    let guest = RawGuest::connect(&house.victim());
    let (reader, writer) = std::io::pipe().unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let memory = new_memory(4096);
    let none = [reader.as_fd(), writer.as_fd(), one.as_fd(), null.as_fd(), memory.as_fd()];
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for descriptor in none {
            assert!(!guest.raw.call(request, &words(&[0]), &[descriptor]), "{request}");
        }
        assert!(guest.raw.call(request, &words(&[0]), &[new_eventfd().as_fd()]));
    }
    drop(guest);
    house.stands();
}

/// An eventfd whose counter is full, of which a writer waits for a reader.
fn full_and_blocking() -> OwnedFd {
    let descriptor = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&descriptor, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    descriptor
}

#[test]
fn a_call_that_blocks_holds_nothing_up() {
    let house = House::new();
    let mut guest = RawGuest::connect(&house.victim());
    guest.start_next_ring(new_eventfd(), full_and_blocking());
    guest.start_next_ring(new_eventfd(), full_and_blocking());
    for _ in 0..10 {
        for ring in 0..2 {
            assert_eq!(guest.request(ring, T_FLUSH, 0, None), OK);
        }
    }
    for ring in 0..2 {
        let base = guest.raw.ask(GET_VRING_BASE, &halves(&[ring, 0])).unwrap();
        assert_eq!(base, halves(&[ring, 10]));
    }
    drop(guest);
    house.stands();
}

#[test]
fn a_daemon_with_a_call_that_blocks_ends_when_it_is_told_to() {
    let house = House::new();
    let mut guest = RawGuest::connect(&house.victim());
    guest.start_next_ring(new_eventfd(), full_and_blocking());
    assert_eq!(guest.request(0, T_FLUSH, 0, None), OK);
    house.ends();
}

#[test]
fn kicks_that_stay_readable_burn_no_cpu() {
    let mut house = House::new();
    house.leave_other_alone();
    let semaphore = || {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK;
        let descriptor = eventfd(0, flags).unwrap();
        rustix::io::write(&descriptor, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        descriptor
    };
    let guest = RawGuest::connect(&house.victim());
    // A semaphore either is refused, or is read until it is empty, no more than once for each wakeup.
    let is_taken = guest.raw.call(SET_VRING_KICK, &words(&[0]), &[semaphore().as_fd()]);
    if is_taken {
        assert!(guest.raw.call(SET_VRING_ENABLE, &halves(&[0, 1]), &[]));
    }
    // The kick of a ring that is stopped, which the guest goes on to write to.
    let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let aside = kick.try_clone().unwrap();
    let mut other = RawGuest::connect(&house.socket("pmem"));
    other.start_next_ring(kick, new_eventfd());
    other.raw.ask(GET_VRING_BASE, &halves(&[0, 0])).unwrap();
    rustix::io::write(&aside, &1u64.to_ne_bytes()).unwrap();
    // A thread that waits takes no time, however busy the machine is; one that spins takes all it gets.
    let before = cpu_ticks(house.daemon.pid(), "q");
    std::thread::sleep(Duration::from_millis(300));
    let ticks = cpu_ticks(house.daemon.pid(), "q") - before;
    assert!(ticks <= 3, "{ticks} clock ticks");
    drop((guest, other));
    house.stands();
}
