//! Power-fail testing of guests: the library behind the program `powercut`.
//!
//! * [`nvdimm`] serves NVDIMM files on media whose power fails;
//! * [`image`] serves raw disk images with a write cache that is lost, and records what is written;
//! * [`log`] is what was recorded;
//! * [`states`] are the disks that a power failure may have left, by a log;
//! * [`explore`] covers all of them, by what a check reads;
//! * [`guest`] makes small guests of a kernel, busybox and a user's programs.

#![forbid(unsafe_code)]

pub mod explore;
pub mod guest;
pub mod image;
pub mod log;
pub mod nvdimm;
pub mod states;

use std::hash::{BuildHasher, Hasher, RandomState};

/// A seed that is another one every time.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
