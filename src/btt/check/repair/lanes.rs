//! Lanes: pending writes completed, entries written anew.

use std::collections::{BTreeMap, HashSet};

use super::Round;
use super::remedy::{Remedy, Repair, Store};
use crate::btt::check::arena::Arena;
use crate::btt::check::flog::{self, Lane};
use crate::btt::check::report::Findings;
use crate::btt::check::{ArenaReport, Fault, PendingWrite, TakenBack};
use crate::btt::format::flog::{ENTRY_SIZE, FlogEntry, LogLayout, PLACES, Sequence, Slot, newer};
use crate::btt::format::info_block::InfoBlock;
use crate::btt::format::map::{MapEntry, strip_flags};
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::{MediaError, PersistentMemory};

/// A sequence number that no reader accepts, whatever the other one is: Linux goes by sum and
/// difference, and its sums are never more than 5.
const NO_SEQUENCE: u32 = 6;

/// How to write a lane anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// What it says is right: it stays legal throughout.
    Legal,
    /// What it says means nothing, and must not come to mean something on the way.
    Nonsense,
}

/// The stores that write a lane anew: as one that was never used, whose free block is that of
/// `free_map`, a word that may carry flags.
///
/// All are to the lane's one cache line, which keeps their order through a power failure. From a legal
/// lane, the way leads over entries that replace the block by itself: the first of them makes it the
/// free block, and each is newer than the one before. In the end the first slot has sequence number 1,
/// and the second is emptied, sequence number last.
pub(super) fn rewrite<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    layout: LogLayout,
    lane: LaneIndex,
    free_map: u32,
    from: From,
) -> Result<Vec<Store>, MediaError> {
    let entries = read_entries(arena, lane)?;
    let offset = |place: usize| arena.place_offset(lane, place);
    let lba = lane.0.min(arena.geometry.external_nlba - 1);
    let entry = |seq| FlogEntry { lba, old_map: free_map, new_map: strip_flags(free_map).0, seq };
    let slots = [Slot::First, Slot::Second].map(|slot| layout.place(slot));
    let others = (0..PLACES).filter(|place| *place != slots[0]);
    let mut stores = Vec::new();
    let mut store = |place: usize, half: u64, value: u64| {
        stores.push(Store::Double { offset: offset(place) + 8 * half, value });
    };
    let [first, second] = slots.map(|place| entries[place].seq);
    let newest = newer(first, second).filter(|_| from == From::Legal);
    let Some(mut slot) = newest else {
        let silent = silence(arena, lane).into_iter();
        let silent = silent.skip(usize::from(mutant!(btt::LaneNotSilenced)));
        let [what, commit] = entry(Sequence::FIRST.get()).halves();
        store(slots[0], 0, what);
        store(slots[0], 1, commit);
        return Ok(silent.chain(stores).collect());
    };
    for place in others.filter(|place| *place != slots[1]) {
        store(place, 0, 0);
        store(place, 1, 0);
    }
    let mut newest = entries[layout.place(slot)];
    while newest != entry(Sequence::FIRST.get()) || slot != Slot::First {
        // A legal pair has one of the three for its newer.
        let Some(sequence) = Sequence::new(newest.seq) else { break };
        slot = slot.other();
        newest = entry(sequence.next().get());
        let [what, commit] = newest.halves();
        store(layout.place(slot), 0, what);
        store(layout.place(slot), 1, commit);
    }
    // The half that says when comes last: an entry without it counts as none, whatever else it says.
    if !mutant!(btt::OtherSlotKept) {
        store(slots[1], 0, 0);
        store(slots[1], 1, 0);
    }
    Ok(stores)
}

fn read_entries<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    lane: LaneIndex,
) -> Result<[FlogEntry; PLACES], MediaError> {
    let mut bytes = [0; PLACES * ENTRY_SIZE as usize];
    arena.medium.read_bytes(arena.lane_offset(lane), &mut bytes)?;
    let (places, _) = bytes.as_chunks::<{ ENTRY_SIZE as usize }>();
    Ok(std::array::from_fn(|place| FlogEntry::decode(&places[place])))
}

/// Returns whether a lane can be read.
pub(super) fn is_readable<M: PersistentMemory>(arena: &Arena<'_, M>, lane: LaneIndex) -> bool {
    read_entries(arena, lane).is_ok()
}

/// The stores that let a lane say nothing any more, whatever it said, and in whichever layout. They are to its
/// one cache line, which keeps their order.
///
/// From the first on, no two of its entries are a legal pair; nor are they where some of what is left
/// becomes zero.
pub(super) fn silence<M: PersistentMemory>(arena: &Arena<'_, M>, lane: LaneIndex) -> Vec<Store> {
    let offset = |place: usize, half: u64| arena.place_offset(lane, place) + 8 * half;
    let first = Store::Double { offset: offset(0, 1), value: u64::from(NO_SEQUENCE) << 32 };
    let others = (1..PLACES).flat_map(|place| [offset(place, 0), offset(place, 1)]);
    let others = others.map(|offset| Store::Double { offset, value: 0 });
    [first].into_iter().chain(others).collect()
}

/// The newest entry's old map word, which names the free block of a legal lane, flags and all.
fn free_map<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    layout: LogLayout,
    lane: LaneIndex,
) -> Option<u32> {
    let entries = read_entries(arena, lane).ok()?;
    let [first, second] = [Slot::First, Slot::Second].map(|slot| entries[layout.place(slot)].seq);
    let newest = newer(first, second)?;
    Some(entries[layout.place(newest)].old_map)
}

/// What the lanes of an arena say.
pub(super) fn read<M: PersistentMemory>(arena: &Arena<'_, M>) -> Vec<Lane> {
    flog::read(arena, &mut Findings::new(0)).lanes
}

