//! Reading sectors while others may be writing them.
//!
//! Sectors that follow one another are read in groups, which share the fence of the read tracking; and
//! where their blocks follow one another too, as those of a disk that was written from front to back
//! do, they are copied together.

use vm_memory::VolatileSlice;

use super::batch::{Batch, ZEROES, piece};
use super::btt::Place;
use super::read_tracking::GROUP;
use crate::btt::format::error::Error;
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::Lba;
use crate::pmem::{Access, Cause, MediaError, PersistentMemory};

/// Sectors of an arena that are read together: the first of them, and the map entries of all.
struct Group<'a> {
    place: Place<'a>,
    entries: &'a [MapEntry],
}

impl<'a> Group<'a> {
    /// Where the sector at `index` is.
    fn place(&self, index: usize) -> Place<'a> {
        let Place { arena, lba: Lba(first), sector } = self.place;
        Place { arena, lba: Lba(first + index as u32), sector: sector + index as u64 }
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
        if count == 1 {
            return self.read_sector(self.btt.locate(first), 0, into);
        }
        let size = self.btt.sector_size() as usize;
        let mut done = 0;
        while done < count {
            let place = self.btt.locate(first + done as u64);
            let in_arena = place.arena.info.geometry.external_nlba - place.lba.0;
            let group = (count - done).min(GROUP).min(in_arena as usize);
            let mut entries = [MapEntry(0); GROUP];
            let part = piece(into, done * size, group * size);
            self.read_group(place, &mut entries[..group], 0, &part)?;
            done += group;
        }
        Ok(())
    }

    /// Reads one sector, from `offset` on, into all of `into`.
    pub(super) fn read_sector(
        &mut self,
        place: Place<'_>,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        self.read_group(place, &mut [MapEntry(0)], offset, into)
    }

    /// Reads as many sectors as there is room for `entries`, from `place` on, at most [`GROUP`] and all in
    /// its arena, whole; or of one the bytes from `offset` on; into all of `into`.
    #[allow(
        clippy::inline_always,
        reason = "compiled for one sector as well, where no loop is left"
    )]
    #[inline(always)]
    fn read_group(
        &mut self,
        place: Place<'_>,
        entries: &mut [MapEntry],
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let count = entries.len();
        let staged = |lba| self.round.holds(place.arena.number, Lba(lba));
        if (place.lba.0..).take(count).any(staged) {
            self.commit();
        }
        let read = self.read_tracked(place, entries, offset, into);
        self.btt.tracking.clear(self.queue, count);
        if self.shows_zeroes.get() {
            self.fence_zeroes()?;
        }
        read
    }

    /// Looks the sectors up and reads their blocks, which stay in the tracking table.
    #[allow(clippy::inline_always, reason = "as of `read_group`")]
    #[inline(always)]
    fn read_tracked(
        &self,
        place: Place<'_>,
        entries: &mut [MapEntry],
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let Place { arena, lba: Lba(first), .. } = place;
        let load = |lba| arena.load_entry(&self.btt.medium, Lba(lba));
        for (lba, entry) in (first..).zip(&mut *entries) {
            *entry = load(lba)?;
        }
        loop {
            let blocks = (first..).zip(&*entries).map(|(lba, entry)| entry.block(Lba(lba)));
            self.btt.tracking.publish(self.queue, arena.number, blocks);
            let mut is_settled = true;
            for (lba, entry) in (first..).zip(&mut *entries) {
                let again = load(lba)?;
                let is_looked_at = !mutant!(btt::FirstSectorLookedAt) || lba == first;
                if again != *entry && is_looked_at && !mutant!(btt::NoSecondLook) {
                    *entry = again;
                    is_settled = false;
                }
            }
            if is_settled {
                return match *entries {
                    [entry] => self.read_block(place, entry, offset, into),
                    _ => self.read_blocks(&Group { place, entries }, into),
                };
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
    fn keep_zero(&self, Place { arena, lba, .. }: Place<'_>) -> Result<(), Error> {
        if self.btt.trims.may_exist() && !mutant!(btt::TrimShownUnfenced) {
            arena.flush_entry(&self.btt.medium, lba)?;
            self.shows_zeroes.set(true);
        }
        Ok(())
    }

    /// Reads a group, whose blocks no writer fills meanwhile.
    fn read_blocks(&self, group: &Group<'_>, into: &VolatileSlice<'_>) -> Result<(), Error> {
        let size = self.btt.sector_size() as usize;
        let can_run = self.btt.lba_size().metadata() == 0;
        let count = group.entries.len();
        let mut index = 0;
        while index < count {
            let run = if can_run { group.run(index) } else { 1 };
            let part = piece(into, index * size, run * size);
            if run == 1 || self.read_run(group, index, &part).is_err() {
                // One by one, to know which of them cannot be read.
                for sector in 0..run {
                    let (part, at) = (piece(&part, sector * size, size), index + sector);
                    self.read_block(group.place(at), group.entries[at], 0, &part)?;
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
        let Place { arena, lba, .. } = group.place(index);
        let block = group.entries[index].block(lba);
        Ok(self.btt.medium.read(arena.block_offset(block), into)?)
    }

    /// Reads the sector at `place`, which `entry` maps, from `offset` on.
    #[inline]
    fn read_block(
        &self,
        place: Place<'_>,
        entry: MapEntry,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let Mapped::Data(block) = entry.mapped() else {
            return self.read_without_data(place, entry, into);
        };
        let offset = place.arena.block_offset(block) + offset as u64;
        let read = self.btt.medium.read(offset, into);
        read.map_err(|error| self.unreadable(place, entry, error))
    }

    /// Reads a sector that has no data.
    fn read_without_data(
        &self,
        place: Place<'_>,
        entry: MapEntry,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        if let Mapped::Error(_) = entry.mapped() {
            return Err(Error::SectorError { sector: place.sector });
        }
        into.copy_from(&ZEROES[..into.len()]);
        if entry.mapped() == Mapped::NeverWritten { Ok(()) } else { self.keep_zero(place) }
    }

    /// Marks a sector whose data could not be read, if that is to stay so. Returns what has failed.
    #[cold]
    fn unreadable(&self, place: Place<'_>, entry: MapEntry, error: MediaError) -> Error {
        let Place { arena, lba, .. } = place;
        if error.cause == Cause::Medium
            && self.btt.can_mark_unreadable()
            && let Err(failed) = arena.mark_unreadable(&self.btt.medium, lba, entry)
        {
            return failed;
        }
        error.into()
    }
}
