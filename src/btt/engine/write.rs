//! Writing in rounds: as many sectors as there are lanes, with three fences.
//!
//! | step | | |
//! |---|---|---|
//! | 1 | `stage` | data into the free block of a lane, once no reader reads it any more |
//! | | fence | the data are durable |
//! | 2 | `log` | under the map locks: flog entry {lba, old, new, seq} |
//! | | fence | **the commit point**: recovery completes the write from here on |
//! | 3 | `map` | map entry → new block |
//! | | fence | before the map locks are released: else another lane's flog entry for the same sector could become durable before this map entry, and replay would leave a block both mapped and free |
//!
//! In `strict`, where fences are syncs of the file, the third one is left to a later round: see
//! [`deferred`](super::deferred).
//!
//! Every lane stands alone on the medium, so a round is no unit of atomicity: a power failure leaves
//! each of its sectors old or new. Where several are to be so together, that takes a record: see
//! [`group`](super::group).

use arrayvec::ArrayVec;

use super::arena::{Arena, is_bad_medium};
use super::batch::{Batch, Data, ZEROES};
use super::btt::Place;
use super::map_locks::{ENTRIES, LockKey};
use super::read_tracking;
use super::round::{ROUND_SECTORS, Staged, Tag};
use crate::btt::format::error::Error;
use crate::btt::format::flog::FlogEntry;
use crate::btt::format::map::{self, MapEntry};
use crate::btt::format::units::{LaneIndex, Lba};
use crate::pmem::{Intent, MediaError, PersistentMemory};

/// The lanes of a round whose flog entry could not be stored, with their arenas.
type Broken = ArrayVec<(usize, LaneIndex), ROUND_SECTORS>;

/// Fences of a round: after the data, after the log, and after the map.
const ROUND_FENCES: u64 = 3;

