//! A flush takes its time, and the queue goes on: what comes after it is carried out meanwhile, and
//! completed after it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::counting::{Ledger, with_disk};
use common::frontend::*;
use common::patience::PATIENCE;

/// Descriptors that a request takes here.
const CHAIN: u16 = 3;

/// Where request `number` has its header, its data and its status byte.
fn place(number: u16) -> u64 {
    BUFFERS + u64::from(number) * 0x4000
}

/// Offers a flush.
fn offer_flush(driver: &mut Driver, number: u16) {
    driver.put(place(number), &request_header(T_FLUSH, 0));
    let chain = vec![readable(place(number), 16), writable(place(number) + 0x3000, 1)];
    offer(driver, number, chain);
}

/// Offers a write of sector `sector`.
fn offer_write(driver: &mut Driver, number: u16, sector: u64) {
    driver.put(place(number), &request_header(T_OUT, sector));
    let chain = vec![
        readable(place(number), 16),
        readable(place(number) + 0x1000, 512),
        writable(place(number) + 0x3000, 1),
    ];
    offer(driver, number, chain);
}

fn offer(driver: &mut Driver, number: u16, chain: Vec<Descriptor>) {
    driver.put(place(number) + 0x3000, &[0xee]);
    driver.put_chain(0, number * CHAIN, &linked(number * CHAIN, chain));
    driver.offer(0, number * CHAIN);
    driver.kick(0);
}

/// The status byte of request `number`, which is the next to be completed.
fn wait(driver: &mut Driver, number: u16) -> u8 {
    assert_eq!(driver.wait_used(0).0, u32::from(number * CHAIN), "out of order");
    driver.get(place(number) + 0x3000, 1)[0]
}

fn wait_until(counter: &AtomicU32, count: u32) {
    wait_for(|| counter.load(Ordering::SeqCst) >= count);
}

fn wait_for(has_come: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !has_come() {
        assert!(Instant::now() < deadline, "nothing happens");
        std::thread::yield_now();
    }
}

/// Offers a flush, and after it `writes` writes, and comes back once all of them are carried out, while
/// the flush goes on.
fn flush_and_write(driver: &mut Driver, ledger: &Ledger, writes: u16) -> Arc<std::sync::Barrier> {
    let gate = Ledger::stop_next(&ledger.next_sync);
    offer_flush(driver, 0);
    gate.wait();
    for number in 1..=writes {
        offer_write(driver, number, number.into());
    }
    wait_until(&ledger.writes, writes.into());
    gate
}

#[test]
fn what_comes_after_a_flush_is_carried_out_meanwhile_and_completed_after_it() {
    with_disk(u64::MAX, |driver, ledger| {
        let gate = flush_and_write(driver, ledger, 5);
        assert_eq!((driver.used_index(0), ledger.syncs.load(Ordering::SeqCst)), (0, 0));
        gate.wait();
        for number in 0..=5 {
            assert_eq!(wait(driver, number), OK, "{number}");
        }
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn flushes_that_wait_share_a_sync_that_begins_after_them() {
    with_disk(u64::MAX, |driver, ledger| {
        let gate = flush_and_write(driver, ledger, 1);
        offer_flush(driver, 2);
        offer_flush(driver, 3);
        offer_write(driver, 4, 4);
        wait_until(&ledger.writes, 2);
        gate.wait();
        for number in 0..=4 {
            assert_eq!(wait(driver, number), OK, "{number}");
        }
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_sync_that_fails_is_the_failure_of_its_flush_alone() {
    with_disk(u64::MAX, |driver, ledger| {
        let gate = flush_and_write(driver, ledger, 1);
        ledger.sync_fails.store(true, Ordering::SeqCst);
        gate.wait();
        assert_eq!([wait(driver, 0), wait(driver, 1)], [IOERR, OK]);
        ledger.sync_fails.store(false, Ordering::SeqCst);
        offer_flush(driver, 2);
        assert_eq!(wait(driver, 2), OK);
    });
}

/// The frontend goes on, or lets another back end go on, where the ring was stopped.
#[test]
fn a_ring_that_is_stopped_completes_its_flush_first() {
    with_disk(u64::MAX, |driver, ledger| {
        let gate = flush_and_write(driver, ledger, 3);
        let opening = std::thread::spawn(move || gate.wait());
        assert_eq!(driver.stop_queue(0), 4);
        assert_eq!((driver.used_index(0), ledger.syncs.load(Ordering::SeqCst)), (4, 1));
        opening.join().unwrap();
    });
}

#[test]
fn a_server_whose_frontend_leaves_completes_the_flush_first() {
    let (mut memory, mut opening) = (None, None);
    with_disk(u64::MAX, |driver, ledger| {
        let gate = flush_and_write(driver, ledger, 3);
        opening = Some(std::thread::spawn(move || gate.wait()));
        memory = Some(driver.memory.clone());
    });
    opening.unwrap().join().unwrap();
    assert_eq!(used_index_in(&memory.unwrap(), 0), 4);
}

/// Completions that wait for a flush take room: no more than a ring has.
#[test]
fn a_guest_that_offers_more_than_its_ring_holds_is_not_served_beyond() {
    with_disk(u64::MAX, |driver, ledger| {
        let gate = flush_and_write(driver, ledger, 1);
        // The same write again and again: as many as there is room for behind the first two.
        let room = QUEUE_SIZE - 2;
        (0..room).for_each(|_| driver.offer(0, CHAIN));
        driver.kick(0);
        let most = 1 + u32::from(room);
        wait_until(&ledger.writes, most);
        (0..50).for_each(|_| driver.offer(0, CHAIN));
        driver.kick(0);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(ledger.writes.load(Ordering::SeqCst), most);
        gate.wait();
        // The flush, and all writes.
        wait_for(|| driver.used_index(0) == 1 + most as u16 + 50);
        assert_eq!(ledger.writes.load(Ordering::SeqCst), most + 50);
    });
}
