//! An open arena: its map, its flog and its blocks.

use std::sync::Arc;

use log::{error, warn};

use super::lane::Lane;
use super::map_locks::{LockKey, MapLocks};
use super::sync::{AtomicBool, Ordering};
use super::unsynced::UnsyncedEntries;
use crate::btt::format::discovery::Copies;
use crate::btt::format::error::Error;
use crate::btt::format::flog::{self, FlogEntry, LogLayout, Slot};
use crate::btt::format::geometry::{FLOG_PAIR_SIZE, INFO_SIZE, MAP_ENTRY_SIZE};
use crate::btt::format::info_block::{InfoBlock, InfoFault};
use crate::btt::format::map::MapEntry;
use crate::btt::format::record::{self, RECORD_SIZE, Record};
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::{Cause, Intent, MediaError, PersistentMemory, SharedSync, make_dirty};

/// How a flog entry is taken back: half of it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::btt) struct Undo {
    pub lane: LaneIndex,
    /// Where the entry is.
    pub slot: Slot,
    /// What its half that commits becomes.
    pub half: u64,
}

/// An open arena.
#[derive(Debug)]
pub(super) struct Arena {
    pub number: usize,
    /// Offset in the namespace.
    pub start: u64,
    /// Number of the first of its sectors.
    pub first_sector: u64,
    pub info: InfoBlock,
    pub log_layout: LogLayout,
    pub locks: MapLocks,
    /// Nothing may be written any more: the medium failed in the middle of a write.
    error: AtomicBool,
    /// The medium is not all that says where a sector is.
    looks_aside: bool,
    /// Map entries that replace those on the medium, by sector: pending writes that could not be
    /// replayed because the medium, or the arena, is read-only.
    replayed: Vec<(Lba, MapEntry)>,
    /// Map entries that are on the medium and not durable.
    pub unsynced: UnsyncedEntries,
    /// Syncs of all blocks.
    pub block_syncs: SharedSync,
    /// Syncs of the flog.
    pub flog_syncs: SharedSync,
}

impl Arena {
    pub(super) fn new(
        number: usize,
        start: u64,
        first_sector: u64,
        info: InfoBlock,
        log_layout: LogLayout,
    ) -> Arena {
        Arena {
            number,
            start,
            first_sector,
            info,
            log_layout,
            locks: MapLocks::new(),
            error: AtomicBool::new(info.error),
            looks_aside: false,
            replayed: Vec::new(),
            unsynced: UnsyncedEntries::new(Arc::default()),
            block_syncs: SharedSync::new(),
            flog_syncs: SharedSync::new(),
        }
    }

    /// Makes durable what recovery relies on: the info blocks as they were found, the flog, and the map
    /// entries of its `newest` entries.
    ///
    /// A daemon that was killed may have stored some of it without coming to its fence. Every process
    /// sees such stores, and a power failure still takes them away. A torn info block is made durable as
    /// well: after a power failure it could otherwise be the block that it was before, and count again.
    ///
    /// Unless `may_store`, the pages of a file are only synced. If the daemon was killed because a sync had
    /// failed, that is not enough: see [`write_back`].
    pub(super) fn persist<M: PersistentMemory>(
        &self,
        medium: &M,
        found: Copies,
        newest: &[FlogEntry],
        may_store: bool,
    ) -> Result<(), MediaError> {
        let geometry = &self.info.geometry;
        let keep = |offset, length| write_back(medium, self.start + offset, length, may_store);
        if !matches!(found, Copies::OnlyBackup(InfoFault::Media(_))) {
            keep(0, INFO_SIZE)?;
        }
        if !matches!(found, Copies::OnlyPrimary(InfoFault::Media(_))) {
            keep(geometry.info2off, INFO_SIZE)?;
        }
        keep(geometry.logoff, u64::from(geometry.nfree) * FLOG_PAIR_SIZE)?;
        let (records, length) = self.records();
        // Where nothing was ever stored, there is no record.
        if medium.next_stored(records) < records + length && !mutant!(btt::OnlyWholeRecordsSeen) {
            keep(records - self.start, length)?;
        }
        // A lane that was never used names a sector that is not its own, and no map entry was stored.
        for entry in newest.iter().filter(|entry| entry.old_block() != entry.new_block()) {
            keep(geometry.map_entry_offset(entry.lba()), MAP_ENTRY_SIZE)?;
        }
        medium.fence()
    }

