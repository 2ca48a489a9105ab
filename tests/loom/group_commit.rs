//! Group commit: queues that store and share syncs.
//!
//! The library's own type, as [`writeback`](crate::writeback) has it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::Mutex as PageLock;
use loom::thread;

use crate::writeback::shared_sync::SharedSync;

/// A file of one page, of which each thread stores to a bit of its own; as in the model of write-back, the lock
/// stands for the order of stores and write-protection.
struct Disk {
    syncs: SharedSync,
    page: PageLock<u32>,
    durable: PageLock<u32>,
}

impl Disk {
    fn store(&self, bit: u32) {
        *self.page.lock().unwrap() |= bit;
    }

    fn is_durable(&self, bit: u32) -> bool {
        *self.durable.lock().unwrap() & bit != 0
    }

    /// What a sync does.
    fn write_back(&self) {
        let written = *self.page.lock().unwrap();
        *self.durable.lock().unwrap() |= written;
    }

    fn sync(&self) {
        self.sync_from(self.syncs.next());
    }

    fn sync_from(&self, wanted: u64) {
        let synced: Result<(), ()> = self.syncs.share_from(wanted, || {
            self.write_back();
            Ok(())
        });
        synced.expect("no sync fails");
    }
}

/// Runs `one` and `other` in a thread each, in every interleaving, or those with so many preemptions.
fn explore(
    preemptions: Option<usize>,
    name: &str,
    one: impl Fn(&Disk) + Send + Sync + Copy + 'static,
    other: impl Fn(&Disk) + Send + Sync + Copy + 'static,
) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let (page, durable) = (PageLock::new(0), PageLock::new(0));
        let disk = Arc::new(Disk { syncs: SharedSync::new(), page, durable });
        let others = disk.clone();
        let thread = thread::spawn(move || other(&others));
        one(&disk);
        thread.join().unwrap();
    });
    println!("model {name}: interleavings={}", count.load(Ordering::Relaxed));
}

fn store_and_sync(disk: &Disk, bit: u32) {
    disk.store(bit);
    disk.sync();
    assert!(disk.is_durable(bit), "the sync has returned");
}

#[test]
fn a_shared_sync_covers_what_its_callers_have_stored() {
    let twice = |disk: &Disk| [1, 2].into_iter().for_each(|bit| store_and_sync(disk, bit));
    explore(None, "group commit of two queues", twice, |disk| store_and_sync(disk, 4));
    let others = |disk: &Disk| [4, 8].into_iter().for_each(|bit| store_and_sync(disk, bit));
    explore(Some(3), "group commit of two queues, twice each", twice, others);
}

/// The number that is noted after a store says when the store is durable, by whichever sync.
#[test]
fn a_store_is_durable_when_the_sync_of_the_number_noted_after_it_has_completed() {
    let stores = |disk: &Disk| {
        disk.store(1);
        let number = disk.syncs.next();
        for _ in 0..2 {
            if disk.syncs.has_completed(number) {
                assert!(disk.is_durable(1), "its sync has completed");
            }
            thread::yield_now();
        }
    };
    let syncs = |disk: &Disk| [2, 4].into_iter().for_each(|bit| store_and_sync(disk, bit));
    explore(Some(3), "a note of the next sync", stores, syncs);
}

#[test]
fn a_sync_that_fails_is_no_ones() {
    let fails = |disk: &Disk| {
        disk.store(1);
        let failed = disk.syncs.share(|| Err(()));
        assert!(failed.is_err() || disk.is_durable(1));
    };
    explore(None, "group commit that fails", fails, |disk| store_and_sync(disk, 2));
}

/// Runs a model that has to fail.
fn catches(name: &str, model: impl FnOnce()) {
    let caught = catch_unwind(AssertUnwindSafe(model));
    assert!(caught.is_err(), "mutant {name} lives");
    println!("mutant {name} is caught");
}

#[test]
fn a_sync_that_had_begun_before_is_shared_by_no_one() {
    let joins = |disk: &Disk| {
        disk.store(1);
        disk.sync_from(disk.syncs.next() - 1);
        assert!(disk.is_durable(1), "the sync has returned");
    };
    catches("BegunSyncJoined", || {
        explore(None, "a begun sync is joined", joins, |disk| store_and_sync(disk, 2));
    });
}

#[test]
fn a_number_that_is_noted_before_the_store_is_caught() {
    let notes = |disk: &Disk| {
        let number = disk.syncs.next();
        disk.store(1);
        if disk.syncs.has_completed(number) {
            assert!(disk.is_durable(1), "its sync has completed");
        }
    };
    catches("NotedBeforeStore", || {
        explore(None, "a note before the store", notes, |disk| store_and_sync(disk, 2));
    });
}
