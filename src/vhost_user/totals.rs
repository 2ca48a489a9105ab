//! What a frontend has had done, for the log when it has left.

use std::fmt;
use std::ops::Sub;

use super::device::VhostDevice;
use super::queue::{Operation, QueueCounters};

/// Requests of all queues of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    reads: u64,
    writes: u64,
    flushes: u64,
    others: u64,
    failed: u64,
}

impl Totals {
    /// What `device` has completed so far.
    pub(super) fn of(device: &dyn VhostDevice) -> Totals {
        let mut totals = Totals::default();
        (0..device.queues()).for_each(|queue| totals.add(device.counters(queue)));
        totals
    }

    fn add(&mut self, counters: &QueueCounters) {
        for operation in Operation::ALL {
            let counted = counters.of(operation);
            let total = match operation {
                Operation::Read => &mut self.reads,
                Operation::Write => &mut self.writes,
                Operation::Flush => &mut self.flushes,
                _ => &mut self.others,
            };
            *total += counted.requests.get();
            self.failed += counted.errors.get();
        }
    }
}

impl Sub for Totals {
    type Output = Totals;

    fn sub(self, before: Totals) -> Totals {
        Totals {
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
            flushes: self.flushes - before.flushes,
            others: self.others - before.others,
            failed: self.failed - before.failed,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { reads, writes, flushes, others, failed } = self;
        write!(
            f,
            "{reads} reads, {writes} writes, {flushes} flushes, {others} others, {failed} failed"
        )
    }
}
