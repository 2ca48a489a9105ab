//! Reading a sector while others may be writing it.

use vm_memory::VolatileSlice;

use super::batch::{Batch, ZEROES};
use super::engine::Place;
use super::error::Error;
use super::map::{MapEntry, Mapped};
use crate::pmem::{Cause, PersistentMemory};

impl<M: PersistentMemory> Batch<'_, M> {
    /// Reads the bytes of `sector` from `offset` on into all of `into`; they are inside it.
    pub(super) fn read_sector(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let place = self.btt.locate(sector);
        if self.round.holds(place.arena.number, place.lba) {
            self.commit();
        }
        let read = self.read_tracked(place, offset, into);
        self.btt.tracking.clear(self.queue);
        read
    }

    /// Looks the sector up and reads its block, which stays in the tracking table.
    fn read_tracked(
        &self,
        place: Place<'_>,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let Place { arena, lba, .. } = place;
        let medium = &self.btt.medium;
        let mut entry = arena.load_entry(medium, lba)?;
        loop {
            self.btt.tracking.publish(self.queue, arena.number, entry.block(lba));
            let again = arena.load_entry(medium, lba)?;
            if again == entry || mutant!(NoSecondLook) {
                return self.read_block(place, entry, offset, into);
            }
            entry = again;
        }
    }

    fn read_block(
        &self,
        place: Place<'_>,
        entry: MapEntry,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let Place { arena, lba, sector } = place;
        let block = match entry.mapped() {
            Mapped::NeverWritten | Mapped::Zero(_) => {
                into.copy_from(&ZEROES[..into.len()]);
                return Ok(());
            }
            Mapped::Error(_) => return Err(Error::SectorError { sector }),
            Mapped::Data(block) => block,
        };
        let read = self.btt.medium.read(arena.block_offset(block) + offset as u64, into);
        if let Err(error) = read {
            if error.cause == Cause::Medium && !self.btt.read_only {
                arena.mark_unreadable(&self.btt.medium, lba, entry)?;
            }
            return Err(error.into());
        }
        Ok(())
    }
}