impl<M: PersistentMemory> Batch<'_, M> {
    /// Step 1: puts the data of `sector` into the free block of a lane.
    pub(super) fn stage(&mut self, sector: u64, data: Data<'_>, tag: Tag) -> Result<(), Error> {
        let place = self.btt.locate(sector);
        place.arena.check_writable()?;
        if !self.round.awaits(sector) {
            self.begin_group(place)?;
        }
        let staged = self.stage_member(place, data, tag);
        if staged.is_err() {
            self.round.abandon_group();
        }
        staged
    }

    /// Adds a sector to the group that was begun, which has room in the round.
    fn stage_member(&mut self, place: Place<'_>, data: Data<'_>, tag: Tag) -> Result<(), Error> {
        let Place { arena, lba, .. } = place;
        // It is looked at and changed once the data of the round are durable.
        arena.prefetch_entry(&self.btt.medium, lba, Intent::Store);
        let lane = self.take_lane(arena.number)?;
        self.make_fillable(arena.number, lane)?;
        self.fill(arena.number, lane, lba, data, tag)
    }

    /// Takes a lane for the round, and commits the round first if all are taken.
    #[inline]
    pub(super) fn take_lane(&mut self, arena: usize) -> Result<usize, Error> {
        if let Some(lane) = self.lanes.arenas[arena].take() {
            return Ok(lane);
        }
        self.commit();
        self.lanes.arenas[arena].take().ok_or(Error::NoLane { arena })
    }

    /// Waits until the free block of a lane is not read any more, and clears its poison.
    pub(super) fn make_fillable(&mut self, arena: usize, lane: usize) -> Result<(), Error> {
        // After a failed sync, the map on the medium may still name the block.
        self.btt.check_synced()?;
        let lane = self.lanes.arenas[arena].lane(lane);
        if !mutant!(btt::NoWaitForReaders) {
            self.btt.tracking.wait_until_unread(arena, lane.free);
        }
        if lane.free_has_error && !mutant!(btt::PoisonKept) {
            let arena = &self.btt.arenas[arena];
            let length = u64::from(arena.info.geometry.internal_lbasize);
            self.btt.medium.zero(arena.block_offset(lane.free), length)?;
            lane.free_has_error = false;
        }
        Ok(())
    }

    /// Puts data into the free block of a lane, metadata bytes as zeroes, and stages them for `lba`.
    pub(super) fn fill(
        &mut self,
        arena: usize,
        lane: usize,
        lba: Lba,
        data: Data<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        let (medium, lba_size) = (&self.btt.medium, self.btt.lba_size());
        let new = self.lanes.arenas[arena].lane(lane).free;
        let offset = self.btt.arenas[arena].block_offset(new);
        match data {
            Data::Buffer(buffer) => medium.write(offset, buffer)?,
            Data::Bytes(bytes) => medium.write_bytes(offset, bytes)?,
        }
        if lba_size.metadata() != 0 {
            let zeroes = &ZEROES[..lba_size.metadata() as usize];
            medium.write_bytes(offset + u64::from(lba_size.data()), zeroes)?;
        }
        let old = MapEntry(0);
        self.round.push(Staged { arena, lba, lane, new, old, tag, group: 0, zero: false });
        Ok(())
    }

    /// Writes all staged sectors; those that fail are kept for
    /// [`take_failures`](Self::take_failures).
    pub fn commit(&mut self) {
        self.round.abandon_group();
        if self.round.is_empty() {
            return self.end_round();
        }
        match self.begin_publishing() {
            Ok(()) => self.publish(),
            Err(error) => {
                self.fail_round(error);
                self.end_round();
                self.btt.keep_after_failed_sync(&error);
            }
        }
    }

    /// Makes the staged data durable, and takes the map locks.
    fn begin_publishing(&mut self) -> Result<(), MediaError> {
        self.fence_staged()?;
        self.lock_round();
        self.settle_staged()
    }

    /// Takes the map locks of all staged sectors.
    fn lock_round(&mut self) {
        let key = |staged: &Staged| LockKey::of(staged.arena, staged.lba);
        let keys = self.round.staged.iter().map(key).collect();
        self.lock_all(keys);
    }

    /// Takes map locks, each once, in ascending order.
    pub(super) fn lock_all(&mut self, mut keys: ArrayVec<LockKey, ROUND_SECTORS>) {
        if !mutant!(btt::UnsortedLocks) {
            keys.sort_unstable();
        }
        for (position, key) in keys.iter().enumerate() {
            if (position == 0 || keys[position - 1] != *key) && !mutant!(btt::NoMapLocks) {
                self.guards.push(self.btt.arenas[key.arena].locks.lock(*key));
            }
        }
    }

    /// Steps 2 and 3, and the end of the round. The map locks of all staged sectors are held, and
    /// their data are durable.
    pub(super) fn publish(&mut self) {
        let broken = self.log();
        if mutant!(btt::RecordClearedEarly) {
            let clear = |arena: &Arena| arena.clear_record(&self.btt.medium, self.lanes.number);
            let _ = self.btt.arenas.iter().try_for_each(clear);
        }
        let are_deferred = u64::from(self.btt.defers);
        self.round.fenced(ROUND_FENCES - are_deferred);
        if mutant!(btt::UnlockedMap) {
            self.guards.clear();
        }
        let published = self.fence_round().and_then(|()| self.map());
        if let Err(error) = published {
            self.fail_round_and_arenas(error);
        }
        self.end_round();
        if !broken.is_empty() {
            self.retire(&broken);
        }
        if let Err(error) = published {
            self.btt.keep_after_failed_sync(&error);
        }
    }

    /// The fence after the log or after the map.
    fn fence_round(&self) -> Result<(), MediaError> {
        if self.btt.defers {
            return self.sync_flog();
        }
        self.btt.medium.fence()?;
        if self.round.syncs { self.btt.medium.sync() } else { Ok(()) }
    }

    /// Step 2: a flog entry for each staged sector. Groups that cannot be logged fail and leave the
    /// round; returned are the lanes whose flog the medium has lost.
    fn log(&mut self) -> Broken {
        let mut broken = Broken::new();
        let mut failed: ArrayVec<u32, ROUND_SECTORS> = ArrayVec::new();
        let mut staged = std::mem::take(&mut self.round.staged);
        for group in staged.chunk_by_mut(|one, next| one.group == next.group) {
            if let Err(error) = self.log_group(group, &mut broken) {
                self.failures.push((group[0].tag, error));
                failed.push(group[0].group);
            }
        }
        if !failed.is_empty() {
            staged.retain(|staged| !failed.contains(&staged.group));
        }
        self.round.staged = staged;
        broken
    }

    /// Logs all sectors of a group, or none.
    fn log_group(&mut self, group: &mut [Staged], broken: &mut Broken) -> Result<(), Error> {
        if !mutant!(btt::MembersSeenLate) {
            group.iter_mut().try_for_each(|staged| self.look_up(staged))?;
        }
        for index in 0..group.len() {
            if mutant!(btt::MembersSeenLate) {
                self.look_up(&mut group[index])?;
            }
            if let Err(error) = self.log_sector(&group[index], broken) {
                self.take_back(&group[..index]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Looks for what a sector replaces. Nothing may fail for want of space after the commit.
    fn look_up(&self, staged: &mut Staged) -> Result<(), Error> {
        let arena = &self.btt.arenas[staged.arena];
        arena.check_writable()?;
        staged.old = arena.load_entry_to_replace(&self.btt.medium, staged.lba)?;
        Ok(())
    }

    fn log_sector(&mut self, staged: &Staged, broken: &mut Broken) -> Result<(), Error> {
        let medium = &self.btt.medium;
        let arena = &self.btt.arenas[staged.arena];
        let lane = self.lanes.arenas[staged.arena].lane(staged.lane);
        let entry = FlogEntry {
            lba: staged.lba.0,
            old_map: map::old_map(staged.old, staged.lba),
            new_map: staged.new.0,
            seq: lane.sequence.get(),
        };
        arena.store_flog_entry(medium, lane, entry).inspect_err(|error| {
            if is_bad_medium(medium, error) {
                broken.push((staged.arena, lane.index));
            }
        })?;
        // The entry may be durable from here on, whatever happens.
        arena.flush_flog_entry(medium, lane).inspect_err(|error| arena.fail(medium, error))?;
        Ok(())
    }

    /// Step 3: the map entries; then the lanes go on.
    ///
    /// # Errors
    ///
    /// The fence failed, and the lanes stay as they were.
    fn map(&mut self) -> Result<(), MediaError> {
        let btt = self.btt;
        if btt.defers {
            self.begin_deferred();
        }
        for (index, staged) in self.round.staged.iter().enumerate() {
            let arena = &btt.arenas[staged.arena];
            if let Err(error) = self.map_sector(index) {
                arena.unsynced.take_back(staged.lba);
                arena.fail(&btt.medium, &error);
                self.failures.push((staged.tag, error.into()));
            }
        }
        if mutant!(btt::EarlyUnlock) {
            self.guards.clear();
        }
        if btt.defers {
            self.end_deferred();
        } else {
            self.fence_round()?;
        }
        read_tracking::after_mapping();
        for staged in &self.round.staged {
            let lane = self.lanes.arenas[staged.arena].lane(staged.lane);
            lane.advance(staged.old.block(staged.lba), staged.old.is_error());
        }
        Ok(())
    }

    /// Maps the staged sector at `index`, and begins to write its entry back, unless the next one's is
    /// in the same cache line: a line that is stored to while it is written back makes the CPU wait.
    fn map_sector(&self, index: usize) -> Result<(), MediaError> {
        let (medium, staged) = (&self.btt.medium, &self.round.staged[index]);
        let arena = &self.btt.arenas[staged.arena];
        arena.store_entry_only(medium, staged.lba, staged.new_entry())?;
        let arena_of = |staged: &Staged| {
            if mutant!(btt::LineOfAnyArena) { 0 } else { staged.arena }
        };
        let line = |staged: &Staged| (arena_of(staged), staged.lba.0 / ENTRIES);
        let neighbour = self.round.staged.get(index + 1);
        if neighbour.is_none_or(|neighbour| line(neighbour) != line(staged)) {
            arena.flush_entry(medium, staged.lba)?;
        }
        Ok(())
    }

    /// Fails all staged sectors.
    fn fail_round(&mut self, error: MediaError) {
        self.failures.extend(self.round.staged.iter().map(|staged| (staged.tag, error.into())));
    }

    /// Fails all staged sectors, some of which may be committed, and makes their arenas read-only.
    fn fail_round_and_arenas(&mut self, error: MediaError) {
        for staged in &self.round.staged {
            self.btt.arenas[staged.arena].fail(&self.btt.medium, &error);
        }
        self.fail_round(error);
    }

    /// Releases the map locks and all lanes.
    pub(super) fn end_round(&mut self) {
        self.guards.clear();
        self.round.clear();
        for lanes in &mut self.lanes.arenas {
            lanes.release();
        }
    }

    /// Gives up lanes whose flog cannot be written.
    fn retire(&mut self, broken: &Broken) {
        for (arena, lanes) in self.lanes.arenas.iter_mut().enumerate() {
            lanes.retire(|lane| broken.contains(&(arena, lane)));
        }
    }
}
