//! What can go wrong with a BTT.

use super::info_block::InfoFault;
use super::units::{Block, LaneIndex, Lba};
use crate::pmem::MediaError;

/// Why a BTT could not be created, opened, read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The medium failed.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Nothing at the places where an info block belongs looks like one.
    #[error("no BTT here: no info block at byte 0 (2.0), at byte 4096 (1.1) or at the end")]
    NotFound,
    /// There are info blocks, but none that can be used.
    #[error("the info blocks of arena {arena} are unusable; first: {primary}; second: {backup}")]
    BadInfo {
        /// Number of the arena.
        arena: usize,
        /// What is wrong with the one at its start.
        primary: InfoFault,
        /// What is wrong with the one at its end.
        backup: InfoFault,
    },
    /// An intact BTT of each version, one inside the other.
    #[error("there is a BTT of version 1.1 and one of version 2.0: say which with --btt-version")]
    TwoVersions,
    /// Nothing to grow into.
    #[error("{room} bytes after the last arena, and {needed} are needed for another one")]
    NoRoom {
        /// Bytes behind the last arena.
        room: u64,
        /// Bytes of the smallest arena.
        needed: u64,
    },
    /// An arena that is to be built on is damaged.
    #[error("arena {arena} cannot be built on: {damage}; see `nvdimmctl check-namespace`")]
    Damaged {
        /// Number of the arena.
        arena: usize,
        /// What is wrong with it.
        damage: &'static str,
    },
    /// An arena that belongs to another BTT, or to another namespace.
    #[error("arena {arena} {difference}")]
    NotKin {
        /// Number of the arena.
        arena: usize,
        /// What differs.
        difference: &'static str,
    },
    /// A lane of the flog is not as any write leaves it.
    #[error("flog of arena {arena}: {fault}")]
    BadFlog {
        /// Number of the arena.
        arena: usize,
        /// What is wrong.
        fault: FlogFault,
    },
    /// A map entry names a block that does not exist.
    #[error("map of arena {arena}: {lba} is mapped to {block}, and there are only {blocks}")]
    BadMapEntry {
        /// Number of the arena.
        arena: usize,
        /// The entry.
        lba: Lba,
        /// The block that it names.
        block: Block,
        /// Number of blocks in the arena.
        blocks: u32,
    },
    /// Sectors beyond the last.
    #[error("sector {first} and {count} in all, of {sectors}")]
    OutOfRange {
        /// First sector asked for.
        first: u64,
        /// Number of sectors asked for.
        count: u64,
        /// Number of sectors there are.
        sectors: u64,
    },
    /// The length of a buffer is not that of whole sectors, or not inside the one asked for.
    #[error("a buffer of {length} bytes at byte {offset} of a sector of {sector_size}")]
    BadLength {
        /// Offset in the sector in bytes.
        offset: usize,
        /// Length of the buffer in bytes.
        length: usize,
        /// Bytes of a sector.
        sector_size: u32,
    },
    /// The sector cannot be read until it is written.
    #[error("sector {sector} has an error: its data were lost, and writing it clears the error")]
    SectorError {
        /// The sector.
        sector: u64,
    },
    /// The BTT was opened for reading.
    #[error("the BTT is open for reading only")]
    ReadOnly,
    /// Its namespace is claimed when rings run, and is not now.
    #[error("the disk is not claimed: no ring was started in the way that claims it")]
    NotHeld,
    /// The arena was made read-only by an earlier failure.
    #[error("arena {arena} is read-only after an error")]
    ArenaReadOnly {
        /// Number of the arena.
        arena: usize,
    },
    /// All lanes that this queue owns in the arena were given up after media errors.
    #[error("no usable lane is left in arena {arena}")]
    NoLane {
        /// Number of the arena.
        arena: usize,
    },
    /// The space is too small.
    #[error("{size} bytes are too few for a BTT, which needs {needed} bytes")]
    TooSmall {
        /// Bytes there are.
        size: u64,
        /// Bytes that the smallest BTT of the version needs.
        needed: u64,
    },
}

/// What is wrong with a flog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlogFault {
    /// Entries stand in places that no implementation uses together.
    #[error(
        "of the places 0 to 3 of a lane, entries stand in {0}; they belong in 0 and 1, or in 0 and 2"
    )]
    Places(PlacesInUse),
    /// The two sequence numbers never occur together.
    #[error("{lane} has the sequence numbers {first} and {second}")]
    Sequences {
        /// The lane.
        lane: LaneIndex,
        /// Of the first slot.
        first: u32,
        /// Of the second slot.
        second: u32,
    },
    /// The newest entry names a sector or a block that does not exist.
    #[error("{lane} names {lba}, {old} and {new}, not all of which exist")]
    OutOfRange {
        /// The lane.
        lane: LaneIndex,
        /// The sector.
        lba: Lba,
        /// The block freed.
        old: Block,
        /// The block filled.
        new: Block,
    },
    /// Two lanes have the same free block.
    #[error("{first} and {second} both have {block} free")]
    SharedFreeBlock {
        /// One lane.
        first: LaneIndex,
        /// The other.
        second: LaneIndex,
        /// The block.
        block: Block,
    },
    /// Replaying the pending writes comes to no end.
    #[error("the writes pending for {lba} form a cycle")]
    EndlessReplay {
        /// The sector.
        lba: Lba,
    },
}

/// Which of the four places of a lane hold entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesInUse(pub [bool; super::flog::PLACES]);

impl std::fmt::Display for PlacesInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.0.iter().enumerate().filter(|(_, used)| **used);
        let places: Vec<String> = used.map(|(place, _)| place.to_string()).collect();
        match places.as_slice() {
            [] => f.write_str("none"),
            places => f.write_str(&places.join(", ")),
        }
    }
}
