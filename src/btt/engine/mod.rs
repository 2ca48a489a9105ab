//! The engine: reading and writing the sectors of an open BTT.
//!
//! Its modules are private. Opening names what [`start`] needs, and nothing else of this room can be
//! named outside of it but what the library offers: above all, the checker has no way in.

mod arena;
mod batch;
mod btt;
mod deferred;
mod defragment;
mod failed_sync;
mod group;
mod lane;
mod map_locks;
mod prefetch;
mod queue;
mod read;
mod read_tracking;
mod round;
mod start;
mod sync;
mod trim;
mod unsynced;
mod write;
mod write_part;

pub(in crate::btt) use arena::Undo;
pub use batch::Batch;
pub use btt::Btt;
pub use defragment::{Moved, Order};
pub(in crate::btt) use lane::Lane;
pub use queue::Queue;
pub use round::Tag;
pub use start::Opened;
pub(in crate::btt) use start::{Recovered, Start};
pub use trim::NeverWritten;

#[cfg(test)]
mod tests;
