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
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { traces, points, sampled_points, images, unique, nested, violations } = self;
        write!(
            f,
            "traces={traces} points={points} sampled-points={sampled_points} images={images} \
             unique={unique} nested={nested} violations={violations}"
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
    }
}
