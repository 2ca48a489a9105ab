//! One arena on its medium.

use super::locate::Located;
use crate::btt::format::flog::ENTRY_SIZE;
use crate::btt::format::geometry::{FLOG_PAIR_SIZE, Geometry, MAP_ENTRY_SIZE};
use crate::btt::format::map::MapEntry;
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::{MediaError, PersistentMemory};

/// An arena, and how to read it.
#[derive(Debug)]
pub(super) struct Arena<'m, M> {
    pub medium: &'m M,
    /// Its number in the BTT.
    pub number: usize,
    /// Its offset in the namespace.
    start: u64,
    pub geometry: Geometry,
}

impl<'m, M: PersistentMemory> Arena<'m, M> {
    pub(super) fn new(medium: &'m M, number: usize, located: &Located) -> Arena<'m, M> {
        Arena::at(medium, number, located.start, located.info.geometry)
    }

    /// The arena `number`, which starts at `start`.
    pub(super) fn at(medium: &'m M, number: usize, start: u64, geometry: Geometry) -> Arena<'m, M> {
        Arena { medium, number, start, geometry }
    }

    /// Offset in the namespace of a lane's entries.
    pub(super) fn lane_offset(&self, lane: LaneIndex) -> u64 {
        self.start + self.geometry.flog_offset(lane)
    }

    /// Offset in the namespace of one of the places in a lane.
    pub(super) fn place_offset(&self, lane: LaneIndex, place: usize) -> u64 {
        self.lane_offset(lane) + place as u64 * ENTRY_SIZE
    }

    /// Offset in the namespace of a sector's map entry.
    pub(super) fn map_offset(&self, lba: Lba) -> u64 {
        self.start + self.geometry.map_entry_offset(lba)
    }

    /// Offset in the namespace of the record of groups of a set of lanes.
    pub(super) fn record_offset(&self, set: u64) -> u64 {
        self.start + self.geometry.record_offset(set)
    }

    /// Bytes of the flog.
    pub(super) fn flog_bytes(&self) -> u64 {
        u64::from(self.geometry.nfree) * FLOG_PAIR_SIZE
    }

    /// Bytes of the map.
    pub(super) fn map_bytes(&self) -> u64 {
        u64::from(self.geometry.external_nlba) * MAP_ENTRY_SIZE
    }

    /// Returns whether the block exists.
    pub(super) fn has_block(&self, block: Block) -> bool {
        block.0 < self.geometry.internal_nlba
    }

    /// Returns whether the sector exists.
    pub(super) fn has_sector(&self, lba: Lba) -> bool {
        lba.0 < self.geometry.external_nlba
    }

    /// The map entry of a sector that exists.
    pub(super) fn map_entry(&self, lba: Lba) -> Result<MapEntry, MediaError> {
        // Not as one load: the arena may be misaligned.
        let mut bytes = [0; MAP_ENTRY_SIZE as usize];
        self.medium.read_bytes(self.map_offset(lba), &mut bytes)?;
        Ok(MapEntry(u32::from_le_bytes(bytes)))
    }
}
