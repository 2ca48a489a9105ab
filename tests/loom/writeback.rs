//! Write-back to the storage device: queues that store and sync.
//!
//! The library does not offer it to others, so that its source is compiled into the models.

#[allow(dead_code, reason = "not all of it is modelled")]
#[path = "../../src/pmem/writeback.rs"]
mod library;
#[allow(dead_code, reason = "not all of it is modelled")]
#[path = "../../src/pmem/shared_sync.rs"]
pub mod shared_sync;
#[allow(dead_code, reason = "not all of it is modelled")]
#[path = "../../src/pmem/sync.rs"]
mod sync;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::Mutex as PageLock;
use loom::thread;
use nix::errno::Errno;

use library::Writeback;

/// A file of one page, of which each thread stores to a bit of its own.
///
/// The kernel write-protects a page before it writes it out. A store either precedes that, and is
/// written out, or faults, and then follows it: the lock stands for that order.
struct Disk {
    state: Writeback,
    page: PageLock<u32>,
    durable: PageLock<u32>,
}

impl Disk {
    fn new() -> Arc<Disk> {
        let (page, durable) = (PageLock::new(0), PageLock::new(0));
        Arc::new(Disk { state: Writeback::new(), page, durable })
    }

    fn store(&self, bit: u32) {
        *self.page.lock().unwrap() |= bit;
        self.state.note_store();
    }

    fn is_durable(&self, bit: u32) -> bool {
        *self.durable.lock().unwrap() & bit != 0
    }

    fn sync(&self) -> Result<(), Errno> {
        self.state.sync(|| {
            let written = *self.page.lock().unwrap();
            *self.durable.lock().unwrap() |= written;
            Ok(())
        })
    }

    fn fail(&self) -> Result<(), Errno> {
        self.state.sync(|| Err(Errno::EIO))
    }
}

/// Runs `act` in two threads, each with a bit of its own, in every interleaving.
fn explore(name: &str, act: impl Fn(&Disk, u32) + Send + Sync + Copy + 'static) {
    explore_up_to(None, name, act);
}

/// As [`explore`], with at most so many preemptions.
fn explore_up_to(
    preemptions: Option<usize>,
    name: &str,
    act: impl Fn(&Disk, u32) + Send + Sync + Copy + 'static,
) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let disk = Disk::new();
        let other = disk.clone();
        let thread = thread::spawn(move || act(&other, 1));
        act(&disk, 2);
        thread.join().unwrap();
    });
    println!("model {name}: interleavings={}", count.load(Ordering::Relaxed));
}

#[test]
fn what_was_stored_before_a_sync_is_durable_after_it() {
    explore("write-back of two queues", |disk, bit| {
        disk.store(bit);
        assert_eq!(disk.sync(), Ok(()));
        assert!(disk.is_durable(bit), "the sync has returned");
    });
}

/// In every interleaving, one of the threads stores and syncs a second time.
#[test]
fn what_was_stored_after_a_sync_is_durable_after_the_next() {
    explore("write-back of two queues, one of them twice", |disk, bit| {
        store_and_sync(disk, bit, bit);
    });
}

#[test]
fn two_queues_that_sync_twice_each_share_no_sync_too_many() {
    explore_up_to(Some(3), "write-back of two queues, twice each", |disk, bit| {
        store_and_sync(disk, bit, 2);
    });
}

fn store_and_sync(disk: &Disk, bit: u32, times: u32) {
    for time in 0..times {
        disk.store(bit << (2 * time));
        assert_eq!(disk.sync(), Ok(()));
        assert!(disk.is_durable(bit << (2 * time)), "the sync has returned");
    }
}

/// One of the two syncs fails: a thread that shares it, or syncs after it, is told of that.
#[test]
fn a_sync_that_shares_a_failed_one_has_failed() {
    explore("write-back that fails", |disk, bit| {
        disk.store(bit);
        if bit == 1 {
            let failed = disk.fail();
            assert_eq!(disk.state.failure(), failed.err());
            assert_eq!(disk.sync(), failed, "it is not forgotten");
        } else if disk.sync().is_ok() {
            assert!(disk.is_durable(bit), "it had not failed by then");
        } else {
            assert!(disk.state.has_failed() && disk.state.has_to_sync());
            assert_eq!(disk.sync(), Err(Errno::EIO));
        }
    });
}
