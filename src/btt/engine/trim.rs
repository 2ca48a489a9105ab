//! Trimming: sectors that read as zeroes without a block of zeroes being written.
//!
//! A map entry with the zero flag still owns its block, so trimming is one store per sector, under
//! the map lock, and needs no flog. It need not be durable when the lock is released: whatever a
//! later write of the sector logs, it finds the same block with or without the flag.
//!
//! Until its fence, though, a power failure takes the flag away, and the old data come back. What a
//! completed request relies on must not do that. So a trim that finds the flag makes it durable itself,
//! and so does a read, which has shown zeroes ([`UnfencedTrims`]): the fence of the trim that stored the
//! flag may be yet to come, or never come, if its daemon was killed.

use super::arena::Arena;
use super::batch::Batch;
use super::btt::Place;
use super::map_locks::LockKey;
use super::round::Tag;
use super::sync::{AtomicU64, Ordering};
use crate::btt::format::error::Error;
use crate::btt::format::geometry::MAP_ENTRY_SIZE;
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::{Block, Lba};
use crate::pmem::{CACHE_LINE, Durability, PersistentMemory};

/// What to do with a sector that was never written, and reads as zeroes already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeverWritten {
    /// Leave it, and so the map sparse.
    Leave,
    /// Give it the zero flag: another implementation would read whatever its block holds.
    Zero,
}

/// Counts the trims whose map entries may not be durable yet.
#[derive(Debug)]
pub(super) struct UnfencedTrims(AtomicU64);

impl UnfencedTrims {
    /// The trims of a BTT that has just been opened. Of a killed daemon there may be some left, unless
    /// opening has synced the file; on DAX this cannot be known without flushing the whole map.
    pub(super) fn new(durability: Durability) -> UnfencedTrims {
        UnfencedTrims(AtomicU64::new(u64::from(durability == Durability::Dax)))
    }

    /// A trim is about to store its first map entry.
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// The trim has been fenced. One that fails never is.
    fn end(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns whether a zero flag that has been loaded may not be durable.
    pub(super) fn may_exist(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }
}

impl<M: PersistentMemory> Batch<'_, M> {
    /// Makes `count` sectors from `first` on read as zeroes; durable on return, but for sectors that
    /// had an error: those are written with zeroes, as by [`write_zeroes`](Self::write_zeroes).
    pub fn trim(
        &mut self,
        first: u64,
        count: u64,
        never_written: NeverWritten,
        tag: Tag,
    ) -> Result<(), Error> {
        self.btt.check_range(first, count)?;
        self.check_writable()?;
        self.commit();
        self.btt.check_synced()?;
        self.btt.trims.begin();
        let (mut sector, end) = (first, first + count);
        while sector < end {
            let Place { arena, lba, .. } = self.btt.locate(sector);
            let group = group_length(arena, lba).min(end - sector);
            let errors = self.trim_group(arena, lba, group, never_written)?;
            for index in (0..group).filter(|index| errors & 1 << index != 0) {
                self.write_zeroes(sector + index, 1, tag)?;
            }
            sector += group;
        }
        self.round.fenced(1);
        self.btt.fence_all().inspect_err(|error| self.btt.keep_after_failed_sync(error))?;
        self.btt.trims.end();
        Ok(())
    }

    /// Trims sectors whose map entries share a cache line, and a lock. Returns those that have an
    /// error, one bit each: their block must not be filled again before its poison is cleared, which
    /// only a write can bring about.
    fn trim_group(
        &self,
        arena: &Arena,
        first: Lba,
        count: u64,
        never_written: NeverWritten,
    ) -> Result<u64, Error> {
        let medium = &self.btt.medium;
        let lock = || arena.locks.lock(LockKey::of(arena.number, first));
        let _guard = (!mutant!(btt::TrimUnlocked)).then(lock);
        // Under the lock: the arena may have failed in a write of one of these sectors, which
        // recovery will complete.
        arena.check_writable()?;
        let sectors = || (first.0..).map(Lba).take(count as usize);
        self.btt.settle(arena, sectors())?;
        let mut errors = 0;
        for (index, lba) in sectors().enumerate() {
            let entry = arena.load_entry(medium, lba)?;
            match entry.mapped() {
                Mapped::Zero(_) if !mutant!(btt::TrimTrustsZero) => {
                    arena.flush_entry(medium, lba)?;
                }
                Mapped::Zero(_) => {}
                Mapped::NeverWritten if never_written == NeverWritten::Leave => {}
                Mapped::Error(_) if !mutant!(btt::TrimForgetsError) => errors |= 1 << index,
                Mapped::NeverWritten | Mapped::Data(_) | Mapped::Error(_) => {
                    let own = if mutant!(btt::TrimForgetsBlock) {
                        Block(lba.0)
                    } else {
                        entry.block(lba)
                    };
                    arena.store_entry(medium, lba, MapEntry::zero(own))?;
                }
            }
        }
        Ok(errors)
    }
}

/// Number of sectors from `lba` on whose map entries share its cache line, or end the arena.
fn group_length(arena: &Arena, lba: Lba) -> u64 {
    let per_line = (CACHE_LINE / MAP_ENTRY_SIZE) as u32;
    let to_line_end = per_line - lba.0 % per_line;
    u64::from(to_line_end.min(arena.info.geometry.external_nlba - lba.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::btt::format::flog::LogLayout;
    use crate::btt::format::geometry::{ARENA_MIN_SIZE, Geometry};
    use crate::btt::format::info_block::{InfoBlock, Version};
    use crate::btt::format::lba_size::LbaSize;

    proptest! {
        #[test]
        fn a_group_has_one_lock_and_ends_with_its_line_or_the_arena(
            lba_size in prop::sample::select(LbaSize::ALL.to_vec()),
            size in ARENA_MIN_SIZE..ARENA_MIN_SIZE << 4,
            first in any::<prop::sample::Index>(),
        ) {
            let geometry = Geometry::new(size, lba_size, true);
            let (uuid, parent_uuid, version) = (Uuid::max(), Uuid::nil(), Version::V2_0);
            let info = InfoBlock { uuid, parent_uuid, error: false, version, geometry };
            let arena = Arena::new(0, 0, 0, info, LogLayout::Standard);
            let end = geometry.external_nlba;
            for first in [first.index(end as usize) as u32, end - 1] {
                let next = first + group_length(&arena, Lba(first)) as u32;
                prop_assert!(first < next && next <= end);
                let key = LockKey::of(0, Lba(first));
                prop_assert!((first..next).all(|lba| LockKey::of(0, Lba(lba)) == key));
                prop_assert!(next == end || LockKey::of(0, Lba(next)) != key);
            }
        }
    }
}
