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

/// Bytes of a sector that are fetched; the CPU finds out by itself that the next are wanted.
const FETCHED: u64 = 4 * CACHE_LINE;

impl<M: PersistentMemory> Batch<'_, M> {
    /// `sector` is going to be read or written, and perhaps others after it.
    pub fn announce(&self, sector: u64) {
        if let Some(Place { arena, lba, .. }) = self.existing(sector) {
            arena.prefetch_entry(&self.btt.medium, lba, Intent::Load);
        }
    }

    /// `sector` is going to be read very soon, and perhaps others after it.
    pub fn prepare(&self, sector: u64) {
        let Some(Place { arena, lba, .. }) = self.existing(sector) else { return };
        let medium = &self.btt.medium;
        let Ok(entry) = arena.load_entry(medium, lba) else { return };
        if let Mapped::Data(block) = entry.mapped() {
            medium.prefetch(arena.block_offset(block), FETCHED, Intent::Load);
        }
    }

    /// Where `sector` is, if it exists.
    fn existing(&self, sector: u64) -> Option<Place<'_>> {
        (sector < self.btt.sectors).then(|| self.btt.locate(sector))
    }
}
