//! Recovery: from the flog to the lanes, and to the writes that a crash left half done.
//!
//! A write is committed by its flog entry {L, O, N} and done when map\[L\] names N. An entry with
//! O ≠ N whose sector is still mapped to O is *pending*: its data are complete, and only the map
//! entry is missing. Replaying one can make another pending (two writes of the same sector through
//! different lanes), so it goes on until nothing changes. Before, the entries of groups that are not complete are
//! [taken back](groups). Nothing here writes: what has to be stored
//! is handed to the caller, who may also keep it in memory.

use std::collections::HashMap;

use uuid::Uuid;

use crate::btt::engine::{Lane, Recovered};
use crate::btt::format::error::{Error, FlogFault, PlacesInUse};
use crate::btt::format::flog::{self, ENTRY_SIZE, FlogEntry, LogLayout, PLACES, Sequence, Slot};
use crate::btt::format::geometry::{FLOG_PAIR_SIZE, Geometry};
use crate::btt::format::map::{MapEntry, has_error_flag};
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::PersistentMemory;

mod groups;

/// The four places of a lane.
type Places = [FlogEntry; PLACES];

/// Reads the flog of the arena `number` at `start` and works out what a crash left to do.
pub(super) fn recover<M: PersistentMemory>(
    medium: &M,
    number: usize,
    start: u64,
    uuid: Uuid,
    geometry: &Geometry,
) -> Result<Recovered, Error> {
    let corrupt = |fault| Error::BadFlog { arena: number, fault };
    let places = read_flog(medium, start, geometry)?;
    let layout = detect_layout(&places).map_err(corrupt)?;
    let mut newest = places
        .iter()
        .zip(0..)
        .map(|(places, index)| newest_entry(places, layout, LaneIndex(index), geometry))
        .collect::<Result<Vec<_>, _>>()
        .map_err(corrupt)?;
    let entry = |lba| -> Result<MapEntry, Error> {
        Ok(MapEntry(medium.load_u32(start + geometry.map_entry_offset(lba))?))
    };
    let records = groups::read(medium, start, uuid, geometry)?;
    let flog = Flog { places: &places, layout, geometry };
    let taken_back = groups::take_back(&records.whole, &flog, &mut newest, &entry)?;
    let (undone, taken_back) = taken_back.into_iter().unzip();
    let lanes: Vec<Lane> = newest.iter().map(|newest| newest.lane).collect();
    check_free_blocks(&lanes).map_err(corrupt)?;
    let pending = plan_replay(&newest, number, entry)?;
    let newest = newest.into_iter().map(|newest| newest.entry).collect();
    Ok(Recovered { layout, lanes, newest, undone, taken_back, records: records.to_clear, pending })
}

fn read_flog<M: PersistentMemory>(
    medium: &M,
    start: u64,
    geometry: &Geometry,
) -> Result<Vec<Places>, Error> {
    let mut bytes = vec![0; geometry.nfree as usize * FLOG_PAIR_SIZE as usize];
    medium.read_bytes(start + geometry.logoff, &mut bytes)?;
    let (entries, _) = bytes.as_chunks::<{ ENTRY_SIZE as usize }>();
    let entries: Vec<FlogEntry> = entries.iter().map(FlogEntry::decode).collect();
    Ok(entries.as_chunks::<PLACES>().0.to_vec())
}

fn detect_layout(lanes: &[Places]) -> Result<LogLayout, FlogFault> {
    let used = std::array::from_fn(|place| lanes.iter().any(|places| !places[place].is_empty()));
    LogLayout::detect(used).ok_or(FlogFault::Places(PlacesInUse(used)))
}

/// The flog of an arena as it was read.
struct Flog<'a> {
    places: &'a [Places],
    layout: LogLayout,
    geometry: &'a Geometry,
}

/// A lane with the newest of its entries.
#[derive(Clone, Copy)]
struct Newest {
    entry: FlogEntry,
    lane: Lane,
}

fn newest_entry(
    places: &Places,
    layout: LogLayout,
    index: LaneIndex,
    geometry: &Geometry,
) -> Result<Newest, FlogFault> {
    let [first, second] = [Slot::First, Slot::Second].map(|slot| places[layout.place(slot)]);
    let newest = flog::newer(first.seq, second.seq).ok_or(FlogFault::Sequences {
        lane: index,
        first: first.seq,
        second: second.seq,
    })?;
    let entry = match newest {
        Slot::First => first,
        Slot::Second => second,
    };
    let (lba, old, new) = (entry.lba(), entry.old_block(), entry.new_block());
    let exist = lba.0 < geometry.external_nlba
        && old.0 < geometry.internal_nlba
        && new.0 < geometry.internal_nlba;
    // `newer` lets only 1, 2 and 3 be the newer.
    let (true, Some(sequence)) = (exist, Sequence::new(entry.seq)) else {
        return Err(FlogFault::OutOfRange { lane: index, lba, old, new });
    };
    let lane = Lane {
        index,
        free: old,
        free_has_error: has_error_flag(entry.old_map),
        slot: newest.other(),
        sequence: sequence.next(),
        // Opening makes it durable.
        map_sync: 0,
    };
    Ok(Newest { entry, lane })
}

fn check_free_blocks(lanes: &[Lane]) -> Result<(), FlogFault> {
    let mut owners: HashMap<Block, LaneIndex> = HashMap::with_capacity(lanes.len());
    for lane in lanes {
        if let Some(first) = owners.insert(lane.free, lane.index) {
            return Err(FlogFault::SharedFreeBlock { first, second: lane.index, block: lane.free });
        }
    }
    Ok(())
}

/// The map entries that the pending writes still need, found by replaying them in memory until
/// nothing changes.
fn plan_replay(
    newest: &[Newest],
    arena: usize,
    entry: impl Fn(Lba) -> Result<MapEntry, Error>,
) -> Result<Vec<(Lba, MapEntry)>, Error> {
    let mut planned: HashMap<Lba, MapEntry> = HashMap::new();
    // An entry with O = N is that of a lane that was never used.
    let mut waiting: Vec<&FlogEntry> = newest
        .iter()
        .map(|newest| &newest.entry)
        .filter(|entry| entry.old_block() != entry.new_block())
        .collect();
    let mut replayed: Vec<&FlogEntry> = Vec::new();
    loop {
        let mut still_waiting = Vec::with_capacity(waiting.len());
        let before = replayed.len();
        for write in waiting {
            let lba = write.lba();
            let now = planned.get(&lba).map_or_else(|| entry(lba), |planned| Ok(*planned))?;
            let superseded = now.block(lba) != write.old_block();
            if !superseded || mutant!(btt::SupersededReplayed) {
                planned.insert(lba, MapEntry::data(write.new_block()));
                replayed.push(write);
            } else {
                still_waiting.push(write);
            }
        }
        if replayed.len() == before {
            break;
        }
        waiting = still_waiting;
    }
    // A replayed write that has become pending again would be replayed without end.
    for write in replayed {
        let lba = write.lba();
        if planned.get(&lba).is_some_and(|planned| planned.block(lba) == write.old_block()) {
            return Err(Error::BadFlog { arena, fault: FlogFault::EndlessReplay { lba } });
        }
    }
    let mut pending: Vec<(Lba, MapEntry)> = planned.into_iter().collect();
    pending.sort_unstable_by_key(|(lba, _)| *lba);
    Ok(pending)
}

#[cfg(test)]
mod tests;
