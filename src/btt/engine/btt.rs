//! An open BTT.

use std::sync::Arc;

use super::arena::Arena;
use super::lane::LaneSet;
use super::read_tracking::ReadTracking;
use super::sync::{AtomicBool, Mutex, MutexGuard, PoisonError};
use super::trim::UnfencedTrims;
use crate::btt::format::error::Error;
use crate::btt::format::info_block::InfoBlock;
use crate::btt::format::lba_size::LbaSize;
use crate::btt::format::units::Lba;
use crate::pmem::{Durability, MediaError, PersistentMemory, SharedSync};

/// An open BTT on the medium `M`; read and written through its [`Queue`](super::Queue)s.
#[derive(Debug)]
pub struct Btt<M> {
    pub(super) medium: M,
    pub(super) arenas: Vec<Arena>,
    pub(super) read_only: bool,
    pub(super) tracking: ReadTracking,
    pub(super) lane_sets: Vec<Mutex<LaneSet>>,
    pub(super) trims: UnfencedTrims,
    /// Fences are syncs, and the last one of a round is left to later ones: see [`deferred`](super::deferred).
    pub(super) defers: bool,
    /// The syncs that make map entries durable, and all else.
    pub(super) map_syncs: Arc<SharedSync>,
    /// A failed sync has been noticed.
    pub(super) sync_has_failed: AtomicBool,
    pub(super) sectors: u64,
    pub(super) lba_size: LbaSize,
    /// Sectors of the largest write that is all or nothing.
    pub(super) atomic_sectors: u32,
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

    /// Returns whether no sector can be written: opened so, or every arena failed.
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
    ///
    /// # Errors
    ///
    /// The medium could not be synced, now or at an earlier sync: no sector can be written any more until
    /// the BTT is opened again.
    pub fn sync(&self) -> Result<(), MediaError> {
        let synced = if self.defers { self.fence_all() } else { self.medium.sync() };
        synced.inspect_err(|error| self.keep_after_failed_sync(error))
    }

    /// Returns whether [`sync`](Self::sync) takes the time of a system call or more.
    #[must_use]
    pub fn sync_takes_time(&self) -> bool {
        self.medium.sync_takes_time()
    }

    /// Returns whether a sector whose block cannot be read is to be marked so in its map entry.
    ///
    /// Only on DAX, where that means poison. A page of a file that cannot be read now may be readable
    /// later: its device may come back, or a full file system get space.
    pub(super) fn can_mark_unreadable(&self) -> bool {
        !self.read_only && self.durability() == Durability::Dax
    }

    /// Where `sector` is, which exists.
    #[inline]
    pub(super) fn locate(&self, sector: u64) -> Place<'_> {
        // The first begins at sector 0, and most have no other beside.
        let index = self.arenas[1..].partition_point(|arena| arena.first_sector <= sector);
        let arena = &self.arenas[index];
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::btt::format::flog::LogLayout;
    use crate::btt::format::geometry::{ARENA_MAX_SIZE, ARENA_MIN_SIZE};
    use crate::btt::format::info_block::Version;
    use crate::btt::layout;
    use crate::pmem::simulated::Simulated;

    /// A BTT with arenas of at most `arena_size` bytes in `raw` bytes, whose medium has none.
    fn btt(raw: u64, arena_size: u64, lba_size: LbaSize) -> Btt<Simulated> {
        let mut sectors = 0;
        let arenas =
            layout(raw, arena_size, lba_size).enumerate().map(|(number, (start, geometry))| {
                let (uuid, parent_uuid) = (Uuid::max(), Uuid::nil());
                let version = Version::V2_0;
                let info = InfoBlock { uuid, parent_uuid, error: false, version, geometry };
                let arena = Arena::new(number, start, sectors, info, LogLayout::Standard);
                sectors += u64::from(geometry.external_nlba);
                arena
            });
        Btt {
            medium: Simulated::new(0),
            arenas: arenas.collect(),
            read_only: false,
            tracking: ReadTracking::new(1),
            lane_sets: Vec::new(),
            trims: UnfencedTrims::new(Durability::Dax),
            defers: false,
            map_syncs: Arc::default(),
            sync_has_failed: AtomicBool::new(false),
            sectors,
            lba_size,
            atomic_sectors: 1,
        }
    }

    fn btts() -> impl Strategy<Value = Btt<Simulated>> {
        let sizes = (ARENA_MIN_SIZE..6 << 40, ARENA_MAX_SIZE / 8..=ARENA_MAX_SIZE);
        (sizes, prop::sample::select(LbaSize::ALL.to_vec()))
            .prop_map(|((raw, arena_size), lba_size)| btt(raw, arena_size, lba_size))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn every_sector_is_in_one_arena(btt in btts(), at in any::<prop::sample::Index>()) {
            let mut sectors = vec![at.index(btt.sectors as usize) as u64];
            for arena in &btt.arenas {
                let end = arena.first_sector + u64::from(arena.info.geometry.external_nlba);
                sectors.extend([arena.first_sector, end - 1]);
            }
            prop_assert!(sectors.contains(&(btt.sectors - 1)));
            for sector in sectors {
                let Place { arena, lba, sector: same } = btt.locate(sector);
                prop_assert_eq!((arena.first_sector + u64::from(lba.0), same), (sector, sector));
                prop_assert!(lba.0 < arena.info.geometry.external_nlba);
                prop_assert!(std::ptr::eq(arena, &raw const btt.arenas[arena.number]));
            }
        }

        #[test]
        fn ranges_beyond_the_end_are_refused(
            btt in btts(),
            first in prop_oneof![any::<u64>(), 0..1u64 << 33],
            count in prop_oneof![any::<u64>(), 0..1u64 << 33],
        ) {
            let exists = u128::from(first) + u128::from(count) <= u128::from(btt.sectors);
            prop_assert_eq!(btt.check_range(first, count).is_ok(), exists);
        }
    }
}
