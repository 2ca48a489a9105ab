//! Where the parts of an arena lie.
//!
//! ```text
//! 0       dataoff = 4096               mapoff          logoff        info2off
//! | info  | internal blocks            | map           | flog        | info copy |
//! | 4 KiB | internal_nlba · internal_  | 4 B · external| 64 B · nfree| 4 KiB     |
//! |       | lbasize                    | _nlba         |             |           |
//! ```
//!
//! The arithmetic is that of the kernel's `alloc_arena` and `create_arenas`.

use super::lba_size::LbaSize;
use super::record::{MAX_RECORDS, RECORD_SIZE, WINDOW};
use super::units::{Block, LaneIndex, Lba};
use crate::pmem::PAGE;

/// Largest arena, in bytes (the kernel's `ARENA_MAX_SIZE`).
pub const ARENA_MAX_SIZE: u64 = 1 << 39;
/// Smallest arena, in bytes (the kernel's `ARENA_MIN_SIZE`).
pub const ARENA_MIN_SIZE: u64 = 1 << 24;
/// Free blocks, and lanes, of a new arena (the kernel's `BTT_DEFAULT_NFREE`).
pub const DEFAULT_NFREE: u32 = 256;
/// Most free blocks that are accepted when reading: 256 times what anyone creates.
pub const MAX_NFREE: u32 = 1 << 16;
/// Blocks that a map entry can name: its block number has 30 bits.
pub(crate) const MAX_BLOCKS: u32 = 1 << 30;
/// Bytes of an info block, and the offset of the data area in a new arena.
pub const INFO_SIZE: u64 = PAGE;
/// Bytes of a map entry.
pub const MAP_ENTRY_SIZE: u64 = 4;
/// Bytes of a lane's flog entries: four slots of 16 bytes, one cache line.
pub const FLOG_PAIR_SIZE: u64 = 64;

/// Sizes and places of an arena's parts; offsets are relative to the start of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a sector.
    pub lba_size: LbaSize,
    /// Bytes of an internal block.
    pub internal_lbasize: u32,
    /// Sectors.
    pub external_nlba: u32,
    /// Internal blocks: the sectors and the free ones.
    pub internal_nlba: u32,
    /// Free blocks, and lanes.
    pub nfree: u32,
    /// Distance to the next arena in bytes; 0: this is the last.
    pub nextoff: u64,
    /// Offset of the internal blocks.
    pub dataoff: u64,
    /// Offset of the map.
    pub mapoff: u64,
    /// Offset of the flog.
    pub logoff: u64,
    /// Offset of the second info block.
    pub info2off: u64,
}

/// Why the numbers of an arena do not describe one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryFault {
    /// The sector size is none of the seven.
    #[error("external_lbasize {0} is not one of 512, 520, 528, 4096, 4104, 4160, 4224")]
    LbaSize(u32),
    /// The internal block is smaller than the sector, or not a multiple of 64.
    #[error("internal_lbasize {internal} does not fit sectors of {external} bytes")]
    InternalLbaSize {
        /// Bytes of an internal block.
        internal: u32,
        /// Bytes of a sector.
        external: u32,
    },
    /// No free blocks, or absurdly many.
    #[error("nfree {0} is outside 1 to 65536")]
    Nfree(u32),
    /// The block counts contradict each other.
    #[error("external_nlba {external} is not internal_nlba {internal} less nfree {nfree}")]
    BlockCounts {
        /// Sectors.
        external: u32,
        /// Internal blocks.
        internal: u32,
        /// Free blocks.
        nfree: u32,
    },
    /// More blocks than a map entry can name.
    #[error("internal_nlba {0} is more than a map entry can name")]
    TooManyBlocks(u32),
    /// A part does not start on a page.
    #[error("{part} {offset:#x} is not a multiple of 4096")]
    Misaligned {
        /// The field.
        part: &'static str,
        /// Its value.
        offset: u64,
    },
    /// Two parts overlap, or are in the wrong order.
    #[error("{part} {offset:#x} lies before the end of what precedes it, {end:#x}")]
    Overlap {
        /// The field of the later part.
        part: &'static str,
        /// Its value.
        offset: u64,
        /// Where the earlier part ends.
        end: u64,
    },
    /// The arena does not fit where it stands.
    #[error("the arena's {size:#x} bytes do not fit into {room:#x}")]
    TooLarge {
        /// Bytes of the arena.
        size: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The next arena would overlap this one, or find less than 16 MiB.
    #[error("nextoff {nextoff:#x} leads into this arena, or too near the end for another")]
    NextOff {
        /// The field.
        nextoff: u64,
    },
}

