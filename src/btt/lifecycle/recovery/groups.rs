//! Groups that a crash left incomplete: their entries are taken back.
//!
//! A member of a group is *present* if the newest entry of its lane has the sequence number that the record
//! names. If all are, the group is committed. Otherwise those present are taken back, but only where they are
//! still pending: that the map has the sector at its old block says that no guest has been told of the write,
//! whatever another implementation has done since. What is taken back makes the entry in the lane's other
//! slot the newest again.

use uuid::Uuid;

use super::{Flog, Newest, newest_entry};
use crate::btt::engine::Undo;
use crate::btt::format::error::Error;
use crate::btt::format::flog::FlogEntry;
use crate::btt::format::geometry::Geometry;
use crate::btt::format::map::{MapEntry, strip_flags};
use crate::btt::format::record::{self, RECORD_SIZE, Record};
use crate::btt::format::units::{LaneIndex, Lba};
use crate::pmem::{Cause, PersistentMemory};

/// The records of an arena.
pub(super) struct Records {
    /// Those that are whole.
    pub whole: Vec<Record>,
    /// Numbers of those that are to be cleared, whole or not.
    pub to_clear: Vec<u64>,
}

/// Reads the records of an arena. What cannot be read is none.
pub(super) fn read<M: PersistentMemory>(
    medium: &M,
    start: u64,
    uuid: Uuid,
    geometry: &Geometry,
) -> Result<Records, Error> {
    let magic = record::magic(uuid);
    let mut records = Records { whole: Vec::new(), to_clear: Vec::new() };
    for slot in 0..geometry.record_slots() {
        let mut line = [0; RECORD_SIZE as usize];
        match medium.read_bytes(start + geometry.record_offset(slot), &mut line) {
            Err(error) if error.cause == Cause::Medium => continue,
            read => read?,
        }
        let record = Record::decode(&line, magic);
        let is_known = if mutant!(btt::OnlyWholeRecordsSeen) {
            record.is_some()
        } else {
            line.first_chunk() == Some(&magic.to_le_bytes())
        };
        if is_known && !mutant!(btt::RecordsKept) {
            records.to_clear.push(slot);
        }
        records.whole.extend(record);
    }
    if mutant!(btt::RecordIgnored) {
        records.whole.clear();
    }
    Ok(records)
}

/// Takes the entries of incomplete groups out of `newest`. Returns how they are taken back on the medium, with
/// what they were.
pub(super) fn take_back(
    records: &[Record],
    flog: &Flog<'_>,
    newest: &mut [Newest],
    entry: &impl Fn(Lba) -> Result<MapEntry, Error>,
) -> Result<Vec<(Undo, FlogEntry)>, Error> {
    let mut undone: Vec<(Undo, FlogEntry)> = Vec::new();
    for record in records {
        for group in groups(record, flog.geometry.nfree) {
            if is_complete(&group, newest) {
                continue;
            }
            for member @ (lane, _) in &group {
                let index = lane.0 as usize;
                if !is_present(*member, newest) {
                    continue;
                }
                let is_again = undone.iter().any(|(undo, _)| undo.lane == *lane);
                if is_again || !is_pending(&newest[index].entry, entry)? {
                    continue;
                }
                if let Some((undo, before)) = undo(flog, &newest[index]) {
                    undone.push((undo, newest[index].entry));
                    newest[index] = before;
                }
            }
        }
    }
    Ok(undone)
}

fn groups(record: &Record, nfree: u32) -> Vec<Vec<(LaneIndex, u32)>> {
    let mut record = *record;
    if mutant!(btt::RecordOfOneSet) {
        (record.sets, record.set) = (1, 0);
    }
    if mutant!(btt::RecordFromFirstLane) {
        record.first = 0;
    }
    record.groups(nfree)
}

fn is_present((lane, sequence): (LaneIndex, u32), newest: &[Newest]) -> bool {
    newest[lane.0 as usize].entry.seq == sequence
}

fn is_complete(group: &[(LaneIndex, u32)], newest: &[Newest]) -> bool {
    let needed = if mutant!(btt::AllButLastSuffices) { group.len() - 1 } else { group.len() };
    let mut members = group[..needed].iter();
    if mutant!(btt::OneSuffices) {
        return members.any(|member| is_present(*member, newest));
    }
    members.all(|member| is_present(*member, newest))
}

/// Returns whether the write of an entry is in the flog, and not in the map.
fn is_pending(
    write: &FlogEntry,
    entry: &impl Fn(Lba) -> Result<MapEntry, Error>,
) -> Result<bool, Error> {
    if write.old_block() == write.new_block() {
        return Ok(false);
    }
    let now = entry(write.lba())?;
    if mutant!(btt::UndoneUnlessPending) {
        return Ok(true);
    }
    if mutant!(btt::UndoneByRawEntry) {
        return Ok(now == MapEntry::data(write.old_block()));
    }
    if mutant!(btt::UndoneByMaskedEntry) {
        return Ok(strip_flags(now.0) == write.old_block());
    }
    Ok(now.block(write.lba()) == write.old_block())
}

/// How the newest entry of a lane is taken back, and what is the newest then. `None`: the entry before it is
/// not one that the lane can go on from.
fn undo(flog: &Flog<'_>, newest: &Newest) -> Option<(Undo, Newest)> {
    let (lane, slot) = (newest.lane.index, newest.lane.slot.other());
    let mut places = flog.places[lane.0 as usize];
    let other = places[flog.layout.place(slot.other())];
    let half = newest.entry.undone(&other);
    let place = &mut places[flog.layout.place(slot)];
    (place.new_map, place.seq) = (half as u32, (half >> u32::BITS) as u32);
    let before = newest_entry(&places, flog.layout, lane, flog.geometry).ok()?;
    let undone = if mutant!(btt::UndoneInOtherSlot) { slot.other() } else { slot };
    (before.lane.slot == slot && before.lane.free == newest.entry.new_block())
        .then_some((Undo { lane, slot: undone, half }, before))
}
