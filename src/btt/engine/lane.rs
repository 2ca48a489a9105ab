//! Lanes: who writes with which free block.
//!
//! The lanes of every arena are dealt out to sets, one set per queue: lane ≡ set modulo the number
//! of sets. A queue takes its set under a lock that is uncontended, unless there are more queues
//! than an arena has lanes; then queues share sets, queue ≡ set, as CPUs share lanes in the kernel's
//! `nd_region_acquire_lane`.

use crate::btt::format::flog::{Sequence, Slot};
use crate::btt::format::record::WINDOW;
use crate::btt::format::units::{Block, LaneIndex};

/// A lane as it stands between two writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::btt) struct Lane {
    pub index: LaneIndex,
    /// The block that the next write fills.
    pub free: Block,
    /// The free block could not be read when it was replaced: its poison has to be cleared first.
    pub free_has_error: bool,
    /// The slot that the next write's entry goes to: the older of the two.
    pub slot: Slot,
    /// The sequence number of the next write's entry.
    pub sequence: Sequence,
    /// Number of the sync with which the map entry of the last write is durable; 0: it is.
    pub map_sync: u64,
}

impl Lane {
    /// The lane after a write that freed `free`.
    pub(super) fn advance(&mut self, free: Block, free_has_error: bool) {
        if !mutant!(btt::FreeBlockKept) {
            self.free = free;
        }
        self.free_has_error = free_has_error;
        if !mutant!(btt::SlotKept) {
            self.slot = self.slot.other();
        }
        if !mutant!(btt::SequenceKept) {
            self.sequence = self.sequence.next();
        }
    }
}

/// The lanes of one arena that belong to a set.
///
/// What is changed with every sector is in cache lines that no other queue touches, nor the CPU when it
/// fetches another's: it fetches lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ArenaLanes {
    lanes: Vec<Lane>,
    /// Where the next lane is taken from: they go round, so that a block is not filled again as soon
    /// as it is freed, when readers are most likely still at it.
    next: usize,
    /// Lanes taken since [`release`](Self::release).
    taken: usize,
    /// The first of them.
    first: usize,
    /// The set, and how many there are.
    set: usize,
    sets: usize,
    /// How many lanes there were before some were given up.
    original: usize,
    /// Of the last record of groups.
    pub generation: u32,
    /// The record says something.
    pub record_is_live: bool,
}

impl ArenaLanes {
    /// Takes a lane for the current round; `None`: all are taken.
    pub(super) fn take(&mut self) -> Option<usize> {
        if self.taken == self.lanes.len() {
            return None;
        }
        let position = self.next;
        if self.taken == 0 {
            self.first = position;
        }
        self.next = self.wrapped(position + 1);
        self.taken += 1;
        Some(position)
    }

    /// A position that is less than twice the number of lanes, gone round.
    fn wrapped(&self, position: usize) -> usize {
        // A division takes longer.
        if position < self.lanes.len() { position } else { position - self.lanes.len() }
    }

    /// Returns whether the next `count` lanes can be taken for a group: the round's record has room.
    pub(super) fn have_room(&self, count: usize) -> bool {
        if self.taken + count > self.lanes.len() {
            return false;
        }
        let first = if self.taken == 0 { self.next } else { self.first };
        let last = self.wrapped(self.next + count - 1);
        self.distance(first, last) < WINDOW
    }

    /// Goes on to where the next `count` lanes can be taken for a group, if there is such a place. No lane is
    /// taken.
    pub(super) fn make_room(&mut self, count: usize) -> bool {
        for _ in 0..self.lanes.len() {
            if self.have_room(count) {
                return true;
            }
            self.next = self.wrapped(self.next + 1);
        }
        false
    }

    /// Position of the first lane of the round among all lanes that the set ever had.
    pub(super) fn window_start(&self) -> usize {
        self.place(self.first)
    }

    /// How many lanes of all that the set ever had lie between the first of the round and the one at
    /// `position`.
    pub(super) fn window_offset(&self, position: usize) -> usize {
        self.distance(self.first, position)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        let (from, to) = (self.place(from), self.place(to));
        if from <= to { to - from } else { to + self.original - from }
    }

    fn place(&self, position: usize) -> usize {
        if self.lanes.len() == self.original || mutant!(btt::LostLanesUncounted) {
            return position;
        }
        (self.lanes[position].index.0 as usize - self.set) / self.sets
    }

    /// Ends the round: all lanes can be taken again.
    pub(super) fn release(&mut self) {
        self.taken = 0;
    }

    /// Gives up the lanes whose flog cannot be written. Between rounds only.
    pub(super) fn retire(&mut self, broken: impl Fn(LaneIndex) -> bool) {
        debug_assert_eq!(self.taken, 0);
        self.lanes.retain(|lane| !broken(lane.index));
        self.next = 0;
    }

    pub(super) fn lane(&mut self, position: usize) -> &mut Lane {
        &mut self.lanes[position]
    }
}

/// A queue's lanes in every arena; in cache lines of its own, as its lock then is.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct LaneSet {
    pub arenas: Box<[ArenaLanes]>,
    /// Number of the set.
    pub number: usize,
    /// Number of sets.
    pub sets: usize,
}

