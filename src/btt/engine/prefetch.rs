//! Hints: what is going to be read or written, so that it comes into the caches in time.
//!
//! Sectors in no order miss every cache with their map entry and then, if they are read, with their
//! data: twice as long as the copy of a small sector takes. Who knows the next sectors says so, and
//! goes on with another meanwhile. A hint changes nothing, and needs no lock, no tracking and no
//! sector that exists: the entry that it follows may be out of date as soon as it is looked at.

use super::batch::Batch;
use super::btt::Place;
use crate::btt::format::map::Mapped;
use crate::pmem::{CACHE_LINE, Intent, PersistentMemory};

/// Lines of a sector that are fetched; the CPU finds out by itself that the next are wanted.
const LINES: u64 = 4;

impl<M: PersistentMemory> Batch<'_, M> {
    /// Some of the `count` sectors from `first` on are going to be read or written.
    pub fn announce(&self, first: u64, count: u64) {
        if let Some(Place { arena, lba, .. }) = self.existing(first, count) {
            arena.prefetch_entry(&self.btt.medium, lba, Intent::Load);
        }
    }

    /// The sector `first` is going to be read very soon, and perhaps others of `count` after it.
    pub fn prepare(&self, first: u64, count: u64) {
        let Some(Place { arena, lba, .. }) = self.existing(first, count) else { return };
        let medium = &self.btt.medium;
        let Ok(entry) = arena.load_entry(medium, lba) else { return };
        if let Mapped::Data(block) = entry.mapped() {
            let lines = LINES.min(u64::from(self.btt.sector_size()) / CACHE_LINE);
            for line in 0..lines {
                medium.prefetch(arena.block_offset(block) + line * CACHE_LINE, Intent::Load);
            }
        }
    }

    /// The first of some sectors, if they exist.
    fn existing(&self, first: u64, count: u64) -> Option<Place<'_>> {
        let exist = count > 0 && self.btt.check_range(first, count).is_ok();
        exist.then(|| self.btt.locate(first))
    }
}