/// The arenas of at most `arena_size` bytes in `raw_size` bytes, as (offset, size); a remainder of
/// under 16 MiB is left out.
pub(crate) fn arenas(
    raw_size: u64,
    arena_size: u64,
) -> impl DoubleEndedIterator<Item = (u64, u64)> + ExactSizeIterator {
    let arena_size = arena_size.clamp(ARENA_MIN_SIZE, ARENA_MAX_SIZE);
    let full = raw_size / arena_size;
    let rest = raw_size % arena_size;
    let count = full + u64::from(rest >= ARENA_MIN_SIZE);
    // No file has more than 2⁶³ bytes, in 2³⁹ arenas of the smallest size.
    (0..usize::try_from(count).unwrap_or(usize::MAX)).map(move |index| {
        let offset = index as u64 * arena_size;
        (offset, (raw_size - offset).min(arena_size))
    })
}

/// Offset of the second info block in an arena of `size` bytes.
pub(crate) fn backup_offset(size: u64) -> u64 {
    size - size % PAGE - INFO_SIZE
}

impl Geometry {
    /// The layout of a new arena of `size` bytes, 16 MiB to 512 GiB, with 256 lanes.
    #[must_use]
    pub fn new(size: u64, lba_size: LbaSize, is_last: bool) -> Geometry {
        debug_assert!((ARENA_MIN_SIZE..=ARENA_MAX_SIZE).contains(&size));
        let nfree = DEFAULT_NFREE;
        let log = flog_bytes(nfree);
        let available = size - size % PAGE - 2 * INFO_SIZE - log;
        let per_block = u64::from(lba_size.internal()) + MAP_ENTRY_SIZE;
        let internal_nlba = u32::try_from((available - PAGE) / per_block)
            .expect("512 GiB of blocks of at least 512 bytes are fewer than 2^30");
        let external_nlba = internal_nlba - nfree;
        let mapoff = INFO_SIZE + available - map_bytes(external_nlba);
        let logoff = mapoff + map_bytes(external_nlba);
        Geometry {
            lba_size,
            internal_lbasize: lba_size.internal(),
            external_nlba,
            internal_nlba,
            nfree,
            nextoff: if is_last { 0 } else { size },
            dataoff: INFO_SIZE,
            mapoff,
            logoff,
            info2off: logoff + log,
        }
    }

    /// Checks numbers that were read from a medium; `room` is the number of bytes from the start of
    /// the arena to the end of the namespace.
    pub fn validate(&self, room: u64) -> Result<(), GeometryFault> {
        self.validate_counts()?;
        self.validate_places()?;
        let size = self.size();
        if size > room.min(ARENA_MAX_SIZE) {
            return Err(GeometryFault::TooLarge { size, room: room.min(ARENA_MAX_SIZE) });
        }
        let leads_on = self.nextoff >= size.max(ARENA_MIN_SIZE)
            && self.nextoff.checked_add(ARENA_MIN_SIZE).is_some_and(|end| end <= room);
        if self.nextoff != 0 && !leads_on {
            return Err(GeometryFault::NextOff { nextoff: self.nextoff });
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), GeometryFault> {
        let external = self.lba_size.external();
        let internal = self.internal_lbasize;
        // Linux rounds up to 64, PMDK to 256; no other implementation goes further.
        if internal < external || internal > external + 256 || !internal.is_multiple_of(64) {
            return Err(GeometryFault::InternalLbaSize { internal, external });
        }
        if !(1..=MAX_NFREE).contains(&self.nfree) {
            return Err(GeometryFault::Nfree(self.nfree));
        }
        if self.internal_nlba > MAX_BLOCKS {
            return Err(GeometryFault::TooManyBlocks(self.internal_nlba));
        }
        if self.external_nlba == 0
            || self.internal_nlba.checked_sub(self.nfree) != Some(self.external_nlba)
        {
            return Err(GeometryFault::BlockCounts {
                external: self.external_nlba,
                internal: self.internal_nlba,
                nfree: self.nfree,
            });
        }
        Ok(())
    }

    fn validate_places(&self) -> Result<(), GeometryFault> {
        let data = u64::from(self.internal_nlba) * u64::from(self.internal_lbasize);
        let parts = [
            ("dataoff", self.dataoff, data),
            ("mapoff", self.mapoff, u64::from(self.external_nlba) * MAP_ENTRY_SIZE),
            ("logoff", self.logoff, u64::from(self.nfree) * FLOG_PAIR_SIZE),
            ("info2off", self.info2off, INFO_SIZE),
        ];
        if !self.nextoff.is_multiple_of(PAGE) {
            return Err(GeometryFault::Misaligned { part: "nextoff", offset: self.nextoff });
        }
        let mut end = INFO_SIZE;
        for (part, offset, size) in parts {
            if !offset.is_multiple_of(PAGE) {
                return Err(GeometryFault::Misaligned { part, offset });
            }
            if offset < end {
                return Err(GeometryFault::Overlap { part, offset, end });
            }
            // An offset near 2⁶⁴ ends nowhere: the next part, or the arena's size, refuses it.
            end = offset.saturating_add(size);
        }
        Ok(())
    }

    /// Bytes of the arena, both info blocks included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.info2off.saturating_add(INFO_SIZE)
    }

