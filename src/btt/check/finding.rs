//! What a check can find.

use uuid::Uuid;

use crate::btt::format::error::PlacesInUse;
use crate::btt::format::flog::LogLayout;
use crate::btt::format::info_block::{InfoFault, Version};
use crate::btt::format::units::{Block, LaneIndex, Lba};

/// One thing that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Number of the arena; `None`: it is about the BTT as a whole.
    pub arena: Option<usize>,
    /// What was found.
    pub fault: Fault,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(arena) = self.arena {
            write!(f, "arena {arena}: ")?;
        }
        self.fault.fmt(f)
    }
}

/// One of the two copies of an info block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoCopy {
    /// The one at the start of the arena.
    Primary,
    /// The one at its end.
    Backup,
}

impl std::fmt::Display for InfoCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InfoCopy::Primary => "primary",
            InfoCopy::Backup => "backup",
        })
    }
}

/// The owner of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The lane whose free block it is.
    Lane(LaneIndex),
    /// The sector that is mapped to it.
    Sector(Lba),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Lane(lane) => lane.fmt(f),
            Owner::Sector(lba) => lba.fmt(f),
        }
    }
}

/// What was found. Offsets count bytes from the start of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing where an info block belongs looks like one.
    #[error("no BTT: no info block at byte 0 (2.0), at byte 4096 (1.1) or at the end")]
    NoBtt,
    /// Usable info blocks of both versions, and nothing that decides between them.
    #[error(
        "info blocks of a BTT of version 1.1 and of one of version 2.0{}: say which one to check",
        if *.old_may_be_data { " (those of 1.1 lie in the data of 2.0)" } else { "" }
    )]
    TwoBtts {
        /// All info blocks of the BTT of version 1.1 lie where the sectors of the other are: a guest
        /// may have written them.
        old_may_be_data: bool,
    },
    /// Beside the BTT of version 1.1, info blocks of one of version 2.0, where no guest of the
    /// former can write.
    #[error(
        "info block of another BTT, of version 2.0, at {offset:#x}{}",
        .fault.map_or(String::new(), |fault| format!(" ({fault})"))
    )]
    OtherBtt {
        /// Where it is.
        offset: u64,
        /// What is wrong with it; `None`: it could be used.
        fault: Option<InfoFault>,
    },
    /// An info block of version 1.1 in the data of the BTT of version 2.0: a guest's business.
    #[error("info block of version 1.1 in the data of version 2.0 at {offset:#x}: ignored")]
    InfoInData {
        /// Where it is.
        offset: u64,
    },
    /// Neither copy of an arena's info block can be used: the arena, and those after it, could not
    /// be checked.
    #[error(
        "no usable info block of version {version}; primary at {start:#x}: {primary}; backup at \
         {backup_offset:#x}: {backup}"
    )]
    InfoLost {
        /// What was looked for.
        version: Version,
        /// Offset of the arena, and of the first copy.
        start: u64,
        /// Offset at which the second copy was looked for.
        backup_offset: u64,
        /// What is wrong with the first copy.
        primary: InfoFault,
        /// What is wrong with the second copy.
        backup: InfoFault,
    },
    /// One copy of an info block cannot be used; the other can.
    #[error("{copy} info block at {offset:#x} cannot be used: {fault}")]
    InfoBad {
        /// The bad copy.
        copy: InfoCopy,
        /// Where it is.
        offset: u64,
        /// What is wrong with it.
        fault: InfoFault,
    },
    /// Both copies of an info block are valid, and they differ.
    #[error("info blocks at {primary:#x} and {backup:#x} differ from byte {byte} on")]
    InfoDiffers {
        /// Where the first copy is.
        primary: u64,
        /// Where the second copy is.
        backup: u64,
        /// Offset in the block of the first byte that differs.
        byte: usize,
    },
    /// Bytes of an info block that have no meaning are not zero.
    #[error("info block at {offset:#x} holds {value:#04x} in its reserved byte {byte}")]
    InfoReserved {
        /// Where the block is.
        offset: u64,
        /// Offset of the first such byte in it.
        byte: usize,
        /// What stands there.
        value: u8,
    },
    /// The arena belongs to another BTT than the first.
    #[error("{what} is not that of arena 0")]
    ArenaForeign {
        /// The field.
        what: &'static str,
    },
    /// The BTT belongs to another namespace.
    #[error("belongs to the namespace {parent}, not to {namespace}")]
    NamespaceForeign {
        /// The namespace that the info block names.
        parent: Uuid,
        /// The namespace that it is in.
        namespace: Uuid,
    },
    /// The arena was made read-only after an error.
    #[error("read-only after an earlier error (ERROR flag)")]
    ArenaError,
    /// No implementation puts flog entries into these places together.
    #[error(
        "of the places 0 to 3 of a lane, entries stand in {places}; taken as the {} layout",
        match .layout {
            LogLayout::Standard => "standard",
            LogLayout::Old => "old",
        }
    )]
    FlogPlaces {
        /// The places that are not zero in all lanes.
        places: PlacesInUse,
        /// The layout that the fewest lanes contradict, in which the check went on.
        layout: LogLayout,
    },
    /// The flog entries of a lane cannot be read.
    #[error("{lane} at {offset:#x} cannot be read")]
    LaneUnreadable {
        /// The lane.
        lane: LaneIndex,
        /// Where its entries are.
        offset: u64,
    },
    /// A place of a lane that was never written is not zero.
    #[error("{lane} has an entry at {offset:#x}, place {place}, where it never wrote one")]
    LanePadding {
        /// The lane.
        lane: LaneIndex,
        /// Which of the four places.
        place: usize,
        /// Where that is.
        offset: u64,
    },
    /// The two sequence numbers never occur together: which entry is the newer cannot be told.
    #[error("{lane} at {offset:#x} has the sequence numbers {first} and {second}")]
    LanePair {
        /// The lane.
        lane: LaneIndex,
        /// Where its entries are.
        offset: u64,
        /// Of the first slot.
        first: u32,
        /// Of the second slot.
        second: u32,
    },
    /// The newest entry of a lane names something that does not exist.
    #[error("{lane} at {offset:#x} names {lba}, {old} and {new}, not all of which exist")]
    LaneRange {
        /// The lane.
        lane: LaneIndex,
        /// Where its newest entry is.
        offset: u64,
        /// The sector written.
        lba: Lba,
        /// The block freed.
        old: Block,
        /// The block filled.
        new: Block,
    },
    /// The newest entry of a lane cannot be judged, for want of the sector's map entry.
    #[error("{lane} wrote {lba} from {old} to {new}, and the map does not say whether it is done")]
    LaneUndecided {
        /// The lane.
        lane: LaneIndex,
        /// The sector written.
        lba: Lba,
        /// The block freed.
        old: Block,
        /// The block filled.
        new: Block,
    },
    /// A lane is pending for a sector only because another one is: replay comes out right if it is
    /// repeated until nothing changes, and wrong in one pass over the lanes.
    #[error("{second} is pending for {lba} after {first}")]
    PendingBehind {
        /// The sector.
        lba: Lba,
        /// The lane to be replayed first.
        first: LaneIndex,
        /// The lane to be replayed next.
        second: LaneIndex,
    },
    /// Two lanes are pending for the same sector, in its present state: which is right cannot be
    /// told.
    #[error("{first} and {second} are both pending for {lba}")]
    PendingTwice {
        /// The sector.
        lba: Lba,
        /// A lane, the one that replay would take.
        first: LaneIndex,
        /// The other.
        second: LaneIndex,
    },
    /// A lane that was used replaces a block by itself.
    #[error("{lane} at {offset:#x} wrote {lba} from {block} to {block}")]
    LaneIdle {
        /// The lane.
        lane: LaneIndex,
        /// Where its newest entry is.
        offset: u64,
        /// The sector.
        lba: Lba,
        /// The block.
        block: Block,
    },
    /// The lanes pending for a sector lead back to where it was.
    #[error("the writes pending for {lba} form a cycle, from {lane} on")]
    ReplayEndless {
        /// The sector.
        lba: Lba,
        /// A lane in the circle.
        lane: LaneIndex,
    },
    /// After its replay, a write is pending again: another program writes to the medium.
    #[error("{lane} is pending for {lba} after replay: the medium is being written to")]
    ReplayUnstable {
        /// The sector.
        lba: Lba,
        /// The lane.
        lane: LaneIndex,
    },
    /// A map entry names a block that does not exist.
    #[error("{lba} is mapped to {block}, of {blocks} (map entry at {offset:#x})")]
    MapRange {
        /// The sector.
        lba: Lba,
        /// The block.
        block: Block,
        /// Number of blocks in the arena.
        blocks: u32,
        /// Where the map entry is.
        offset: u64,
    },
    /// Map entries cannot be read.
    #[error("the map entries of {sectors} sectors from {first} on, at {offset:#x}, cannot be read")]
    MapUnreadable {
        /// The first sector.
        first: Lba,
        /// Number of sectors.
        sectors: u64,
        /// Where the first one's entry is.
        offset: u64,
    },
    /// A block number in the map without flags, which is read as a sector that was never written.
    #[error("map entry {entry:#010x} of {lba} at {offset:#x} has a block but no flags")]
    MapFlags {
        /// The sector.
        lba: Lba,
        /// The entry.
        entry: u32,
        /// Where it is.
        offset: u64,
    },
    /// The sector was marked as lost; writing it clears the mark.
    #[error("{lba} has an error: its data were lost from {block}")]
    SectorError {
        /// The sector.
        lba: Lba,
        /// The block that it owns.
        block: Block,
    },
    /// Two own a block. Where there are more, there is one finding for each after the first.
    #[error("{block} belongs to {first} and to {second}")]
    BlockShared {
        /// The block.
        block: Block,
        /// The first owner: of lanes, or else of sectors, that with the lowest number.
        first: Owner,
        /// Another owner.
        second: Owner,
    },
    /// A block has no owner: it is lost, or the owner's map entry or lane could not be read.
    #[error("{block} belongs to no sector and no lane")]
    BlockMissing {
        /// The block.
        block: Block,
    },
}
