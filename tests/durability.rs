//! When the medium is synced: at a flush, at every write if the guest wants so, and never in between.

mod common;

use std::sync::atomic::Ordering;

use common::counting::{Ledger, with_disk};
use common::frontend::*;

#[test]
fn a_write_back_disk_is_synced_by_flushes_alone() {
    with_disk(u64::MAX, |driver, ledger| {
        for _ in 0..10 {
            assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        }
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 0);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
        driver.read(0, 0, 512);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_guest_that_chooses_write_through_has_every_write_synced() {
    with_disk(u64::MAX, |driver, ledger| {
        driver.set_config(32, &[0]).unwrap();
        assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
        assert_eq!(driver.clear(T_WRITE_ZEROES, &[(0, 1, 0)]), OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
        driver.read(0, 0, 512);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
        driver.set_config(32, &[1]).unwrap();
        assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
    });
}

/// The worker does not come to rest in between.
#[test]
fn a_guest_that_chooses_write_through_while_it_writes_is_heard() {
    with_disk(u64::MAX, |driver, ledger| {
        for index in 0..2u16 {
            let place = BUFFERS + u64::from(index) * 0x4000;
            driver.put(place, &request_header(T_OUT, u64::from(index)));
            let chain = vec![
                readable(place, 16),
                readable(place + 0x1000, 512),
                writable(place + 0x3000, 1),
            ];
            driver.put_chain(0, index * 3, &linked(index * 3, chain));
        }
        let barrier = Ledger::stop_next(&ledger.next_write);
        driver.offer(0, 0);
        driver.kick(0);
        barrier.wait();
        // The first write is being carried out; what it will wait for is its own business.
        driver.set_config(32, &[0]).unwrap();
        driver.offer(0, 3);
        barrier.wait();
        driver.wait_used(0);
        driver.wait_used(0);
        assert!(ledger.syncs.load(Ordering::SeqCst) > 0, "the second write was not synced");
    });
}

/// VIRTIO 1.2, 5.2.5.2: without FLUSH, there is nobody to make writes durable later.
#[test]
fn a_driver_that_cannot_flush_has_every_write_synced() {
    for (wanted, syncs) in [(0, 1), (BLK_F_FLUSH, 0), (BLK_F_CONFIG_WCE, 0)] {
        with_disk(wanted, |driver, ledger| {
            assert_eq!(driver.write(0, 0, &[1; 512]), OK);
            assert_eq!(ledger.syncs.load(Ordering::SeqCst), syncs, "{wanted:#x}");
        });
    }
}

#[test]
fn a_sync_that_fails_fails_the_flush_or_the_write_that_needed_it() {
    with_disk(u64::MAX, |driver, ledger| {
        ledger.sync_fails.store(true, Ordering::SeqCst);
        assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, IOERR);
        driver.set_config(32, &[0]).unwrap();
        assert_eq!(driver.write(0, 0, &[1; 512]), IOERR);
        assert_eq!(driver.read(0, 0, 512), [1; 512]);
        ledger.sync_fails.store(false, Ordering::SeqCst);
        assert_eq!(driver.write(0, 0, &[2; 512]), OK);
    });
}
