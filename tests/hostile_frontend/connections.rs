//! What connections leave: nothing.

use std::os::fd::AsFd;

use crate::common::frontend::{OK, T_FLUSH};
use crate::common::raw::*;
use crate::common::usage::Usage;
use crate::setup::{House, QUEUES};

/// Anonymous memory may grow by this much, in KiB: the allocator keeps some for each thread that was.
const SLACK: usize = 2048;

/// Uses the daemon in a way, again and again, and sees that nothing is left of it.
#[track_caller]
fn leaves_nothing(house: House, times: usize, mut connection: impl FnMut(&House)) {
    let pid = house.daemon.pid();
    // The first ones have what is done once.
    (0..20).for_each(|_| connection(&house));
    house.serves();
    house.settle();
    let before = Usage::of(pid);
    (0..times).for_each(|_| connection(&house));
    house.serves();
    let after = before.wait_until_no_more(pid);
    assert!(after.anonymous_kib < before.anonymous_kib + SLACK, "{before:?} {after:?}");
    house.stands();
}

#[test]
fn honest_connections_of_a_disk_leave_nothing() {
    leaves_nothing(House::new(), 300, |house| {
        let mut guest = house.guest(QUEUES);
        for ring in 0..QUEUES {
            assert_eq!(guest.request(ring, T_FLUSH, 0, None), OK);
        }
    });
}

#[test]
fn connections_of_persistent_memory_leave_nothing() {
    leaves_nothing(House::new(), 300, |house| {
        drop(RawGuest::start(&house.socket("pmem"), 1));
    });
}

#[test]
fn connections_that_are_given_up_early_leave_nothing() {
    let mut step = 0;
    leaves_nothing(House::new(), 300, move |house| {
        step += 1;
        let raw = Raw::connect(&house.victim());
        if step % 4 > 0 {
            raw.send(GET_FEATURES, VERSION, &[], &[]);
        }
        if step % 4 > 1 {
            raw.send(SET_VRING_KICK, VERSION, &words(&[1]), &[new_eventfd().as_fd()]);
        }
        if step % 4 > 2 {
            raw.send_bytes(&[5, 0, 0], &[new_memory(4096).as_fd(); 30]);
        }
    });
}

#[test]
fn requests_with_descriptors_too_many_leave_nothing() {
    let mut count = 0;
    leaves_nothing(House::new(), 200, move |house| {
        count = (count + 1) % 40;
        let raw = Raw::connect(&house.victim());
        let file = new_memory(4096);
        for request in [GET_FEATURES, SET_VRING_NUM, SET_BACKEND_REQ_FD, SET_MEM_TABLE, 9999] {
            raw.send(request, VERSION, &[0; 8], &vec![file.as_fd(); count]);
        }
    });
}

#[test]
fn memory_slots_are_limited() {
    let house = House::new();
    let raw = Raw::connect(&house.victim());
    raw.negotiate();
    let slots = raw.ask_number(GET_MAX_MEM_SLOTS);
    let file = new_memory(4096);
    let add = |slot: u64| {
        let region = [0, slot << 12, 4096, USER_BASE + (slot << 12), 0];
        raw.call(ADD_MEM_REG, &words(&region), &[file.as_fd()])
    };
    assert!((0..slots).all(add));
    assert!(!add(slots));
    drop(raw);
    house.stands();
}
