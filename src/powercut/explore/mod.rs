//! Exhaustive search of the states of a moment, by what the check reads.
//!
//! The check is served a disk whose undecided sectors are decided when it first reads them. When it has given its
//! verdict, the last decision with an untried version is taken differently, and the check runs again. Two states that
//! agree in all that a check reads are the same to it: a finished search has covered every legal state.
//!
//! * [`Search`] is the tree of decisions;
//! * [`Moments`] are the points of a log whose states include those of all other points;
//! * [`Stage`] is the run that is going on: what was read, what the check has written, and its verdict;
//! * [`StageDisk`] serves it as a disk;
//! * [`Explorer`] runs the check on one state after another, and starts it again when it hangs;
//! * [`Given`] has it look at states that were chosen otherwise.

mod disk;
mod explorer;
mod given;
mod moments;
mod search;
mod stage;

pub use disk::{StageDisk, StageQueue};
pub use explorer::{ExploreError, Explorer, Limits, Outcome};
pub use given::Given;
pub use moments::Moments;
pub use search::{Leaf, NotDeterministic, Search};
pub use stage::{Run, Stage};
