//! Power-fail testing of guests: the library behind the program `powercut`.
//!
//! * [`nvdimm`] serves NVDIMM files on media whose power fails.

#![forbid(unsafe_code)]

pub mod nvdimm;

use std::hash::{BuildHasher, Hasher, RandomState};

/// A seed that is another one every time.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