    /// Number of lines between the last block and the map that can hold records of groups.
    #[must_use]
    pub(in crate::btt) fn record_slots(&self) -> u64 {
        (self.mapoff.saturating_sub(self.record_offset(0)) / RECORD_SIZE).min(MAX_RECORDS)
    }

    /// Offset of the record of groups of a set of lanes.
    #[must_use]
    pub(in crate::btt) fn record_offset(&self, set: u64) -> u64 {
        self.block_offset(Block(self.internal_nlba)).next_multiple_of(RECORD_SIZE)
            + set * RECORD_SIZE
    }

    /// Bytes between the last block and the map, which no implementation uses.
    #[must_use]
    pub fn slack(&self) -> u64 {
        self.mapoff.saturating_sub(self.block_offset(Block(self.internal_nlba)))
    }

    /// Offset of a block's bytes.
    #[must_use]
    pub fn block_offset(&self, block: Block) -> u64 {
        self.dataoff + u64::from(block.0) * u64::from(self.internal_lbasize)
    }

    /// Offset of a sector's map entry.
    #[must_use]
    pub fn map_entry_offset(&self, lba: Lba) -> u64 {
        self.mapoff + u64::from(lba.0) * MAP_ENTRY_SIZE
    }

    /// Offset of a lane's flog entries.
    #[must_use]
    pub fn flog_offset(&self, lane: LaneIndex) -> u64 {
        self.logoff + u64::from(lane.0) * FLOG_PAIR_SIZE
    }
}

/// Bytes of the flog of `nfree` lanes, whole pages.
fn flog_bytes(nfree: u32) -> u64 {
    (u64::from(nfree) * FLOG_PAIR_SIZE).next_multiple_of(PAGE)
}

/// Bytes of the map of `external_nlba` sectors, whole pages.
fn map_bytes(external_nlba: u32) -> u64 {
    (u64::from(external_nlba) * MAP_ENTRY_SIZE).next_multiple_of(PAGE)
}

/// The most bytes of a write that is all or nothing, if `queues` queues write to a BTT with these arenas;
/// the size of a sector: no more than that.
#[must_use]
pub fn largest_group(arenas: &[Geometry], queues: usize) -> u32 {
    let Some(first) = arenas.first() else { return 0 };
    let sector = first.lba_size.data();
    let lanes = arenas.iter().map(|arena| arena.nfree as usize).min().unwrap_or(1);
    let records = arenas.iter().map(Geometry::record_slots).min().unwrap_or(0);
    let sets = queues.min(lanes).max(1);
    if sets as u64 > records {
        return sector;
    }
    let most = (lanes / sets).min(WINDOW) as u32;
    (1 << most.ilog2()) * sector
}

/// The arenas of at most `arena_size` bytes that a BTT of `lba_size` sectors has in `raw_size` bytes,
/// with their offsets.
#[must_use]
pub fn layout(
    raw_size: u64,
    arena_size: u64,
    lba_size: LbaSize,
) -> impl DoubleEndedIterator<Item = (u64, Geometry)> {
    let arenas = arenas(raw_size, arena_size);
    let last = arenas.len().saturating_sub(1);
    arenas
        .enumerate()
        .map(move |(index, (offset, size))| (offset, Geometry::new(size, lba_size, index == last)))
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
