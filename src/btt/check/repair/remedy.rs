//! What a repair does: in words, and in stores.

use uuid::Uuid;

use crate::btt::check::InfoCopy;
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::{MediaError, PersistentMemory};

/// One thing that a repair puts right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Number of the arena; `None`: it is about the BTT as a whole.
    pub arena: Option<usize>,
    /// What is done.
    pub remedy: Remedy,
    /// How, in this order.
    pub(super) stores: Vec<Store>,
}

impl std::fmt::Display for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(arena) = self.arena {
            write!(f, "arena {arena}: ")?;
        }
        self.remedy.fmt(f)
    }
}

/// What is done. Offsets count bytes from the start of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Remedy {
    /// A copy of an info block that cannot be used is written anew from the other.
    #[error("restore the {copy} info block at {offset:#x} from the other copy")]
    RestoreInfo {
        /// The bad copy.
        copy: InfoCopy,
        /// Where it is.
        offset: u64,
    },
    /// Of two valid info blocks that differ, the second becomes the same as the first, which is the one that
    /// is used. The ERROR flag of either stays.
    #[error("make the backup info block at {backup:#x} the same as the primary")]
    EqualiseInfo {
        /// Where the second is.
        backup: u64,
    },
    /// Bytes of the info blocks that have no meaning are zeroed.
    #[error("zero the reserved bytes of the info blocks")]
    CleanInfo,
    /// Both info blocks of a later arena, lost, are worked out from those of the first.
    #[error(
        "compute the lost info blocks of the arena at {start:#x} from those of arena 0; they fit the flog \
         and the map found there"
    )]
    RebuildInfo {
        /// Offset of the arena.
        start: u64,
    },
    /// The BTT is told of the namespace that it is in.
    #[error("name the namespace {namespace} as the BTT's parent, in place of {parent}")]
    AdoptNamespace {
        /// The namespace.
        namespace: Uuid,
        /// What the info blocks say.
        parent: Uuid,
    },
    /// What is left of another BTT goes.
    #[error("zero the info block of another BTT at {offset:#x}")]
    WipeOther {
        /// Where it is.
        offset: u64,
    },
    /// A committed write gets its map entry.
    #[error("complete the write of {lane}: {lba} goes from {old} to {new}")]
    Replay {
        /// The lane.
        lane: LaneIndex,
        /// The sector.
        lba: Lba,
        /// The block that the sector has.
        old: Block,
        /// The block that it gets.
        new: Block,
    },
    /// An entry of a write that is all or nothing, and is not complete, is taken back.
    #[error(
        "take back the write of {lane}: {lba} keeps its data, and {block} stays free; other sectors of the write are missing"
    )]
    TakeBack {
        /// The lane.
        lane: LaneIndex,
        /// The sector.
        lba: Lba,
        /// The block that was written.
        block: Block,
    },
    /// A sector whose map entry names nothing gets the only block without an owner.
    #[error("map {lba} to {block} with its data: it is the only block without an owner")]
    RestoreSector {
        /// The sector.
        lba: Lba,
        /// The block.
        block: Block,
    },
    /// A sector whose data cannot be told, or not be read, is marked so, until it is written.
    #[error("mark {lba} as lost until it is written, with {block} of its own")]
    MarkLost {
        /// The sector.
        lba: Lba,
        /// The block that it owns from now on.
        block: Block,
    },
    /// A sector of which it is in doubt what it owns is marked as lost, where it is.
    #[error("mark {lba} as lost until it is written")]
    MarkDoubtful {
        /// The sector.
        lba: Lba,
    },
    /// A sector that was marked as lost gets a block without an owner.
    #[error("give {lba}, lost, {block} of its own")]
    MoveLost {
        /// The sector.
        lba: Lba,
        /// The block.
        block: Block,
    },
    /// A lane gets a block without an owner as its free block.
    #[error("rewrite {lane} with {block}, which has no owner, as its free block")]
    GiveFreeBlock {
        /// The lane.
        lane: LaneIndex,
        /// The block.
        block: Block,
    },
    /// A lane's entries are written as if it had never been used; its free block stays.
    #[error("rewrite {lane} with its free {block}")]
    ResetLane {
        /// The lane.
        lane: LaneIndex,
        /// Its free block.
        block: Block,
    },
    /// A place of a lane that was never written is zeroed.
    #[error("zero place {place} of {lane}, where no entry belongs")]
    ClearPlace {
        /// The lane.
        lane: LaneIndex,
        /// Which of the four places.
        place: usize,
    },
    /// A page of the flog is zeroed, because there are lanes in it that cannot be read.
    #[error("zero the flog's page with {first} to {last}, which cannot all be read")]
    ClearLanes {
        /// The first lane in it.
        first: LaneIndex,
        /// The last.
        last: LaneIndex,
    },
    /// All lanes are written anew in the standard layout.
    #[error("rewrite the flog in the standard layout ({lanes} lanes change)")]
    RewriteLog {
        /// How many lanes change.
        lanes: usize,
    },
    /// An arena that was read-only after an error can be written to again.
    #[error("clear the ERROR flag: the arena can be written to again")]
    ClearError,
}

impl Remedy {
    /// Returns whether it changes nothing but info blocks that say what they said.
    pub(super) fn is_of_info(&self) -> bool {
        matches!(
            self,
            Remedy::RestoreInfo { .. }
                | Remedy::EqualiseInfo { .. }
                | Remedy::CleanInfo
                | Remedy::AdoptNamespace { .. }
                | Remedy::WipeOther { .. }
        )
    }
}

/// A step of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Store {
    /// One aligned store.
    Word { offset: u64, value: u32 },
    /// One aligned store; those to one cache line become durable in their order.
    Double { offset: u64, value: u64 },
    /// A copy, which may tear.
    Bytes { offset: u64, bytes: Vec<u8> },
    /// Zeroes, by way of the file system: poison goes.
    Zero { offset: u64, length: u64 },
    /// All before it is durable before anything after it is stored.
    Barrier,
}

impl Store {
    pub(super) fn apply<M: PersistentMemory>(&self, medium: &M) -> Result<(), MediaError> {
        match *self {
            Store::Word { offset, value } => {
                medium.store_u32(offset, value)?;
                medium.flush(offset, 4)
            }
            Store::Double { offset, value } => {
                medium.store_u64(offset, value)?;
                medium.flush(offset, 8)
            }
            Store::Bytes { offset, ref bytes } => medium.write_bytes(offset, bytes),
            Store::Zero { offset, length } => medium.zero(offset, length),
            Store::Barrier => medium.fence(),
        }
    }
}
