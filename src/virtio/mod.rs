//! Virtio devices as functions of guest memory and an engine: requests and their results.
//!
//! Nothing here knows of sockets or threads, and of rings only their descriptor tables.

#![forbid(unsafe_code)]

mod array;
pub mod block;
mod descriptors;
mod memory;
pub mod pmem;
mod sync;

pub use array::GuestArray;
pub use descriptors::{DescriptorChain, DescriptorTable};
pub use memory::{BadAddress, GuestRam, Span, Spans, anonymous_ram, store};
pub use sync::{NothingToSync, SyncError, Syncs};
