//! The round that is being put together: sectors whose data are written, and which wait to be
//! committed together.

use std::ops::Range;

use crate::btt::format::map::MapEntry;
use crate::btt::format::units::{Block, Lba};

/// The caller's name for a request, by which it hears of a failure.
pub type Tag = usize;

/// Most sectors of a round: at 64 the fences cost a twentieth of one per sector.
pub(super) const ROUND_SECTORS: usize = 64;

/// A sector whose data are in the free block of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Staged {
    pub arena: usize,
    pub lba: Lba,
    /// Position of the lane among those of its arena in the queue's set.
    pub lane: usize,
    /// The lane's free block, which holds the data.
    pub new: Block,
    /// The map entry that is replaced; known once the sector is logged.
    pub old: MapEntry,
    pub tag: Tag,
    /// Number of its group: those that are staged one after another with the same number.
    pub group: u32,
    /// It reads as zeroes, and its map entry goes on saying so.
    pub zero: bool,
}

/// The sectors of a round: all different, and at most [`ROUND_SECTORS`].
#[derive(Debug)]
pub(super) struct Round {
    pub staged: Vec<Staged>,
    /// In the page cache too, its fences are syncs, and all of them are made.
    pub syncs: bool,
    /// One bit per sector number modulo 64: clear if no such sector is staged.
    sieve: u64,
    /// Fences since they were last asked for.
    fences: u64,
    /// Number of the last group.
    group: u32,
    /// Index of its first sector.
    group_start: usize,
    /// Its sectors that are not staged yet.
    awaited: Range<u64>,
    /// There may be a group of several sectors.
    has_groups: bool,
}

impl Staged {
    /// The map entry that replaces the old one.
    pub(super) fn new_entry(&self) -> MapEntry {
        if self.zero { MapEntry::zero(self.new) } else { MapEntry::data(self.new) }
    }
}

impl Round {
    pub(super) fn new() -> Round {
        Round {
            staged: Vec::with_capacity(ROUND_SECTORS),
            syncs: false,
            sieve: 0,
            fences: 0,
            group: 0,
            group_start: 0,
            awaited: 0..0,
            has_groups: false,
        }
    }

    /// Returns whether there may be a group of several sectors.
    pub(super) fn has_groups(&self) -> bool {
        self.has_groups
    }

    pub(super) fn holds(&self, arena: usize, lba: Lba) -> bool {
        self.holds_any(arena, lba, 1)
    }

    /// Returns whether one of `count` sectors from `first` on, 1 to 64, is staged.
    pub(super) fn holds_any(&self, arena: usize, first: Lba, count: u32) -> bool {
        let bits = (u64::MAX >> (u64::BITS - count)).rotate_left(first.0 % u64::BITS);
        let is_one =
            |staged: &Staged| staged.lba.0.wrapping_sub(first.0) < count && staged.arena == arena;
        self.sieve & bits != 0 && self.staged.iter().any(is_one)
    }

    /// Counts fences.
    pub(super) fn fenced(&mut self, fences: u64) {
        self.fences += fences;
    }

    /// How many fences there were since the last call.
    pub(super) fn take_fences(&mut self) -> u64 {
        std::mem::take(&mut self.fences)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.staged.len() == ROUND_SECTORS
    }

    /// Number of sectors that can still be staged.
    pub(super) fn room(&self) -> usize {
        ROUND_SECTORS - self.staged.len()
    }

    /// Begins a group of `sectors`, which are staged in their order.
    pub(super) fn begin_group(&mut self, sectors: Range<u64>) {
        self.group = self.group.wrapping_add(1);
        self.group_start = self.staged.len();
        self.has_groups |= sectors.end - sectors.start > 1;
        self.awaited = sectors;
    }

    /// Returns whether `sector` is the next of the last group.
    pub(super) fn awaits(&self, sector: u64) -> bool {
        self.awaited.start == sector && !self.awaited.is_empty()
    }

    /// Takes the sectors of the last group out again if it is not complete.
    pub(super) fn abandon_group(&mut self) {
        if !self.awaited.is_empty() {
            self.awaited = 0..0;
            self.staged.truncate(self.group_start);
        }
    }

    /// Adds a sector to the last group.
    pub(super) fn push(&mut self, staged: Staged) {
        self.sieve |= sieve_bit(staged.lba);
        self.awaited.start = self.awaited.end.min(self.awaited.start + 1);
        self.staged.push(Staged { group: self.group, ..staged });
    }

    pub(super) fn clear(&mut self) {
        self.staged.clear();
        self.syncs = false;
        self.sieve = 0;
        self.awaited = 0..0;
        self.has_groups = false;
    }
}

fn sieve_bit(lba: Lba) -> u64 {
    1 << (lba.0 % u64::BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_round_knows_what_it_holds(
            sectors in prop::collection::vec((0..3usize, 0..300u32), 0..ROUND_SECTORS),
            asked in prop::collection::vec((0..3usize, 0..300u32), 0..50),
        ) {
            let mut round = Round::new();
            for &(arena, lba) in &sectors {
                let (new, old) = (Block(0), MapEntry(0));
                let lba = Lba(lba);
                round.push(Staged { arena, lba, lane: 0, new, old, tag: 0, group: 0, zero: false });
            }
            for (arena, lba) in asked.into_iter().chain(sectors.clone()) {
                prop_assert_eq!(round.holds(arena, Lba(lba)), sectors.contains(&(arena, lba)));
                for count in [2, 33, 64] {
                    let is_among = |&(of, one): &(usize, u32)| of == arena && (lba..lba + count).contains(&one);
                    prop_assert_eq!(round.holds_any(arena, Lba(lba), count), sectors.iter().any(is_among));
                }
            }
            prop_assert_eq!(round.is_empty(), sectors.is_empty());
            round.clear();
            prop_assert!(round.is_empty() && sectors.iter().all(|&(arena, lba)| !round.holds(arena, Lba(lba))));
        }
    }
}
