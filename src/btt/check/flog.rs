//! The flog: every lane has a legal pair of entries, whose newer one names what exists (I2, I3, I7).

use std::ops::ControlFlow;

use super::arena::Arena;
use super::finding::Fault;
use super::pieces::{Piece, for_each_piece};
use super::report::Findings;
use crate::btt::format::error::PlacesInUse;
use crate::btt::format::flog::{ENTRY_SIZE, FlogEntry, LogLayout, PLACES, Slot};
use crate::btt::format::geometry::FLOG_PAIR_SIZE;
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::PersistentMemory;

const LANE_BYTES: usize = FLOG_PAIR_SIZE as usize;
/// Sequence numbers run from the first to the last, and begin again with the first. A place that was never
/// written has the number before the first.
const FIRST_NUMBER: u32 = 1;
const LAST_NUMBER: u32 = 3;
/// The low bits of a block number in an entry; the others are flags (UEFI specification, "BTT Flog").
const BLOCK_BITS: u32 = 0x3fff_ffff;

/// What the flog of an arena says.
#[derive(Debug)]
pub(super) struct Flog {
    pub layout: LogLayout,
    pub lanes: Vec<Lane>,
    /// What stands there; `None`: it cannot be read, or the newest entry is taken back.
    entries: Vec<Option<Entries>>,
}

/// What a lane says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Nothing that can be used, but perhaps which block is its free one.
    Undecided { free: Option<Block> },
    /// It replaces a block by itself: there is nothing to do.
    Idle { free: Block },
    /// The last write.
    Wrote(LaneWrite),
}

/// The last write of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneWrite {
    pub lane: LaneIndex,
    pub lba: Lba,
    /// The block freed.
    pub old: Block,
    /// The block filled: another one.
    pub new: Block,
}

impl Lane {
    /// The free block of the lane, after replay.
    ///
    /// It is the block that its last write freed, whether the map says so yet or not, and whatever
    /// happened to the sector since: only this lane hands the block out again.
    pub(super) fn free_block(&self) -> Option<Block> {
        match *self {
            Lane::Undecided { free } => free,
            Lane::Idle { free } => Some(free),
            Lane::Wrote(write) => Some(write.old),
        }
    }
}

impl Flog {
    /// The free blocks that are known, after replay.
    pub(super) fn free_blocks(&self) -> impl Iterator<Item = (LaneIndex, Block)> {
        let numbered = (0..).map(LaneIndex).zip(&self.lanes);
        numbered.filter_map(|(index, lane)| Some((index, lane.free_block()?)))
    }

    /// Which of a lane's slots holds its newest entry, and both entries, that one first.
    fn slots(&self, lane: LaneIndex) -> Option<(usize, [FlogEntry; 2])> {
        let entries = self.entries[lane.0 as usize].as_ref()?;
        let places = [Slot::First, Slot::Second].map(|slot| self.layout.place(slot));
        let [first, second] = places.map(|place| entries[place]);
        Some(match newest(first.seq, second.seq)? {
            Slot::First => (places[0], [first, second]),
            Slot::Second => (places[1], [second, first]),
        })
    }

    /// The sequence number of a lane's newest entry.
    pub(super) fn newest_number(&self, lane: LaneIndex) -> Option<u32> {
        self.slots(lane).map(|(_, [newest, _])| newest.seq)
    }

    /// How a lane's newest entry is taken back: its place, what its second half becomes, and what the lane says
    /// then.
    ///
    /// It gets the number before that of the other entry, which so is the newer. Where the other is that of a
    /// lane that was never used, it becomes what is left of a write that ended between its halves.
    pub(super) fn without_newest<M: PersistentMemory>(
        &self,
        arena: &Arena<'_, M>,
        lane: LaneIndex,
        findings: &mut Findings,
    ) -> Option<(usize, u64, Lane)> {
        let (place, [newest, other]) = self.slots(lane)?;
        let (new, number) = if block(other.old_map) == block(other.new_map) {
            (0, 0)
        } else if other.seq == FIRST_NUMBER {
            (newest.new_map, LAST_NUMBER)
        } else {
            (newest.new_map, other.seq - 1)
        };
        let mut entries = self.entries[lane.0 as usize]?;
        (entries[place].new_map, entries[place].seq) = (new, number);
        let before = judge(arena, self.layout, lane, &entries, findings);
        Some((place, u64::from(number) << u32::BITS | u64::from(new), before))
    }

