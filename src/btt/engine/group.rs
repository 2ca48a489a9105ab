//! Groups: the sectors of a write that are committed together or not at all.
//!
//! A write is cut at multiples of the [unit](Btt::atomic_size), and each piece is a group. A round takes
//! whole groups only. If it has one of two sectors or more, its [record](crate::btt::format::record) says
//! which flog entries belong together, and is durable before the first of them is stored. So recovery can
//! take those back of a group that is not complete: the fence after the log is the commit point of all.
//!
//! A record must not outlive its round by more than the lanes stand still: the next round with lanes of the
//! same arena replaces it, or clears it.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::arena::is_bad_medium;
use super::batch::Batch;
use super::btt::{Btt, Place};
use super::lane::ArenaLanes;
use super::round::{ROUND_SECTORS, Staged};
use crate::btt::format::error::Error;
use crate::btt::format::record::{Record, WINDOW};
use crate::btt::format::units::Lba;
use crate::pmem::{MediaError, PersistentMemory};

impl<M: PersistentMemory> Btt<M> {
    /// Bytes up to which an aligned write of a power of two is all or nothing; the size of a sector: only
    /// sectors are.
    #[must_use]
    pub fn atomic_size(&self) -> u32 {
        self.atomic_sectors * self.sector_size()
    }
}

