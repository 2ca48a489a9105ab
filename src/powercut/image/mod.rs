//! Raw disk images with a write cache that a power failure empties.
//!
//! * [`Cache`] has what was written and not flushed, lets the power fail, and records;
//! * [`ImageDisk`] serves it as a disk;
//! * [`MarkDisk`] is a disk whose sectors become marks of the recording;
//! * [`MarkSocket`] is a socket at which marks are set.

mod cache;
mod disk;
mod failure;
mod marks;
mod socket;

pub use cache::{Cache, CacheError, CacheOptions};
pub use disk::{ImageDisk, ImageQueue};
pub use failure::{Failure, FailureError, Moment, Remains};
pub use marks::{MarkDisk, MarkQueue, Marks};
pub use socket::{MarkSocket, send_mark};