impl<M: PersistentMemory> Round<'_, M> {
    /// Writes that a crash interrupted. If two are pending for a sector in its present state, neither
    /// was ever reported as done, but no implementation leaves such a thing: to take one is a choice.
    pub(super) fn pending_writes(&self) -> Vec<Repair> {
        let doubtful: HashSet<(Option<usize>, Lba)> = self
            .report
            .findings
            .iter()
            .filter_map(|finding| match finding.fault {
                Fault::PendingTwice { lba, .. } => Some((finding.arena, lba)),
                _ => None,
            })
            .collect();
        let writable: HashSet<usize> = self.writable().collect();
        let pending = self.report.pending.iter().filter(|write| {
            let is_doubtful = doubtful.contains(&(Some(write.arena), write.lba));
            writable.contains(&write.arena) && (self.options.force || !is_doubtful)
        });
        // Of writes that are pending one behind another, the map entry of the last is enough.
        let mut repairs: BTreeMap<(usize, Lba), Repair> = BTreeMap::new();
        for &PendingWrite { arena: number, lane, lba, old, new } in pending {
            let offset = self.arena(number).map_offset(lba);
            let entry = MapEntry::data(if mutant!(btt::PendingKept) { old } else { new });
            let stores = vec![Store::Word { offset, value: entry.0 }];
            let first_old = match repairs.get(&(number, lba)).map(|repair| repair.remedy) {
                Some(Remedy::Replay { old, .. }) => old,
                _ => old,
            };
            let remedy = Remedy::Replay { lane, lba, old: first_old, new };
            repairs.insert((number, lba), Repair { arena: Some(number), remedy, stores });
        }
        repairs.into_values().collect()
    }

    /// Entries of writes that are all or nothing, of which others are missing.
    pub(super) fn incomplete_groups(&self) -> Vec<Repair> {
        let writable: HashSet<usize> = self.writable().collect();
        let entries = self.report.taken_back.iter();
        entries
            .filter(|entry| writable.contains(&entry.arena))
            .map(|&TakenBack { arena, lane, lba, new: block, offset, half }| Repair {
                arena: Some(arena),
                remedy: Remedy::TakeBack { lane, lba, block },
                stores: vec![Store::Double { offset, value: half }],
            })
            .collect()
    }

    /// Lanes whose free block is known, and whose entries are not as any write leaves them; and places
    /// where no entry belongs.
    pub(super) fn lanes(&self) -> Vec<Repair> {
        let writable: HashSet<usize> = self.writable().collect();
        let mut repairs = Vec::new();
        let findings = self.report.findings.iter();
        let findings = findings.filter_map(|finding| Some((finding.arena?, finding.fault)));
        for (number, fault) in findings.filter(|(number, _)| writable.contains(number)) {
            let arena = self.arena(number);
            let repair = match fault {
                Fault::LaneIdle { lane, block, .. } => self.reset(&arena, lane, block),
                Fault::LaneRange { lane, old, .. } if arena.has_block(old) => {
                    self.reset(&arena, lane, old)
                }
                Fault::LanePadding { lane, place, offset } => Some(Repair {
                    arena: Some(number),
                    remedy: Remedy::ClearPlace { lane, place },
                    stores: vec![
                        Store::Double { offset, value: 0 },
                        Store::Double { offset: offset + 8, value: 0 },
                    ],
                }),
                _ => None,
            };
            repairs.extend(repair);
        }
        repairs
    }

    fn reset(&self, arena: &Arena<'_, M>, lane: LaneIndex, block: Block) -> Option<Repair> {
        let layout = self.report.arenas[arena.number].layout;
        let free_map = free_map(arena, layout, lane)?;
        let stores = rewrite(arena, layout, lane, free_map, From::Legal).ok()?;
        let remedy = Remedy::ResetLane { lane, block };
        Some(Repair { arena: Some(arena.number), remedy, stores })
    }

    /// Flogs in the standard layout, all lanes as if never used; of arenas that are whole.
    ///
    /// A flog in the old layout stays one until its last lane is rewritten: a lane that was never used
    /// is the same in both.
    pub(super) fn rewritten_logs(&self) -> Vec<Repair> {
        if !self.options.rewrite_log {
            return Vec::new();
        }
        let numbers = self.writable().filter(|number| self.is_whole(*number));
        numbers.filter_map(|number| self.rewritten_log(number)).collect()
    }

    fn rewritten_log(&self, number: usize) -> Option<Repair> {
        let (arena, layout) = (self.arena(number), self.report.arenas[number].layout);
        let mut stores = Vec::new();
        let mut lanes = 0;
        for (lane, state) in (0..).map(LaneIndex).zip(read(&arena)) {
            let is_fresh = matches!(state, Lane::Idle { .. });
            if !is_fresh {
                let free_map = free_map(&arena, layout, lane)?;
                stores.append(&mut rewrite(&arena, layout, lane, free_map, From::Legal).ok()?);
                lanes += 1;
            }
        }
        let remedy = Remedy::RewriteLog { lanes };
        (lanes > 0).then_some(Repair { arena: Some(number), remedy, stores })
    }

    /// ERROR flags of arenas that are whole.
    pub(super) fn error_flags(&self) -> Vec<Repair> {
        if !self.options.force {
            return Vec::new();
        }
        let arenas = self.report.arenas.iter().enumerate();
        let flagged = arenas.filter(|(number, arena)| arena.info.error && self.is_whole(*number));
        let repair = |(number, arena): (usize, &ArenaReport)| {
            let info = InfoBlock { error: false, ..arena.info };
            let stores = super::info::write_both(arena.start, &info);
            Repair { arena: Some(number), remedy: Remedy::ClearError, stores }
        };
        flagged.map(repair).collect()
    }
}
