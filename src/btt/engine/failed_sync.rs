//! After a failed sync: the disk is only read until it is opened again.
//!
//! When the kernel cannot write a page back, it marks it clean all the same. Such a page may be dropped
//! at any time, and is then read again as it is on the storage device. If it is a page of the map or of
//! the flog, the lanes in memory and the map no longer belong together: a lane would hand out a block
//! that a sector has. So no round and no trim is begun after a failed sync. Reads go on.
//!
//! The next opening recovers from what is there then. For that to be one state, and for later syncs to
//! write all of it, the pages of the metadata that are still in memory are made dirty again: a clean
//! page that is newer than the storage device would be lost behind a sync that succeeds.

use std::ops::Range;

use log::{error, warn};

use super::arena::Arena;
use super::btt::Btt;
use super::map_locks::LockKey;
use super::sync::Ordering;
use crate::btt::format::error::Error;
use crate::btt::format::geometry::{FLOG_PAIR_SIZE, INFO_SIZE, MAP_ENTRY_SIZE};
use crate::btt::format::units::Lba;
use crate::pmem::{Access, MediaError, PAGE, PersistentMemory};

/// Offset in a lane's four flog slots of bytes that no layout uses.
const UNUSED_IN_LANE: u64 = 48;

impl<M: PersistentMemory> Btt<M> {
    /// Makes the staged data durable, and refuses to go on after a failed sync.
    pub(super) fn fence_data(&self) -> Result<(), MediaError> {
        self.medium.fence()?;
        self.medium.sync_failure().map_or(Ok(()), Err)
    }

    /// Refuses to change anything after a failed sync.
    pub(super) fn check_synced(&self) -> Result<(), Error> {
        if self.medium.sync_has_failed() { self.refuse() } else { Ok(()) }
    }

    #[cold]
    fn refuse(&self) -> Result<(), Error> {
        let Some(error) = self.medium.sync_failure() else { return Ok(()) };
        self.keep_after_failed_sync(&error);
        Err(error.into())
    }

    /// If `error` is that of a sync: says once that the disk is only read from now on, and keeps what the
    /// next opening relies on. The caller holds no map lock.
    pub(super) fn keep_after_failed_sync(&self, error: &MediaError) {
        if error.access != Access::Sync || self.sync_has_failed.swap(true, Ordering::Relaxed) {
            return;
        }
        error!(
            "the disk can only be read until it is opened again: {error}; what was written since the \
             last successful flush may be lost"
        );
        if self.read_only {
            return;
        }
        for arena in &self.arenas {
            if let Err(error) = self.keep_metadata(arena) {
                warn!("arena {}: cannot write its metadata back again: {error}", arena.number);
            }
        }
    }

    /// Makes the pages of an arena's metadata that are in memory dirty.
    fn keep_metadata(&self, arena: &Arena) -> Result<(), MediaError> {
        let geometry = &arena.info.geometry;
        self.keep_page(arena.start)?;
        self.keep_map(arena)?;
        let flog = geometry.logoff..geometry.logoff + u64::from(geometry.nfree) * FLOG_PAIR_SIZE;
        for page in self.cached_pages(arena, flog) {
            // No queue stores here, so that nothing is lost to a store of its own.
            self.touch(page + UNUSED_IN_LANE)?;
        }
        self.keep_page(arena.start + geometry.info2off)
    }

    fn keep_map(&self, arena: &Arena) -> Result<(), MediaError> {
        let geometry = &arena.info.geometry;
        let entries = u64::from(geometry.external_nlba) * MAP_ENTRY_SIZE;
        for page in self.cached_pages(arena, geometry.mapoff..geometry.mapoff + entries) {
            let entry = (page - arena.start - geometry.mapoff) / MAP_ENTRY_SIZE;
            let _guard = arena.locks.lock(LockKey::of(arena.number, Lba(entry as u32)));
            self.touch(page)?;
        }
        Ok(())
    }

    fn touch(&self, offset: u64) -> Result<(), MediaError> {
        self.medium.touch_u32(offset).map(drop)
    }

    fn keep_page(&self, page: u64) -> Result<(), MediaError> {
        debug_assert_eq!(INFO_SIZE, PAGE);
        if self.medium.is_cached(page) { self.touch(page) } else { Ok(()) }
    }

    /// The pages of `range`, which is in `arena` and begins on a page, that are in memory and not holes.
    fn cached_pages(&self, arena: &Arena, range: Range<u64>) -> impl Iterator<Item = u64> {
        let medium = &self.medium;
        let (mut next, end) = (arena.start + range.start, arena.start + range.end);
        std::iter::from_fn(move || {
            while next < end {
                let stored = medium.next_stored(next);
                let page = stored.max(next) / PAGE * PAGE;
                next = page + PAGE;
                if page < end && medium.is_cached(page) {
                    return Some(page);
                }
            }
            None
        })
    }
}
