//! Persistent memory that is none, to show what happens when it fails.
//!
//! * [`Simulated`]: a medium in ordinary memory, with poison and with places that take no stores.
//! * [`Recorder`]: the same, and every store, flush and fence is kept in order, as a trace.
//! * [`Unfenced`]: the persistence model. From what was stored, flushed and fenced it knows what a
//!   power failure may lose, and tells all that it may leave ([`Unfenced::images`]).
//! * [`turns`]: threads that take turns at every access, in an order that somebody else chooses, so
//!   that a trace of several threads can be had again, and others be tried.
//!
//! # What a power failure may leave
//!
//! What was flushed and fenced is there. Of the rest, per cache line, any prefix of the line's
//! ordinary stores, since a CPU may write a line back at any time; and of streaming stores any subset
//! of their aligned words of eight bytes. An aligned store of up to eight bytes never tears. A fence
//! speaks for its own thread: what another thread flushed or streamed is none of its business.

mod contents;
mod crash_model;
mod file;
mod images;
mod medium;
mod page_cache;
mod random;
mod recorder;
pub mod turns;
mod unfenced;

pub use contents::Contents;
pub use crash_model::{CrashModel, MediumKind, trace_of_another};
pub use file::{Dropped, Failing, File, FileFault};
pub use images::{Effort, Images};
pub use medium::{Fault, Simulated, without};
pub use page_cache::PageCache;
pub use random::Random;
pub use recorder::{Event, Recorder};
pub use unfenced::{Durable, Unfenced};
