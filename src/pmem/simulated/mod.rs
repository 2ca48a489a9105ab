//! Persistent memory that is none, to show what happens when it fails.
//! What of it survives is the persistence model's business ([`cache_model`](super::cache_model)).
//!
//! * [`Simulated`]: a medium in ordinary memory, with poison and with places that take no stores.
//! * [`Recorder`]: the same, and every store, flush and fence is kept in order, as a trace.
//! * [`turns`]: threads that take turns at every access, in an order that a schedule chooses, so
//!   that a trace of several threads can be had again, and others be tried.

mod crash_model;
mod file;
mod medium;
mod page_cache;
mod recorder;
pub mod turns;

pub use super::cache_model::{Contents, Durable, Effort, Images, Random, Unfenced};
pub use crash_model::{CrashModel, MediumKind, trace_of_another};
pub use file::{Dropped, Failing, File, FileFault};
pub use medium::{Fault, Simulated, without};
pub use page_cache::PageCache;
pub use recorder::{Event, Recorder};