/// Deals the lanes of all arenas out to as many sets as there are queues, or lanes in the arena that
/// has the fewest.
pub(super) fn deal(lanes_of_arenas: Vec<Vec<Lane>>, queues: usize) -> Vec<LaneSet> {
    let fewest = lanes_of_arenas.iter().map(Vec::len).min().unwrap_or(0);
    let sets = queues.min(fewest).max(1);
    let mut dealt: Vec<LaneSet> = (0..sets)
        .map(|set| LaneSet {
            arenas: lanes_of_arenas
                .iter()
                .map(|_| ArenaLanes { set, sets, ..ArenaLanes::default() })
                .collect(),
            number: set,
            sets,
        })
        .collect();
    for (arena, lanes) in lanes_of_arenas.into_iter().enumerate() {
        for (position, lane) in lanes.into_iter().enumerate() {
            let set = &mut dealt[position % sets].arenas[arena];
            set.lanes.push(lane);
            set.original += 1;
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lanes(count: u32) -> Vec<Lane> {
        (0..count)
            .map(|index| Lane {
                index: LaneIndex(index),
                free: Block(index),
                free_has_error: false,
                slot: Slot::Second,
                sequence: Sequence::FIRST.next(),
                map_sync: 0,
            })
            .collect()
    }

    fn indices(lanes: &ArenaLanes) -> Vec<u32> {
        lanes.lanes.iter().map(|lane| lane.index.0).collect()
    }

    #[test]
    fn lanes_are_dealt_out_by_queue() {
        let sets = deal(vec![lanes(7), lanes(4)], 3);
        assert_eq!(sets.len(), 3);
        assert_eq!(indices(&sets[0].arenas[0]), [0, 3, 6]);
        assert_eq!(indices(&sets[2].arenas[0]), [2, 5]);
        assert_eq!(indices(&sets[0].arenas[1]), [0, 3]);
    }

    #[test]
    fn more_queues_than_lanes_leave_no_set_without_a_lane() {
        let sets = deal(vec![lanes(256), lanes(2)], 64);
        assert_eq!(sets.len(), 2);
        assert!(sets.iter().all(|set| set.arenas.iter().all(|arena| !arena.lanes.is_empty())));
    }

    #[test]
    fn lanes_go_round_and_come_back_with_the_next_round() {
        let mut set = deal(vec![lanes(3)], 1);
        let arena = &mut set[0].arenas[0];
        assert_eq!([arena.take(), arena.take()], [Some(0), Some(1)]);
        arena.release();
        assert_eq!([arena.take(), arena.take(), arena.take()], [Some(2), Some(0), Some(1)]);
        assert_eq!(arena.take(), None);
        arena.release();
        arena.retire(|lane| lane.0 != 1);
        assert_eq!(indices(arena), [1]);
        assert_eq!([arena.take(), arena.take()], [Some(0), None]);
    }

    proptest! {
        #[test]
        fn every_lane_is_dealt_to_one_set(
            counts in prop::collection::vec(1..600u32, 1..5),
            queues in 1..80usize,
        ) {
            let sets = deal(counts.iter().map(|count| lanes(*count)).collect(), queues);
            let fewest = counts.iter().copied().min().unwrap() as usize;
            prop_assert_eq!(sets.len(), queues.min(fewest));
            for (arena, count) in counts.into_iter().enumerate() {
                let mut dealt = Vec::new();
                for (number, set) in sets.iter().enumerate() {
                    let own = indices(&set.arenas[arena]);
                    let fair = count as usize / sets.len();
                    prop_assert!(own.len() == fair || own.len() == fair + 1);
                    prop_assert!(own.iter().all(|lane| *lane as usize % sets.len() == number));
                    dealt.extend(own);
                }
                dealt.sort_unstable();
                prop_assert_eq!(dealt, (0..count).collect::<Vec<_>>());
            }
        }

        /// Rounds of any number of sectors: no lane twice in one, and none left out for long.
        #[test]
        fn lanes_are_taken_in_turn(
            count in 1..20u32,
            rounds in prop::collection::vec(0..25usize, 0..50),
        ) {
            let mut set = deal(vec![lanes(count)], 1);
            let arena = &mut set[0].arenas[0];
            let mut expected = (0..count as usize).cycle();
            for sectors in rounds {
                for _ in 0..sectors.min(count as usize) {
                    prop_assert_eq!(arena.take(), expected.next());
                }
                if sectors > count as usize {
                    prop_assert_eq!(arena.take(), None);
                }
                arena.release();
            }
        }

        #[test]
        fn a_lane_frees_the_block_that_was_there(frees in prop::collection::vec(any::<u32>(), 0..40)) {
            let mut lane = lanes(1)[0];
            for free in frees {
                let before = lane;
                lane.advance(Block(free), free % 2 == 0);
                prop_assert_eq!((lane.free, lane.free_has_error), (Block(free), free % 2 == 0));
                prop_assert_eq!((lane.index, lane.slot), (before.index, before.slot.other()));
                prop_assert_eq!(lane.sequence, before.sequence.next());
            }
        }
    }
}
