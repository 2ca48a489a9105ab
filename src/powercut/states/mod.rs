//! The states in which a power failure may have left a disk, by the log of what was written to it.
//!
//! * [`Timeline`] goes through the log and says, at each point, what is durable and what is pending;
//! * [`Model`] says which of the legal states of a point are tried;
//! * [`Choice`] is one of them: what of the pending sectors is there;
//! * [`Plan`] collects the states of all points, each content once;
//! * [`Image`] is a copy of the disk that is patched from state to state;
//! * [`Check`] runs the user's command on it;
//! * [`Parts`] finds the few sectors that a failure is about ([`minimise()`]).

mod check;
mod choice;
mod image;
mod minimise;
mod model;
mod plan;
mod reproducer;
mod timeline;

pub use check::{Check, CheckError, Verdict};
pub use choice::{Choice, ChoiceError, Piece, Sectors, State, Tear};
pub use image::{Image, ImageError};
pub use minimise::minimise;
pub use model::{Model, ModelError, Stride};
pub use plan::{NoSuchMark, Plan, Range};
pub use reproducer::Parts;
pub use timeline::{Content, Pending, Point, Timeline, base_hash};