    /// The newest entry of a lane counts no more.
    pub(super) fn forget_newest(&mut self, lane: LaneIndex) {
        self.entries[lane.0 as usize] = None;
    }
}

/// The four places of a lane as they stand on the medium.
type Entries = [FlogEntry; PLACES];

/// Reads the flog, and finds fault with it.
pub(super) fn read<M: PersistentMemory>(arena: &Arena<'_, M>, findings: &mut Findings) -> Flog {
    let lanes = read_entries(arena);
    let layout = find_layout(arena.number, &lanes, findings);
    let numbered = (0..).map(LaneIndex).zip(&lanes);
    let judged = numbered.map(|(lane, entries)| {
        if let Some(entries) = entries {
            return judge(arena, layout, lane, entries, findings);
        }
        let offset = arena.lane_offset(lane);
        findings.add(arena.number, Fault::LaneUnreadable { lane, offset });
        Lane::Undecided { free: None }
    });
    let judged = judged.collect();
    Flog { layout, lanes: judged, entries: lanes }
}

/// The entries of all lanes; `None` of those that cannot be read.
fn read_entries<M: PersistentMemory>(arena: &Arena<'_, M>) -> Vec<Option<Entries>> {
    let mut lanes = Vec::with_capacity(arena.geometry.nfree as usize);
    let flog = arena.lane_offset(LaneIndex(0));
    for_each_piece(arena.medium, flog, arena.flog_bytes(), |piece| {
        match piece {
            Piece::Bytes(bytes) => {
                let (read, _) = bytes.as_chunks::<LANE_BYTES>();
                lanes.extend(read.iter().map(|lane| Some(decode(lane))));
            }
            Piece::Zeroes(length) => {
                let unused = [FlogEntry::default(); PLACES];
                lanes.extend((0..length / FLOG_PAIR_SIZE).map(|_| Some(unused)));
            }
            Piece::Unreadable(length) => {
                lanes.extend((0..length / FLOG_PAIR_SIZE).map(|_| None));
            }
        }
        ControlFlow::Continue(())
    });
    lanes
}

fn decode(lane: &[u8; LANE_BYTES]) -> Entries {
    let (places, _) = lane.as_chunks::<{ ENTRY_SIZE as usize }>();
    std::array::from_fn(|place| FlogEntry::decode(&places[place]))
}

/// The layout in which exactly the places `used` hold entries; `None`: there is none.
fn layout_of(used: [bool; PLACES]) -> Option<LogLayout> {
    let others_are_blank = |layout: LogLayout| {
        let slots = [Slot::First, Slot::Second].map(|slot| layout.place(slot));
        (0..PLACES).all(|place| slots.contains(&place) || !used[place])
    };
    // A new arena has entries in the place only that both layouts share, and is taken as standard.
    let fitting =
        [LogLayout::Standard, LogLayout::Old].into_iter().find(|one| others_are_blank(*one));
    fitting.filter(|_| used[0])
}

/// Returns which of two entries with these sequence numbers was written after the other; `None` if their
/// numbers never occur together.
fn newest(first: u32, second: u32) -> Option<Slot> {
    // An entry is written over the older of the two, with the number that follows that of the newer.
    let follows = |one: u32, other: u32| {
        let next = if other == LAST_NUMBER { FIRST_NUMBER } else { other.wrapping_add(1) };
        one == next && (FIRST_NUMBER..=LAST_NUMBER).contains(&one)
    };
    match (follows(first, second), follows(second, first)) {
        (true, false) => Some(Slot::First),
        (false, true) => Some(Slot::Second),
        _ => None,
    }
}

fn block(entry: u32) -> Block {
    Block(entry & BLOCK_BITS)
}

/// Which layout the lanes have. Where they contradict each other, or any layout, it is the one that
/// fewest of them contradict: a stray byte in one lane is no reason not to understand the others.
fn find_layout(arena: usize, lanes: &[Option<Entries>], findings: &mut Findings) -> LogLayout {
    let used = |place: usize| {
        let is_used = |entries: &Entries| !entries[place].is_empty();
        lanes.iter().flatten().filter(|entries| is_used(entries)).count()
    };
    let users: [usize; PLACES] = std::array::from_fn(used);
    let used = users.map(|users| users > 0);
    layout_of(used).unwrap_or_else(|| {
        let second = |layout: LogLayout| users[layout.place(Slot::Second)];
        let layout = if second(LogLayout::Old) > second(LogLayout::Standard) {
            LogLayout::Old
        } else {
            LogLayout::Standard
        };
        let places = PlacesInUse(used);
        findings.add(arena, Fault::FlogPlaces { places, layout });
        layout
    })
}

