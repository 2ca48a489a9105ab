//! The Block Translation Table: sectors that are written whole or not at all.
//!
//! The format and protocol of the UEFI specification (2.7 and later, "Block Translation Table") and
//! of Linux's `drivers/nvdimm/btt.c`, in user space and byte-compatible with both. A sector (LBA) is
//! never written in place: its data go to a free block, an entry in the *flog* commits the exchange
//! of the two blocks, and the *map* follows.
//!
//! * [`create`](fn@create) makes a BTT, [`Btt::open`] opens one with its [`Queue`]s, a queue's
//!   [`Batch`] reads and writes.
//! * What a write does in which order: the module `engine::write`. How readers are kept safe from
//!   writers: `engine::read_tracking`. What a crash leaves behind: `lifecycle::recovery`.
//! * [`check`] proves the invariants of what is on the medium.
//!
//! | module | holds | imports |
//! |---|---|---|
//! | `format` | what is on the medium where, and which BTT a medium holds | |
//! | `engine` | an open BTT: reads, writes, trims | `format` |
//! | `lifecycle` | making, opening, growing a BTT | `format`, `engine` |
//! | `check` | the checker and the repair, which share none of the engine's logic | `format` |

#![forbid(unsafe_code)]

pub mod check;
mod engine;
mod format;
mod lifecycle;
#[cfg(feature = "mutants")]
pub mod mutant;

pub use check::usage::{Share, Usage, usage};
pub use engine::{Batch, Btt, Moved, NeverWritten, Opened, Order, Queue, Tag};
pub use format::discovery::{Copies, FoundArena, check_parent, find, is_signed};
pub use format::error::{Error, FlogFault, PlacesInUse};
pub use format::geometry::{
    ARENA_MAX_SIZE, ARENA_MIN_SIZE, DEFAULT_NFREE, FLOG_PAIR_SIZE, Geometry, GeometryFault,
    INFO_SIZE, MAP_ENTRY_SIZE, MAX_NFREE, largest_group, layout,
};
pub use format::info_block::{InfoBlock, InfoFault, SIGNATURE, Version};
pub use format::lba_size::LbaSize;
pub use format::units::{Block, LaneIndex, Lba};
pub use format::{flog, map};
pub use lifecycle::{
    CreateOptions, Growth, LaneState, OpenOptions, Position, Trace, create, defragment, erase,
    first_foreign, grow, has_room, lanes, set_identity, trace,
};
