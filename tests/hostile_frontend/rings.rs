//! Rings that are changed while they run, and batches that have no end.

use std::os::fd::AsFd;

use crate::common::frontend::{
    Descriptor, INDIRECT, NEXT, OK, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES, readable, writable,
};
use crate::common::raw::*;
use crate::common::usage::Usage;
use crate::setup::House;

#[test]
fn addresses_of_a_running_ring_do_not_move_its_indexes_back() {
    let house = House::new();
    let mut guest = house.guest(1);
    for _ in 0..100 {
        assert_eq!(guest.request(0, T_FLUSH, 0, None), OK);
        // QEMU sends it to say that changes of the used ring are logged.
        assert!(guest.raw.call(SET_VRING_ADDR, &addresses(0), &[]));
    }
    assert_eq!(guest.used_index(0), 100);
    drop(guest);
    house.stands();
}

#[test]
fn the_size_and_the_base_of_a_running_ring_stay() {
    let house = House::new();
    let mut guest = house.guest(1);
    assert_eq!(guest.request(0, T_FLUSH, 0, None), OK);
    assert!(!guest.raw.call(SET_VRING_BASE, &halves(&[0, 0]), &[]));
    assert!(!guest.raw.call(SET_VRING_NUM, &halves(&[0, 8]), &[]));
    assert_eq!(guest.request(0, T_FLUSH, 0, None), OK);
    let base = guest.raw.ask(GET_VRING_BASE, &halves(&[0, 0])).unwrap();
    assert_eq!(base, halves(&[0, 2]));
    assert!(guest.raw.call(SET_VRING_BASE, &halves(&[0, 2]), &[]));
    drop(guest);
    house.stands();
}

#[test]
fn a_stopped_ring_has_no_effect_on_memory() {
    let house = House::new();
    let mut guest = house.guest(2);
    assert_eq!(guest.request(0, T_FLUSH, 0, None), OK);
    guest.raw.ask(GET_VRING_BASE, &halves(&[0, 0])).unwrap();
    guest.put_request(0, T_IN, 0, Some(writable(DATA, 4096)));
    guest.put(DATA, &[0xaa; 4096]);
    guest.offer(0, &[0]);
    // The other ring has been served by the time that this one could have been.
    assert_eq!(guest.raw.ask(GET_VRING_BASE, &halves(&[1, 0])).unwrap(), halves(&[1, 0]));
    assert_eq!((guest.used_index(0), guest.get(DATA, 1)[0]), (1, 0xaa));
    drop(guest);
    house.stands();
}

#[test]
fn descriptors_exchanged_under_load_lose_no_request() {
    let house = House::new();
    let mut guest = house.guest(1);
    for _ in 0..100 {
        guest.put_request(0, T_OUT, 0, Some(readable(DATA, 4096)));
        guest.offer(0, &[0]);
        let (kick, call) = (new_eventfd(), new_eventfd());
        assert!(guest.raw.call(SET_VRING_CALL, &words(&[0]), &[call.as_fd()]));
        assert!(guest.raw.call(SET_VRING_KICK, &words(&[0]), &[kick.as_fd()]));
        guest.kicks[0] = kick;
        guest.wait(0);
    }
    drop(guest);
    house.stands();
}

/// Offers more requests at once than are carried out in a long time.
fn offer_long_batch(guest: &mut RawGuest) {
    // 64 times the whole disk of 32 MiB, in chains of which each covers it several times.
    let segment = [&0u64.to_le_bytes()[..], &60_000u32.to_le_bytes(), &0u32.to_le_bytes()].concat();
    guest.put(DATA, &segment);
    guest.put_request(0, T_WRITE_ZEROES, 0, Some(readable(DATA, 16)));
    guest.offer(0, &[0; SIZE as usize]);
}

#[test]
fn a_long_batch_is_interrupted_by_the_end_of_the_connection() {
    let house = House::new();
    for _ in 0..3 {
        let mut guest = house.guest(1);
        offer_long_batch(&mut guest);
        drop(guest);
        // The next frontend is served.
        assert_eq!(house.guest(1).request(0, T_FLUSH, 0, None), OK);
    }
    house.stands();
}

#[test]
fn a_long_batch_goes_on_where_the_ring_was_stopped() {
    let house = House::new();
    let mut guest = house.guest(1);
    offer_long_batch(&mut guest);
    let base = guest.raw.ask(GET_VRING_BASE, &halves(&[0, 0])).unwrap();
    let next = u32::from_ne_bytes(base[4..].try_into().unwrap());
    // What was taken is completed, and the next one that runs takes the rest.
    assert_eq!(next, u32::from(guest.used_index(0)));
    let kick = &guest.kicks[0];
    assert!(guest.raw.call(SET_VRING_BASE, &base, &[]));
    assert!(guest.raw.call(SET_VRING_KICK, &words(&[0]), &[kick.as_fd()]));
    guest.kick(0);
    guest.wait(0);
    drop(guest);
    house.stands();
}

#[test]
fn a_long_batch_does_not_hold_up_the_end_of_the_daemon() {
    let house = House::new();
    let mut guest = house.guest(1);
    offer_long_batch(&mut guest);
    house.ends();
}

#[test]
fn indirect_tables_longer_than_the_queue_take_no_memory() {
    let house = House::new();
    let mut guest = house.guest(4);
    for ring in 0..4 {
        assert_eq!(guest.request(ring, T_FLUSH, 0, None), OK);
    }
    let before = Usage::of(house.daemon.pid());
    // As many descriptors as fit, each of which is linked to the next.
    let table = 0x40_0000;
    let count = 65_535u16;
    for index in 0..count - 1 {
        let flags = if index == 0 { NEXT } else { NEXT | 2 };
        let descriptor = Descriptor { address: DATA, length: 16, flags, next: index + 1 };
        guest.put_descriptor(table, index, descriptor);
    }
    for ring in 0..4 {
        let length = u32::from(count) * 16;
        let chain = [Descriptor { address: table, length, flags: INDIRECT, next: 0 }];
        guest.put_chain(ring, 0, &chain);
        guest.offer(ring, &[0]);
        guest.wait(ring);
        assert_eq!(guest.request(ring, T_FLUSH, 0, None), OK);
    }
    let after = Usage::of(house.daemon.pid());
    assert!(after.anonymous_kib < before.anonymous_kib + 4096, "{before:?} {after:?}");
    drop(guest);
    house.stands();
}
