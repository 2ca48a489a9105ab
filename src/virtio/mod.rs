//! Virtio devices as functions of guest memory and an engine: what is asked, and what is answered.
//!
//! Nothing here knows of sockets, threads or rings.

#![forbid(unsafe_code)]

pub mod block;
mod memory;
pub mod pmem;

pub use memory::{BadAddress, GuestRam, Span, Spans, store};
