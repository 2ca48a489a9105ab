//! What was counted.

use std::fmt;
use std::ops::AddAssign;

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Runs of a scenario: each gives a trace.
    pub traces: u64,
    /// Points in a trace at which the power failed.
    pub points: u64,
    /// Of these, those with more combinations than were tried.
    pub sampled_points: u64,
    /// Images that power failures left.
    pub images: u64,
    /// Of these, those that were the first of their kind in their scenario, and so verified.
    pub unique: u64,
    /// Images of a second power failure, in the recovery from the first.
    pub nested: u64,
    pub violations: u64,
    /// Failures of syncs and of write-backs that were injected.
    pub failures: u64,
    /// Processes that were killed before the power failed.
    pub kills: u64,
    /// What host crashes left of page caches.
    pub left: Left,
}

/// What host crashes left of disks in page caches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Left {
    /// Images that could be opened as they were, and were whole.
    pub whole: u64,
    /// Images that could be opened as they were, and were not whole: a block belonged to two.
    pub opened: u64,
    /// Images that had to be repaired.
    pub repaired: u64,
    /// Images that had to be repaired by force.
    pub forced: u64,
    /// Sectors that had been written since the last flush, and held a version of their own.
    pub own: u64,
    /// Those that held parts of several versions.
    pub torn: u64,
    /// Those that held another sector's data.
    pub foreign: u64,
    /// Those that a repair had to give up.
    pub lost: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { traces, points, sampled_points, images, unique, nested, .. } = self;
        let Figures { violations, failures, kills, .. } = self;
        write!(
            f,
            "traces={traces} points={points} sampled-points={sampled_points} images={images} \
             unique={unique} nested={nested} failures={failures} kills={kills} \
             violations={violations}"
        )
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Left { whole, opened, repaired, forced, own, torn, foreign, lost } = self;
        write!(
            f,
            "whole={whole} opened={opened} repaired={repaired} forced={forced} own={own} torn={torn} \
             foreign={foreign} lost={lost}"
        )
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Figures) {
        self.traces += other.traces;
        self.points += other.points;
        self.sampled_points += other.sampled_points;
        self.images += other.images;
        self.unique += other.unique;
        self.nested += other.nested;
        self.violations += other.violations;
        self.failures += other.failures;
        self.kills += other.kills;
        self.left += other.left;
    }
}

impl AddAssign for Left {
    fn add_assign(&mut self, other: Left) {
        self.whole += other.whole;
        self.opened += other.opened;
        self.repaired += other.repaired;
        self.forced += other.forced;
        self.own += other.own;
        self.torn += other.torn;
        self.foreign += other.foreign;
        self.lost += other.lost;
    }
}
