//! An open BTT.

use super::arena::Arena;
use super::error::Error;
use super::info_block::InfoBlock;
use super::lane::LaneSet;
use super::lba_size::LbaSize;
use super::read_tracking::ReadTracking;
use super::sync::{Mutex, MutexGuard, PoisonError};
use super::units::Lba;
use crate::pmem::{Durability, MediaError, PersistentMemory};

/// An open BTT on the medium `M`; read and written through its [`Queue`](super::Queue)s.
#[derive(Debug)]
pub struct Btt<M> {
    pub(super) medium: M,
    pub(super) arenas: Vec<Arena>,
    pub(super) read_only: bool,
    pub(super) tracking: ReadTracking,
    pub(super) lane_sets: Vec<Mutex<LaneSet>>,
    pub(super) sectors: u64,
    pub(super) lba_size: LbaSize,
}

/// Where a sector is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub arena: &'a Arena,
    /// Its number in the arena.
    pub lba: Lba,
    /// Its number in the BTT.
    pub sector: u64,
}

impl<M: PersistentMemory> Btt<M> {
    /// Number of sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Bytes of a sector that are served: 512 or 4096.
    #[must_use]
    pub fn sector_size(&self) -> u32 {
        self.lba_size.data()
    }

    /// Sector size with metadata, as the info block has it.
    #[must_use]
    pub fn lba_size(&self) -> LbaSize {
        self.lba_size
    }

    /// The info blocks of all arenas.
    pub fn infos(&self) -> impl Iterator<Item = &InfoBlock> {
        self.arenas.iter().map(|arena| &arena.info)
    }

    /// Whether no sector can be written: opened so, or every arena failed.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only || self.arenas.iter().all(|arena| arena.check_writable().is_err())
    }

    /// What a completed write is safe from.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.medium.durability()
    }

    /// Makes every completed write durable on the backing medium.
    pub fn sync(&self) -> Result<(), MediaError> {
        self.medium.sync()
    }

    /// Where `sector` is, which exists.
    pub(super) fn locate(&self, sector: u64) -> Place<'_> {
        let after = self.arenas.partition_point(|arena| arena.first_sector <= sector);
        let arena = &self.arenas[after - 1];
        let lba = u32::try_from(sector - arena.first_sector)
            .expect("an arena has fewer than 2^30 sectors, and the sector is one of them");
        Place { arena, lba: Lba(lba), sector }
    }

    /// Refuses sectors that do not exist.
    pub(super) fn check_range(&self, first: u64, count: u64) -> Result<(), Error> {
        let sectors = self.sectors;
        match first.checked_add(count) {
            Some(end) if end <= sectors => Ok(()),
            _ => Err(Error::OutOfRange { first, count, sectors }),
        }
    }

    /// The lanes of queue `queue`; waits where queues share them.
    pub(super) fn lanes(&self, queue: usize) -> MutexGuard<'_, LaneSet> {
        let set = &self.lane_sets[queue % self.lane_sets.len()];
        // A lane is advanced in one go, after its write is in the map: a panic leaves it whole.
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