/// What one lane says.
fn judge<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    layout: LogLayout,
    lane: LaneIndex,
    entries: &Entries,
    findings: &mut Findings,
) -> Lane {
    let slots = [Slot::First, Slot::Second].map(|slot| layout.place(slot));
    for (place, entry) in entries.iter().enumerate() {
        if !(slots.contains(&place) && entry.seq != 0 || is_blank(arena, &slots, place, entry)) {
            let offset = arena.place_offset(lane, place);
            findings.add(arena.number, Fault::LanePadding { lane, place, offset });
        }
    }
    if is_of_other_layout(layout, entries) {
        return Lane::Undecided { free: None };
    }
    let [first, second] = slots.map(|place| entries[place].seq);
    let Some(slot) = newest(first, second) else {
        let offset = arena.lane_offset(lane);
        findings.add(arena.number, Fault::LanePair { lane, offset, first, second });
        return Lane::Undecided { free: None };
    };
    let newest = entries[layout.place(slot)];
    let offset = arena.place_offset(lane, layout.place(slot));
    let (lba, old, new) = (Lba(newest.lba), block(newest.old_map), block(newest.new_map));
    if !(arena.has_sector(lba) && arena.has_block(old) && arena.has_block(new)) {
        findings.add(arena.number, Fault::LaneRange { lane, offset, lba, old, new });
        let free = Some(old).filter(|&old| arena.has_block(old));
        return Lane::Undecided { free };
    }
    if old != new {
        return Lane::Wrote(LaneWrite { lane, lba, old, new });
    }
    if [first, second] != [FIRST_NUMBER, 0] {
        findings.add(arena.number, Fault::LaneIdle { lane, offset, lba, block: old });
    }
    Lane::Idle { free: old }
}

/// Returns whether a lane has a legal pair of entries in the layout that is not the arena's, and none in that:
/// a rewrite of the flog was interrupted. Either of the two entries may be the valid one.
fn is_of_other_layout(layout: LogLayout, entries: &Entries) -> bool {
    let other = match layout {
        LogLayout::Standard => LogLayout::Old,
        LogLayout::Old => LogLayout::Standard,
    };
    let second = |layout: LogLayout| entries[layout.place(Slot::Second)];
    second(layout).is_empty()
        && second(other).seq != 0
        && newest(entries[0].seq, second(other).seq).is_some()
}

/// Returns whether a place is as one that was never written: zero, but that a slot may hold the first half of
/// an entry, of a write that ended between its two halves.
fn is_blank<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    slots: &[usize],
    place: usize,
    entry: &FlogEntry,
) -> bool {
    let is_half = entry.new_map == 0
        && entry.seq == 0
        && arena.has_sector(Lba(entry.lba))
        && arena.has_block(block(entry.old_map));
    entry.is_empty() || slots.contains(&place) && is_half
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::btt::format::flog::newer;

    /// The two are told in different ways, and have to agree.
    #[test]
    fn the_checker_and_the_engine_agree_on_which_entry_is_newer() {
        for first in 0..=6 {
            for second in 0..=6 {
                assert_eq!(newest(first, second), newer(first, second), "{first}, {second}");
            }
        }
    }

    #[test]
    fn the_checker_and_the_engine_agree_on_the_layout() {
        for bits in 0..1 << PLACES {
            let used = std::array::from_fn(|place| bits & 1 << place != 0);
            assert_eq!(layout_of(used), LogLayout::detect(used), "{used:?}");
        }
    }

    proptest! {
        #[test]
        fn the_checker_and_the_engine_agree_on_any_two_numbers(first: u32, second: u32) {
            prop_assert_eq!(newest(first, second), newer(first, second));
        }

        #[test]
        fn the_checker_and_the_engine_agree_on_the_block_of_an_entry(old_map: u32, new_map: u32) {
            let entry = FlogEntry { old_map, new_map, ..FlogEntry::default() };
            prop_assert_eq!(block(old_map), entry.old_block());
            prop_assert_eq!(block(new_map), entry.new_block());
        }
    }
}
