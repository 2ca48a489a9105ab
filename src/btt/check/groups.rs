//! Groups: writes that are all or nothing, of which a crash may leave a part.
//!
//! The record of a set of lanes says which flog entries of its last round belong together. Where one of them
//! is missing, the others are taken back when the BTT is opened, as far as the map does not have them yet. The
//! lane then is as its other entry says.

use uuid::Uuid;

use super::arena::Arena;
use super::flog::{Flog, Lane, LaneWrite};
use super::report::{Findings, TakenBack};
use crate::btt::format::record::{self, RECORD_SIZE, Record};
use crate::pmem::PersistentMemory;

/// What the records of an arena say.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Number of records that say something.
    pub records: u32,
    /// The entries that are taken back.
    pub taken_back: Vec<TakenBack>,
}

/// Reads the records of an arena, and takes the entries of incomplete groups out of `flog`.
pub(super) fn take_back<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    uuid: Uuid,
    flog: &mut Flog,
) -> Groups {
    let mut groups = Groups::default();
    for number in 0..arena.geometry.record_slots() {
        let mut line = [0; RECORD_SIZE as usize];
        let read = arena.medium.read_bytes(arena.record_offset(number), &mut line);
        let record = read.ok().and_then(|()| Record::decode(&line, record::magic(uuid)));
        let Some(record) = record.filter(|_| !mutant!(btt::GroupsRepaired)) else { continue };
        groups.records += 1;
        for group in record.groups(arena.geometry.nfree) {
            let (present, missing): (Vec<_>, Vec<_>) = group
                .into_iter()
                .partition(|(lane, sequence)| flog.newest_number(*lane) == Some(*sequence));
            if missing.is_empty() {
                continue;
            }
            for (lane, _) in present {
                groups.taken_back.extend(take_lane_back(arena, lane.0 as usize, flog));
            }
        }
    }
    groups
}

/// Takes the newest entry of a lane back, if the map does not have it.
fn take_lane_back<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    index: usize,
    flog: &mut Flog,
) -> Option<TakenBack> {
    let Lane::Wrote(LaneWrite { lane, lba, old, new }) = flog.lanes[index] else { return None };
    if arena.map_entry(lba).ok()?.block(lba) != old {
        return None;
    }
    let (place, half, before) = flog.without_newest(arena, lane, &mut Findings::new(0))?;
    if before.free_block() != Some(new) {
        return None;
    }
    flog.lanes[index] = before;
    flog.forget_newest(lane);
    let offset = arena.place_offset(lane, place) + 8;
    Some(TakenBack { arena: arena.number, lane, lba, new, offset, half })
}