    /// Takes flog entries of incomplete groups back; durable on return.
    pub(super) fn take_back_all<M: PersistentMemory>(
        &self,
        medium: &M,
        undone: &[Undo],
    ) -> Result<(), MediaError> {
        undone.iter().try_for_each(|undo| self.undo(medium, undo))?;
        medium.fence()
    }

    /// Clears the records of groups of these sets, once all that they are needed for is durable; durable on
    /// return.
    pub(super) fn clear_records<M: PersistentMemory>(
        &self,
        medium: &M,
        sets: &[u64],
    ) -> Result<(), MediaError> {
        for set in sets {
            self.clear_record(medium, *set as usize)?;
        }
        medium.fence()
    }

    /// Completes the pending writes on the medium; durable on return.
    pub(super) fn replay<M: PersistentMemory>(
        &self,
        medium: &M,
        pending: &[(Lba, MapEntry)],
    ) -> Result<(), MediaError> {
        for (lba, entry) in pending {
            self.store_entry(medium, *lba, *entry)?;
        }
        medium.fence()
    }

    /// Completes the pending writes in memory.
    pub(super) fn replay_in_memory(&mut self, pending: Vec<(Lba, MapEntry)>) {
        self.replayed = pending;
        self.looks_aside = true;
    }

    /// Lets stores to the map become durable with the next of `syncs`, rather than with the round.
    pub(super) fn defer(&mut self, syncs: Arc<SharedSync>) {
        self.unsynced = UnsyncedEntries::new(syncs);
        self.looks_aside = true;
    }

