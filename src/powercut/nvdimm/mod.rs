//! NVDIMM files whose power fails: what was not flushed and fenced is lost in part.

mod failure;
mod medium;
mod open;
mod raw;
mod shadow;

pub use failure::PowerFailure;
pub use medium::PowerFail;
pub use open::FailingMedium;
pub use raw::{Raw, RawBatch, RawQueue};
