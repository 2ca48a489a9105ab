//! What is counted of a queue while it is served.
//!
//! A counter has one writer at a time, the worker behind its lock, so that adding to it is a load and a store.
//! What several threads add to is a [`SharedCounter`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::histogram::{Histogram, bucket_of};

/// A number that one thread at a time adds to, and any may read.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub(in crate::vhost_user) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// What it has come to.
    pub(in crate::vhost_user) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that several threads add to.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// Adds `count`.
    pub(in crate::vhost_user) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What it has come to.
    pub(in crate::vhost_user) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vhost_user) enum Operation {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    Other,
}

impl Operation {
    /// All of them, each at the place of its number.
    pub(in crate::vhost_user) const ALL: [Operation; 6] = [
        Operation::Read,
        Operation::Write,
        Operation::Flush,
        Operation::Discard,
        Operation::WriteZeroes,
        Operation::Other,
    ];

    /// What reports call it.
    pub(in crate::vhost_user) fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
            Operation::WriteZeroes => "write-zeroes",
            Operation::Other => "other",
        }
    }
}

/// What is counted of the requests of one kind.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct OperationCounters {
    /// Requests that were completed, errors among them.
    pub requests: Counter,
    /// Bytes that they have moved.
    pub bytes: Counter,
    /// Requests that were completed with an error.
    pub errors: Counter,
    /// From the ring and back to it.
    pub latency: Histogram,
}

/// The sizes of batches that are told apart: 1, 2, up to 4, up to 8, and so on up to 64.
pub(in crate::vhost_user) const BATCH_SIZES: usize = 7;

/// What is counted of a queue.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct QueueCounters {
    operations: [OperationCounters; Operation::ALL.len()],
    /// Batches by the size that they have at most, as a power of two.
    pub batches: [Counter; BATCH_SIZES],
    /// Fences of the medium.
    pub fences: Counter,
    /// Looks at an empty ring.
    pub polls: Counter,
    /// How often the guest has kicked.
    pub kicks: SharedCounter,
    /// How often the guest was interrupted.
    pub interrupts: SharedCounter,
    /// How often a rate limit has made the queue wait.
    pub throttles: Counter,
    /// How long, in nanoseconds.
    pub throttled: Counter,
}

/// What is known of a request that was completed.
#[derive(Debug, Clone, Copy)]
pub(in crate::vhost_user) struct Outcome {
    /// Its kind.
    pub operation: Operation,
    /// Bytes that it has moved.
    pub bytes: u64,
    /// It has failed.
    pub failed: bool,
}

/// Requests of a batch that are completed together, before they are counted.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct Tally {
    counts: [Count; Operation::ALL.len()],
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    requests: u64,
    bytes: u64,
    errors: u64,
}

impl Tally {
    /// Takes in a request.
    #[inline]
    pub(in crate::vhost_user) fn add(&mut self, outcome: Outcome) {
        let count = &mut self.counts[outcome.operation as usize];
        count.requests += 1;
        count.bytes += outcome.bytes;
        if outcome.failed {
            count.errors += 1;
        }
    }
}

impl QueueCounters {
    /// The counters of one kind of requests.
    pub(in crate::vhost_user) fn of(&self, operation: Operation) -> &OperationCounters {
        &self.operations[operation as usize]
    }

    /// Counts requests of a batch that was popped at `popped`, and that are completed now.
    pub(in crate::vhost_user) fn completed(&self, tally: &Tally, popped: Instant) {
        let taken = nanoseconds(popped.elapsed());
        let bucket = bucket_of(taken);
        let counts = self.operations.iter().zip(&tally.counts);
        for (counters, count) in counts.filter(|(_, count)| count.requests > 0) {
            counters.requests.add(count.requests);
            counters.bytes.add(count.bytes);
            counters.errors.add(count.errors);
            counters.latency.add(bucket, count.requests, taken);
        }
    }

    /// Counts a batch of `requests`, at least one.
    pub(in crate::vhost_user) fn batch(&self, requests: usize) {
        let size = requests.next_power_of_two().trailing_zeros() as usize;
        self.batches[size.min(BATCH_SIZES - 1)].add(1);
    }
}

/// What is counted of the syncs of a device.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct SyncCounters {
    /// Syncs that have ended.
    pub syncs: SharedCounter,
    /// Those that have failed.
    pub errors: SharedCounter,
    /// How long all of them took, in nanoseconds.
    pub time: SharedCounter,
}

impl SyncCounters {
    /// Counts what `sync` does.
    pub(in crate::vhost_user) fn count<E>(
        &self,
        sync: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let begun = Instant::now();
        let result = sync();
        self.syncs.add(1);
        self.errors.add(u64::from(result.is_err()));
        self.time.add(nanoseconds(begun.elapsed()));
        result
    }
}

/// A time in nanoseconds; half a millennium at the most.
pub(in crate::vhost_user) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_kind_and_what_came_of_it() {
        let counters = QueueCounters::default();
        let popped = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let outcome = |failed| Outcome { operation: Operation::Write, bytes: 4096, failed };
        let mut tally = Tally::default();
        tally.add(outcome(false));
        tally.add(Outcome { bytes: 0, ..outcome(true) });
        counters.completed(&tally, popped);
        let writes = counters.of(Operation::Write);
        let counted = [&writes.requests, &writes.bytes, &writes.errors].map(Counter::get);
        assert_eq!(counted, [2, 4096, 1]);
        assert!(writes.latency.total() >= 6_000_000_000, "{}", writes.latency.total());
        assert_eq!(counters.of(Operation::Read).requests.get(), 0);
    }

    #[test]
    fn operations_are_at_the_places_of_their_numbers() {
        let numbers = Operation::ALL.map(|operation| operation as usize);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn batches_are_told_apart_by_powers_of_two() {
        let counters = QueueCounters::default();
        for size in [1, 2, 3, 4, 5, 33, 64] {
            counters.batch(size);
        }
        let counted: Vec<u64> = counters.batches.iter().map(Counter::get).collect();
        assert_eq!(counted, [1, 1, 2, 1, 0, 0, 2]);
    }
}