    /// The map entry of `lba`, checked to name a block that exists.
    // Every sector that is read comes here two or three times: what is rare stays out of line.
    #[inline]
    pub(super) fn load_entry<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
    ) -> Result<MapEntry, Error> {
        let aside = if self.looks_aside { self.look_aside(lba) } else { None };
        let entry = match aside {
            Some(entry) => entry,
            None => MapEntry(medium.load_u32(self.entry_offset(lba))?),
        };
        self.check_entry(lba, entry)
    }

    /// The map entry of a pending write that was completed in memory, or of a write that is not durable on the
    /// medium.
    #[cold]
    fn look_aside(&self, lba: Lba) -> Option<MapEntry> {
        if let Ok(found) = self.replayed.binary_search_by_key(&lba, |(lba, _)| *lba) {
            return Some(self.replayed[found].1);
        }
        if mutant!(btt::UnsyncedOverlooked) { None } else { self.unsynced.get(lba) }
    }

    /// As [`load_entry`](Self::load_entry), for an entry that is going to be replaced: where the map has a
    /// hole and the file system is full, this fails, as the store would. The caller holds the map lock,
    /// and the arena is writable.
    pub(super) fn load_entry_to_replace<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
    ) -> Result<MapEntry, Error> {
        self.check_entry(lba, MapEntry(medium.touch_u32(self.entry_offset(lba))?))
    }

    #[inline]
    fn check_entry(&self, lba: Lba, entry: MapEntry) -> Result<MapEntry, Error> {
        if entry.block(lba).0 < self.info.geometry.internal_nlba {
            Ok(entry)
        } else {
            Err(self.bad_entry(lba, entry))
        }
    }

    #[cold]
    fn bad_entry(&self, lba: Lba, entry: MapEntry) -> Error {
        let (block, blocks) = (entry.block(lba), self.info.geometry.internal_nlba);
        Error::BadMapEntry { arena: self.number, lba, block, blocks }
    }

    /// The number of the first sector from `lba` on whose map entry is in no hole of the map, or one beyond the
    /// last.
    pub(super) fn next_stored_entry<M: PersistentMemory>(&self, medium: &M, lba: Lba) -> u32 {
        let offset = self.entry_offset(lba);
        let hole = medium.next_stored(offset).saturating_sub(offset) / MAP_ENTRY_SIZE;
        lba.0.saturating_add(u32::try_from(hole).unwrap_or(u32::MAX))
    }

    /// Begins to fetch the map entry of `lba`, which is going to be looked at, or changed.
    pub(super) fn prefetch_entry<M: PersistentMemory>(&self, medium: &M, lba: Lba, intent: Intent) {
        medium.prefetch(self.entry_offset(lba), MAP_ENTRY_SIZE, intent);
    }

    /// Stores a map entry; durable after the next fence. The caller holds its map lock, or is alone.
    pub(super) fn store_entry<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
        entry: MapEntry,
    ) -> Result<(), MediaError> {
        self.store_entry_only(medium, lba, entry)?;
        self.flush_entry(medium, lba)
    }

    /// Stores a map entry; durable after [`flush_entry`](Self::flush_entry), of any entry of its cache
    /// line, and the next fence. The caller holds its map lock.
    pub(super) fn store_entry_only<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
        entry: MapEntry,
    ) -> Result<(), MediaError> {
        medium.store_u32(self.entry_offset(lba), entry.0)
    }

    /// Begins to write a map entry back, whichever process stored it.
    pub(super) fn flush_entry<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
    ) -> Result<(), MediaError> {
        medium.flush(self.entry_offset(lba), MAP_ENTRY_SIZE)
    }

    /// Stores the two halves of `lane`'s next flog entry, in this order.
    ///
    /// They share a cache line, whose stores a power failure keeps in order.
    pub(super) fn store_flog_entry<M: PersistentMemory>(
        &self,
        medium: &M,
        lane: &Lane,
        entry: FlogEntry,
    ) -> Result<(), MediaError> {
        let [place, commit] = entry.halves();
        medium.store_u64_pair(self.flog_entry_offset(lane), place, commit)
    }

    /// Begins to write back the flog entry that [`store_flog_entry`](Self::store_flog_entry) stored.
    pub(super) fn flush_flog_entry<M: PersistentMemory>(
        &self,
        medium: &M,
        lane: &Lane,
    ) -> Result<(), MediaError> {
        medium.flush(self.flog_entry_offset(lane), flog::ENTRY_SIZE)
    }

    /// Takes back the flog entry that [`store_flog_entry`](Self::store_flog_entry) stored, so that the one
    /// before it is the lane's newest again; durable after the next fence.
    pub(super) fn take_back<M: PersistentMemory>(
        &self,
        medium: &M,
        lane: &Lane,
    ) -> Result<(), MediaError> {
        let entry = self.load_flog_entry(medium, lane.index, lane.slot)?;
        let other = self.load_flog_entry(medium, lane.index, lane.slot.other())?;
        let half = entry.undone(&other);
        self.undo(medium, &Undo { lane: lane.index, slot: lane.slot, half })
    }

    /// Takes a flog entry back; durable after the next fence.
    pub(super) fn undo<M: PersistentMemory>(
        &self,
        medium: &M,
        undo: &Undo,
    ) -> Result<(), MediaError> {
        let commit = self.slot_offset(undo.lane, undo.slot) + 8;
        if mutant!(btt::UndoneInTwoStores) {
            medium.store_u32(commit, undo.half as u32)?;
            medium.store_u32(commit + 4, (undo.half >> u32::BITS) as u32)?;
            return medium.flush(commit, 8);
        }
        medium.store_u64(commit, undo.half)?;
        medium.flush(commit, 8)
    }

    /// Stores the record of groups of a set; durable after the next fence. Its first word comes last: without
    /// it, the line is no record.
    pub(super) fn store_record<M: PersistentMemory>(
        &self,
        medium: &M,
        set: usize,
        record: &Record,
    ) -> Result<(), MediaError> {
        let set = if mutant!(btt::OneRecordForAll) { 0 } else { set };
        let offset = self.record_offset(set as u64);
        medium.store_line(offset, record.encode(record::magic(self.info.uuid)))?;
        medium.flush(offset, RECORD_SIZE)
    }

    /// Clears the record of groups of a set; durable after the next fence.
    pub(super) fn clear_record<M: PersistentMemory>(
        &self,
        medium: &M,
        set: usize,
    ) -> Result<(), MediaError> {
        let offset = self.record_offset(set as u64);
        medium.store_u64(offset, 0)?;
        medium.flush(offset, 8)
    }

    /// Offset and length of all blocks, and of the records of groups behind them.
    pub(super) fn blocks(&self) -> (u64, u64) {
        let geometry = &self.info.geometry;
        (self.start + geometry.dataoff, geometry.mapoff - geometry.dataoff)
    }

    /// Offset and length of the map.
    pub(super) fn map(&self) -> (u64, u64) {
        let geometry = &self.info.geometry;
        (self.start + geometry.mapoff, geometry.logoff - geometry.mapoff)
    }

    /// Offset and length of the flog.
    pub(super) fn flog(&self) -> (u64, u64) {
        let geometry = &self.info.geometry;
        (self.start + geometry.logoff, u64::from(geometry.nfree) * FLOG_PAIR_SIZE)
    }

    fn record_offset(&self, set: u64) -> u64 {
        self.start + self.info.geometry.record_offset(set)
    }

    /// Offset and length of all records of groups.
    fn records(&self) -> (u64, u64) {
        (self.record_offset(0), self.info.geometry.record_slots() * RECORD_SIZE)
    }

    fn load_flog_entry<M: PersistentMemory>(
        &self,
        medium: &M,
        lane: LaneIndex,
        slot: Slot,
    ) -> Result<FlogEntry, MediaError> {
        let mut bytes = [0; flog::ENTRY_SIZE as usize];
        medium.read_bytes(self.slot_offset(lane, slot), &mut bytes)?;
        Ok(FlogEntry::decode(&bytes))
    }

    fn flog_entry_offset(&self, lane: &Lane) -> u64 {
        self.slot_offset(lane.index, lane.slot)
    }

    fn slot_offset(&self, lane: LaneIndex, slot: Slot) -> u64 {
        let slot = self.log_layout.slot_offset(slot);
        self.start + self.info.geometry.flog_offset(lane) + slot
    }

    fn entry_offset(&self, lba: Lba) -> u64 {
        self.start + self.info.geometry.map_entry_offset(lba)
    }

    /// Offset of a block's bytes in the namespace.
    pub(super) fn block_offset(&self, block: Block) -> u64 {
        self.start + self.info.geometry.block_offset(block)
    }

    /// Refuses to write once the arena is read-only.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        if self.error.load(Ordering::Relaxed) {
            Err(Error::ArenaReadOnly { arena: self.number })
        } else {
            Ok(())
        }
    }

    /// Makes the arena read-only: a write may be committed in the flog and not be in the map, and no
    /// later write of its sector may hide that from recovery.
    ///
    /// The next opening recovers the write, and the arena can be written again. Only where the medium is
    /// bad, so that recovery would fail too, the info blocks say for good that the arena has failed.
    pub(super) fn fail<M: PersistentMemory>(&self, medium: &M, cause: &MediaError) {
        if self.error.swap(true, Ordering::Relaxed) {
            return;
        }
        if !is_bad_medium(medium, cause) {
            let number = self.number;
            error!("arena {number} is read-only until it is opened again: {cause}");
            return;
        }
        error!("arena {} is read-only from now on: {cause}", self.number);
        let info = InfoBlock { error: true, ..self.info };
        let copies = [self.start + info.geometry.info2off, self.start];
        for offset in copies {
            if let Err(error) = info.write(medium, offset) {
                warn!("cannot note in the info block that arena {} failed: {error}", self.number);
            }
        }
    }

    /// Keeps in the map that a sector cannot be read, unless it was written since its entry was
    /// `seen`.
    pub(super) fn mark_unreadable<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
        seen: MapEntry,
    ) -> Result<(), Error> {
        let _guard = self.locks.lock(LockKey::of(self.number, lba));
        if self.load_entry(medium, lba)? == seen || mutant!(btt::ErrorMarkedBlindly) {
            self.store_unreadable(medium, lba, seen.block(lba))?;
        }
        Ok(())
    }

    /// Keeps in the map that the block of a sector cannot be read; durable on return. The caller
    /// holds the map lock.
    pub(super) fn store_unreadable<M: PersistentMemory>(
        &self,
        medium: &M,
        lba: Lba,
        block: Block,
    ) -> Result<(), MediaError> {
        if self.check_writable().is_ok() {
            warn!(
                "arena {}: {lba} cannot be read, and is marked so until it is written",
                self.number
            );
            self.store_entry(medium, lba, MapEntry::error(block))?;
            medium.fence()?;
        }
        Ok(())
    }
}

/// Begins to make durable `length` bytes at `offset` that an earlier process may have stored.
///
/// Their pages are made dirty first, as a sync of the earlier process may have failed. No other process stores
/// there meanwhile.
fn write_back<M: PersistentMemory>(
    medium: &M,
    offset: u64,
    length: u64,
    may_store: bool,
) -> Result<(), MediaError> {
    if may_store {
        make_dirty(medium, offset..offset + length)?;
    }
    medium.flush(offset, length)
}

/// Returns whether the medium is bad where a store failed, so that it cannot be read there either. If it
/// can, the store failed for a reason that may pass: the file system is full, or a sync has failed.
pub(super) fn is_bad_medium<M: PersistentMemory>(medium: &M, error: &MediaError) -> bool {
    let word = error.offset - error.offset % u64::from(u32::BITS / 8);
    error.cause == Cause::Medium && medium.load_u32(word).is_err()
}
