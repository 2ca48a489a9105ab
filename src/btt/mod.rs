//! The Block Translation Table: sectors that are written whole or not at all.
//!
//! The format and protocol of the UEFI specification (2.7 and later, "Block Translation Table") and
//! of Linux's `drivers/nvdimm/btt.c`, in user space and byte-compatible with both. A sector (LBA) is
//! never written in place: its data go to a free block, an entry in the *flog* commits the exchange
//! of the two blocks, and the *map* follows.
//!
//! * [`create`](fn@create) makes a BTT, [`Btt::open`] opens one with its [`Queue`]s, a queue's
//!   [`Batch`] reads and writes.
//! * What a write does in which order: the module `write`. How readers are kept safe from writers:
//!   the module `read_tracking`. What a crash leaves behind: the module `recovery`.
//! * [`check`] proves the invariants of what is on the medium, and shares none of the engine's logic.

#![forbid(unsafe_code)]

mod arena;
mod batch;
pub mod check;
mod create;
mod density;
mod discovery;
mod engine;
mod erase;
mod error;
mod failed_sync;
pub mod flog;
mod geometry;
mod grow;
mod grow_namespace;
mod hints;
mod info_block;
mod inspect;
mod lane;
mod lba_size;
pub mod map;
mod map_locks;
mod modify;
#[cfg(feature = "mutants")]
pub mod mutant;
mod namespace;
mod open;
mod orphan;
mod provision;
mod queue;
mod read;
mod read_tracking;
mod recovery;
mod round;
mod sync;
mod trim;
mod units;
mod write;

pub use batch::Batch;
pub use create::{CreateOptions, create, layout};
pub use density::{Density, Share, density};
pub use discovery::{Copies, FoundArena, check_parent, find};
pub use engine::Btt;
pub use erase::{Remains, erase};
pub use error::{Error, FlogFault, PlacesInUse};
pub use geometry::{
    ARENA_MAX_SIZE, ARENA_MIN_SIZE, DEFAULT_NFREE, FLOG_PAIR_SIZE, Geometry, GeometryFault,
    INFO_SIZE, MAP_ENTRY_SIZE, MAX_NFREE,
};
pub use grow::{Growth, grow};
pub use grow_namespace::{Contents, Grown, grow_claimed, grow_namespace};
pub use info_block::{InfoBlock, InfoFault, SIGNATURE, Version};
pub use inspect::{LaneState, lanes};
pub use lba_size::LbaSize;
pub use namespace::{MappedNamespace, NamespaceError, NamespaceOptions, resolve};
pub use open::{OpenOptions, Opened};
pub use orphan::{Orphan, restore_label};
pub use provision::{
    Mode, Provision, create_namespace, destroy_namespace, edit_labels, init_labels,
    reconfigure_namespace,
};
pub use queue::Queue;
pub use round::Tag;
pub use trim::NeverWritten;
pub use units::{Block, LaneIndex, Lba};
