//! Reading sectors while others may be writing them.
//!
//! Sectors that follow one another are read in groups, which share the fence of the read tracking; and
//! where their blocks follow one another too, as those of a disk that was written from front to back
//! do, they are copied together.

use arrayvec::ArrayVec;
use vm_memory::VolatileSlice;

use super::arena::Arena;
use super::batch::{Batch, ZEROES, piece};
use super::btt::Place;
use super::read_tracking::GROUP;
use crate::btt::format::error::Error;
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::Lba;
use crate::pmem::{Access, Cause, PersistentMemory};

/// Sectors of an arena that are read together: the first of them, and the map entries of all.
struct Group<'a> {
    place: Place<'a>,
    entries: ArrayVec<MapEntry, GROUP>,
}

impl Group<'_> {
    /// The sector at `index`.
    fn lba(&self, index: usize) -> Lba {
        Lba(self.place.lba.0 + index as u32)
    }

    /// How many sectors from `index` on have their data one after another.
    fn run(&self, index: usize) -> usize {
        let block = |index: usize| match self.entries[index].mapped() {
            Mapped::Data(block) => Some(block.0),
            _ => None,
        };
        let follows =
            |next: &usize| block(*next).zip(block(next - 1)).is_some_and(|(b, a)| b == a + 1);
        1 + (index + 1..self.entries.len()).take_while(follows).count()
    }
}

impl<M: PersistentMemory> Batch<'_, M> {
    /// Reads `count` whole sectors from `first` on into all of `into`.
    pub(super) fn read_sectors(
        &mut self,
        first: u64,
        count: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let size = self.btt.sector_size() as usize;
        let mut done = 0;
        while done < count {
            let place = self.btt.locate(first + done as u64);
            let in_arena = place.arena.info.geometry.external_nlba - place.lba.0;
            let group = (count - done).min(GROUP).min(in_arena as usize);
            self.read_group(place, group, 0, &piece(into, done * size, group * size))?;
            done += group;
        }
        Ok(())
    }

    /// Reads `count` sectors from `place` on, at most [`GROUP`] and all in its arena, whole; or of one
    /// the bytes from `offset` on; into all of `into`.
    pub(super) fn read_group(
        &mut self,
        place: Place<'_>,
        count: usize,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let staged = |lba| self.round.holds(place.arena.number, Lba(lba));
        if (place.lba.0..).take(count).any(staged) {
            self.commit();
        }
        let read = self.read_tracked(place, count, offset, into);
        self.btt.tracking.clear(self.queue, count);
        if self.shows_zeroes.get() {
            self.fence_zeroes()?;
        }
        read
    }

    /// Looks the sectors up and reads their blocks, which stay in the tracking table.
    fn read_tracked(
        &self,
        place: Place<'_>,
        count: usize,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let Place { arena, lba: Lba(first), .. } = place;
        let load = |lba| arena.load_entry(&self.btt.medium, Lba(lba));
        let entries = (first..).take(count).map(load).collect::<Result<_, _>>()?;
        let mut group = Group { place, entries };
        loop {
            let blocks = (first..).zip(&group.entries).map(|(lba, entry)| entry.block(Lba(lba)));
            self.btt.tracking.publish(self.queue, arena.number, blocks);
            let mut is_settled = true;
            for (lba, entry) in (first..).zip(&mut group.entries) {
                let again = load(lba)?;
                let is_looked_at = !mutant!(btt::FirstSectorLookedAt) || lba == first;
                if again != *entry && is_looked_at && !mutant!(btt::NoSecondLook) {
                    *entry = again;
                    is_settled = false;
                }
            }
            if is_settled {
                return self.read_blocks(&group, offset, into);
            }
        }
    }

    #[cold]
    fn fence_zeroes(&self) -> Result<(), Error> {
        self.shows_zeroes.set(false);
        match self.btt.medium.fence() {
            // After a failed sync nothing can be made durable, and reads go on.
            Err(error) if error.access == Access::Sync => Ok(()),
            fenced => Ok(fenced?),
        }
    }

    /// Begins to make a zero flag durable that is shown: the trim that stored it may not have come to its
    /// fence.
    #[cold]
    fn keep_zero(&self, arena: &Arena, lba: Lba) -> Result<(), Error> {
        if self.btt.trims.may_exist() && !mutant!(btt::TrimShownUnfenced) {
            arena.flush_entry(&self.btt.medium, lba)?;
            self.shows_zeroes.set(true);
        }
        Ok(())
    }

    /// Reads a group, whose blocks no writer fills meanwhile.
    fn read_blocks(
        &self,
        group: &Group<'_>,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let size = self.btt.sector_size() as usize;
        let can_run = self.btt.lba_size().metadata() == 0;
        let count = group.entries.len();
        if count == 1 {
            return self.read_block(group, 0, offset, into);
        }
        let mut index = 0;
        while index < count {
            let run = if can_run { group.run(index) } else { 1 };
            let part = piece(into, index * size, run * size);
            if run == 1 || self.read_run(group, index, &part).is_err() {
                // One by one, to know which of them cannot be read.
                for sector in 0..run {
                    let part = piece(&part, sector * size, size);
                    self.read_block(group, index + sector, 0, &part)?;
                }
            }
            index += run;
        }
        Ok(())
    }

    /// Reads sectors whose data lie one after another, from the one at `index` on.
    fn read_run(
        &self,
        group: &Group<'_>,
        index: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let block = group.entries[index].block(group.lba(index));
        Ok(self.btt.medium.read(group.place.arena.block_offset(block), into)?)
    }

    /// Reads the sector at `index` of a group, from `offset` on.
    fn read_block(
        &self,
        group: &Group<'_>,
        index: usize,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let (arena, lba, entry) = (group.place.arena, group.lba(index), group.entries[index]);
        let block = match entry.mapped() {
            mapped @ (Mapped::NeverWritten | Mapped::Zero(_)) => {
                into.copy_from(&ZEROES[..into.len()]);
                return if mapped == Mapped::NeverWritten {
                    Ok(())
                } else {
                    self.keep_zero(arena, lba)
                };
            }
            Mapped::Error(_) => {
                return Err(Error::SectorError { sector: group.place.sector + index as u64 });
            }
            Mapped::Data(block) => block,
        };
        let read = self.btt.medium.read(arena.block_offset(block) + offset as u64, into);
        if let Err(error) = read {
            if error.cause == Cause::Medium && self.btt.can_mark_unreadable() {
                arena.mark_unreadable(&self.btt.medium, lba, entry)?;
            }
            return Err(error.into());
        }
        Ok(())
    }
}
