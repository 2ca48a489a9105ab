//! The flog: every lane has a legal pair of entries, whose newer one names what exists (I2, I3, I7).

use std::ops::ControlFlow;

use super::arena::Arena;
use super::finding::Fault;
use super::pieces::{Piece, for_each_piece};
use super::report::Findings;
use crate::btt::error::PlacesInUse;
use crate::btt::flog::{ENTRY_SIZE, FlogEntry, LogLayout, PLACES, Sequence, Slot, newer};
use crate::btt::geometry::FLOG_PAIR_SIZE;
use crate::btt::units::{Block, LaneIndex, Lba};
use crate::pmem::PersistentMemory;

const LANE_BYTES: usize = FLOG_PAIR_SIZE as usize;

/// What the flog of an arena says.
#[derive(Debug)]
pub(super) struct Flog {
    pub layout: LogLayout,
    pub lanes: Vec<Lane>,
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
    let lanes = judged.collect();
    Flog { layout, lanes }
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

/// Which layout the lanes have. Where they contradict each other, or any layout, it is the one that
/// fewest of them contradict: a stray byte in one lane is no reason not to understand the others.
fn find_layout(arena: usize, lanes: &[Option<Entries>], findings: &mut Findings) -> LogLayout {
    let used = |place: usize| {
        let is_used = |entries: &Entries| !entries[place].is_empty();
        lanes.iter().flatten().filter(|entries| is_used(entries)).count()
    };
    let users: [usize; PLACES] = std::array::from_fn(used);
    let used = users.map(|users| users > 0);
    LogLayout::detect(used).unwrap_or_else(|| {
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
    let Some(slot) = newer(first, second) else {
        let offset = arena.lane_offset(lane);
        findings.add(arena.number, Fault::LanePair { lane, offset, first, second });
        return Lane::Undecided { free: None };
    };
    let newest = entries[layout.place(slot)];
    let offset = arena.place_offset(lane, layout.place(slot));
    let (lba, old, new) = (newest.lba(), newest.old_block(), newest.new_block());
    if !(arena.has_sector(lba) && arena.has_block(old) && arena.has_block(new)) {
        findings.add(arena.number, Fault::LaneRange { lane, offset, lba, old, new });
        let free = Some(old).filter(|&old| arena.has_block(old));
        return Lane::Undecided { free };
    }
    if old != new {
        return Lane::Wrote(LaneWrite { lane, lba, old, new });
    }
    if [first, second] != [Sequence::FIRST.get(), 0] {
        findings.add(arena.number, Fault::LaneIdle { lane, offset, lba, block: old });
    }
    Lane::Idle { free: old }
}

/// Whether a lane has a legal pair of entries in the layout that is not the arena's, and none in that:
/// somebody was about to rewrite the flog. Of the two entries it may be either that is meant.
fn is_of_other_layout(layout: LogLayout, entries: &Entries) -> bool {
    let other = match layout {
        LogLayout::Standard => LogLayout::Old,
        LogLayout::Old => LogLayout::Standard,
    };
    let second = |layout: LogLayout| entries[layout.place(Slot::Second)];
    second(layout).is_empty()
        && second(other).seq != 0
        && newer(entries[0].seq, second(other).seq).is_some()
}

/// Whether a place is as one that was never written: zero, but that a slot may hold the first half of
/// an entry, of a write that ended between its two halves.
fn is_blank<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    slots: &[usize],
    place: usize,
    entry: &FlogEntry,
) -> bool {
    let is_half = entry.new_map == 0
        && entry.seq == 0
        && arena.has_sector(entry.lba())
        && arena.has_block(entry.old_block());
    entry.is_empty() || slots.contains(&place) && is_half
}
