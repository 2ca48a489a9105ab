//! Writing part of a sector: read, modify, write, all under the sector's map lock.
//!
//! The lock is what keeps two writers of different parts, or a writer of the whole sector, from
//! undoing each other. A writer that waits for a reader holds no map lock, so the lane's free block is made
//! fillable before the lock is taken; under the lock the sector's own block needs no read tracking,
//! since it cannot be freed.

use vm_memory::VolatileSlice;

use super::batch::{Batch, Data};
use super::btt::Place;
use super::map_locks::LockKey;
use super::round::Tag;
use crate::btt::format::error::Error;
use crate::btt::format::map::Mapped;
use crate::pmem::{Cause, PersistentMemory};

impl<M: PersistentMemory> Batch<'_, M> {
    /// Replaces the bytes of `sector` from `offset` on with all of `from`, which lie inside it.
    pub(super) fn modify(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        self.commit();
        let place = self.btt.locate(sector);
        let Place { arena, lba, .. } = place;
        arena.check_writable()?;
        let lane = self.take_lane(arena.number)?;
        self.make_fillable(arena.number, lane)?;

        if !mutant!(btt::ModifyUnlocked) {
            self.guards.push(arena.locks.lock(LockKey::of(arena.number, lba)));
        }
        let contents = std::mem::take(&mut self.scratch);
        let settled = self.btt.settle(arena, [lba]).map_err(Into::into);
        let filled = settled.and_then(|()| self.read_locked(place, contents)).and_then(|()| {
            from.copy_to(&mut contents[offset..offset + from.len()]);
            self.round.begin_group(sector..sector + 1);
            self.fill(arena.number, lane, lba, Data::Bytes(contents), tag)?;
            Ok(self.fence_staged()?)
        });
        self.scratch = contents;
        match filled {
            Ok(()) => self.publish(),
            Err(_) => self.end_round(),
        }
        filled
    }

    /// Reads a sector whose map lock is held.
    fn read_locked(&self, place: Place<'_>, contents: &mut [u8]) -> Result<(), Error> {
        let Place { arena, lba, sector } = place;
        let medium = &self.btt.medium;
        match arena.load_entry(medium, lba)?.mapped() {
            Mapped::NeverWritten | Mapped::Zero(_) => contents.fill(0),
            Mapped::Error(_) => return Err(Error::SectorError { sector }),
            Mapped::Data(block) => {
                let read = medium.read_bytes(arena.block_offset(block), contents);
                let unreadable = read.is_err_and(|error| error.cause == Cause::Medium);
                if unreadable && self.btt.can_mark_unreadable() {
                    arena.store_unreadable(medium, lba, block)?;
                }
                read?;
            }
        }
        Ok(())
    }
}