impl<M: PersistentMemory> Batch<'_, M> {
    /// Says that the next writes, in ascending order, are the `count` whole sectors from `first` on, all of
    /// one request, in however many calls they come.
    pub fn begin_write(&mut self, first: u64, count: u64) {
        self.extent = first..first.saturating_add(count);
    }

    /// The sectors of the request that are written together with the one at `place`, from it on.
    fn piece(&self, place: Place<'_>) -> Range<u64> {
        let Place { arena, sector, .. } = place;
        // A power of two.
        let unit = u64::from(self.btt.atomic_sectors);
        if !self.extent.contains(&sector) {
            return sector..sector + 1;
        }
        let cut = if mutant!(btt::PieceUncut) { self.extent.start } else { 0 };
        let end = sector + unit - ((sector - cut) & (unit - 1));
        let arena_end = arena.first_sector + u64::from(arena.info.geometry.external_nlba);
        sector..end.min(self.extent.end).min(arena_end)
    }

    /// Begins the group of the sector at `place`, and commits the round first if the group does not fit.
    pub(super) fn begin_group(&mut self, place: Place<'_>) -> Result<(), Error> {
        if self.btt.atomic_sectors > 1 {
            self.round.abandon_group();
            if self.extent.end - self.extent.start > 1 {
                let piece = self.piece(place);
                if piece.end - piece.start > 1 {
                    return self.begin_several(place, piece);
                }
            }
        }
        self.begin_single(place);
        Ok(())
    }

    /// Begins the group of the sectors `piece`, the first of which is at `place`.
    fn begin_several(&mut self, place: Place<'_>, piece: Range<u64>) -> Result<(), Error> {
        let count = (piece.end - piece.start) as usize;
        let arena = place.arena.number;
        let looked_at = if mutant!(btt::FirstOfGroupLookedAt) { 1 } else { count as u32 };
        let again = self.repeats(arena, place.lba, looked_at);
        let fits = self.fits(arena, count);
        if !fits && mutant!(btt::GroupOverRounds) {
            self.begin_single(place);
            return Ok(());
        }
        if again || !fits {
            self.commit();
            if !self.lanes.arenas[arena].make_room(count) {
                return Err(Error::NoLane { arena });
            }
        }
        self.round.begin_group(piece);
        Ok(())
    }

    /// Begins the group of the sector at `place`, which is its only one.
    #[inline]
    fn begin_single(&mut self, place: Place<'_>) {
        if self.round.is_full() || self.repeats(place.arena.number, place.lba, 1) {
            self.commit();
        }
        self.round.begin_group(place.sector..place.sector + 1);
    }

    /// Returns whether one of `count` sectors is in the round already. Two writes of it must not commit together:
    /// recovery could take either for the last.
    fn repeats(&self, arena: usize, first: Lba, count: u32) -> bool {
        self.round.holds_any(arena, first, count) && !mutant!(btt::SameSectorTwice)
    }

    fn fits(&self, arena: usize, count: usize) -> bool {
        self.round.room() >= count && self.lanes.arenas[arena].have_room(count)
    }

    /// Begins to make the round's records durable, and makes its data so.
    pub(super) fn fence_staged(&mut self) -> Result<(), MediaError> {
        self.store_records()?;
        if self.btt.defers { self.sync_staged() } else { self.btt.fence_data() }
    }

    fn store_records(&mut self) -> Result<(), MediaError> {
        let is_live = |lanes: &ArenaLanes| lanes.record_is_live;
        if !self.round.has_groups() && !self.lanes.arenas.iter().any(is_live) {
            return Ok(());
        }
        let mut done: ArrayVec<usize, ROUND_SECTORS> = ArrayVec::new();
        for index in 0..self.round.staged.len() {
            let arena = self.round.staged[index].arena;
            if !done.contains(&arena) {
                done.push(arena);
                self.store_record(arena)?;
            }
        }
        Ok(())
    }

    /// Stores the record of the round's groups in an arena; if it has none, clears the last round's.
    fn store_record(&mut self, arena: usize) -> Result<(), MediaError> {
        let (btt, set) = (self.btt, self.lanes.number);
        let (medium, place) = (&btt.medium, &btt.arenas[arena]);
        if let Some(record) = self.record(arena) {
            let lanes = &mut self.lanes.arenas[arena];
            lanes.generation = record.generation;
            lanes.record_is_live = true;
            return place.store_record(medium, set, &record);
        }
        if !self.lanes.arenas[arena].record_is_live || mutant!(btt::RecordOutlived) {
            return Ok(());
        }
        match place.clear_record(medium, set) {
            // What cannot be read is no record.
            Err(error) if !is_bad_medium(medium, &error) => return Err(error),
            _ => self.lanes.arenas[arena].record_is_live = false,
        }
        Ok(())
    }

    /// The record of the round in an arena; `None`: there is no group of two sectors.
    fn record(&mut self, arena: usize) -> Option<Record> {
        if !self.round.has_groups() {
            return None;
        }
        let (set, sets) = (self.lanes.number, self.lanes.sets);
        let lanes = &mut self.lanes.arenas[arena];
        let mut record = Record {
            generation: lanes.generation.wrapping_add(1),
            sets: sets as u16,
            set: set as u16,
            first: lanes.window_start() as u16,
            ..Record::default()
        };
        let mut has_group = false;
        let staged = &self.round.staged;
        for (index, member) in staged.iter().enumerate().filter(|(_, one)| one.arena == arena) {
            let offset = lanes.window_offset(member.lane);
            // Only a group of one can be so far from the first, and it needs no record.
            if offset >= WINDOW {
                continue;
            }
            let goes_on = staged.get(index + 1).is_some_and(|next| next.group == member.group);
            has_group |= goes_on;
            record.add(offset, lanes.lane(member.lane).sequence, !goes_on);
        }
        has_group.then_some(record)
    }

    /// Takes the flog entries of `members` back, whose group is not going to be complete. If one cannot be
    /// taken back, the arena fails, and recovery takes it back.
    pub(super) fn take_back(&mut self, members: &[Staged]) {
        if mutant!(btt::MembersLeft) {
            return;
        }
        for member in members {
            let arena = &self.btt.arenas[member.arena];
            let lane = self.lanes.arenas[member.arena].lane(member.lane);
            if let Err(error) = arena.take_back(&self.btt.medium, lane) {
                arena.fail(&self.btt.medium, &error);
            }
        }
    }
}
