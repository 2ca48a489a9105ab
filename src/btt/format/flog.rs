//! The flog ("free list and log"): per lane, the free block and the last write.

use super::geometry::FLOG_PAIR_SIZE;
use super::map::strip_flags;
use super::units::{Block, LaneIndex, Lba};

/// Bytes of a flog entry.
pub const ENTRY_SIZE: u64 = 16;
/// Places for an entry in a lane's cache line; two of them are in use.
pub const PLACES: usize = (FLOG_PAIR_SIZE / ENTRY_SIZE) as usize;

/// One of the two live slots of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The slot at byte 0 of the lane.
    First,
    /// The slot at byte 16, or 32 in the old layout.
    Second,
}

impl Slot {
    /// The slot that is not this one.
    #[must_use]
    pub fn other(self) -> Slot {
        match self {
            Slot::First => Slot::Second,
            Slot::Second => Slot::First,
        }
    }
}

/// Where the two slots of each lane lie; the same for all lanes of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLayout {
    /// Bytes 0 and 16: UEFI, PMDK, Linux since 4.15.
    Standard,
    /// Bytes 0 and 32: Linux before 4.15.
    Old,
}

impl LogLayout {
    /// Index of a slot among the [`PLACES`] of a lane.
    #[must_use]
    pub fn place(self, slot: Slot) -> usize {
        match (self, slot) {
            (_, Slot::First) => 0,
            (LogLayout::Standard, Slot::Second) => 1,
            (LogLayout::Old, Slot::Second) => 2,
        }
    }

    /// Byte offset of a slot within its lane.
    #[must_use]
    pub fn slot_offset(self, slot: Slot) -> u64 {
        self.place(slot) as u64 * ENTRY_SIZE
    }

    /// The layout in which the places `used` hold entries; `None`: in none.
    ///
    /// A new arena uses only the first place, which both layouts share: it is taken as standard, as
    /// the kernel's `log_set_indices` does.
    #[must_use]
    pub fn detect(used: [bool; PLACES]) -> Option<LogLayout> {
        match used {
            [true, _, false, false] => Some(LogLayout::Standard),
            [true, false, true, false] => Some(LogLayout::Old),
            _ => None,
        }
    }
}

/// A sequence number, going 1, 2, 3, 1, …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence(u32);

impl Sequence {
    /// The first of a new lane.
    pub const FIRST: Sequence = Sequence(1);

    /// The sequence number `value`, if it is one.
    #[must_use]
    pub fn new(value: u32) -> Option<Sequence> {
        (1..=3).contains(&value).then_some(Sequence(value))
    }

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(if mutant!(btt::SequenceRunsOn) { self.0 + 1 } else { self.0 % 3 + 1 })
    }

    /// As stored.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A flog entry as it stands on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlogEntry {
    /// The sector written.
    pub lba: u32,
    /// The block that held it before, free after the write; may carry flags.
    pub old_map: u32,
    /// The block that holds it after the write; may carry flags.
    pub new_map: u32,
    /// Sequence number; 0: never written.
    pub seq: u32,
}

impl FlogEntry {
    /// The entry that a new lane starts with: its own free block, replaced by itself.
    #[must_use]
    pub fn initial(lane: LaneIndex, external_nlba: u32) -> FlogEntry {
        let free = external_nlba + lane.0;
        FlogEntry { lba: lane.0, old_map: free, new_map: free, seq: Sequence::FIRST.get() }
    }

    /// Decodes 16 bytes.
    #[must_use]
    pub fn decode(bytes: &[u8; ENTRY_SIZE as usize]) -> FlogEntry {
        let [lba, old_map, new_map, seq]: [[u8; 4]; 4] = zerocopy::transmute!(*bytes);
        FlogEntry {
            lba: u32::from_le_bytes(lba),
            old_map: u32::from_le_bytes(old_map),
            new_map: u32::from_le_bytes(new_map),
            seq: u32::from_le_bytes(seq),
        }
    }

    /// Encodes as the two double words that are stored one after the other: what is written where,
    /// and then the half that commits it.
    #[must_use]
    pub fn halves(&self) -> [u64; 2] {
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        [pair(self.lba, self.old_map), pair(self.new_map, self.seq)]
    }

    /// The half that takes this entry back, where `other` is in the lane's other slot: the sequence number
    /// is that which comes before `other`'s, so that `other` is the newer of the two again. Beside the
    /// entry of a lane that had never been used, the half is zero, as a write leaves it that is cut off.
    #[must_use]
    pub fn undone(&self, other: &FlogEntry) -> u64 {
        let is_first = other.old_block() == other.new_block();
        if is_first && !mutant!(btt::UndoneFirstNumbered) {
            return 0;
        }
        let before = Sequence::new(other.seq).map_or(0, |other| other.next().next().get());
        let seq = if mutant!(btt::UndoneAsSuccessor) { other.seq } else { before };
        FlogEntry { seq, ..*self }.halves()[1]
    }

    /// Returns whether all four words are zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == FlogEntry::default()
    }

    /// The sector written.
    #[must_use]
    pub fn lba(&self) -> Lba {
        Lba(self.lba)
    }

    /// The block that the write freed.
    #[must_use]
    pub fn old_block(&self) -> Block {
        if mutant!(btt::FlogFlagsKept) { Block(self.old_map) } else { strip_flags(self.old_map) }
    }

    /// The block that the write filled.
    #[must_use]
    pub fn new_block(&self) -> Block {
        strip_flags(self.new_map)
    }
}

/// Which of a lane's two entries is the newer. `None`: no such pair is ever written.
///
/// One of the two was never written, or it precedes the other in the cycle 1, 2, 3. Told pair by
/// pair, since sums and differences let {3, 0} and {0, 0} through.
#[must_use]
#[allow(clippy::unnested_or_patterns, reason = "the pairs are a table")]
pub fn newer(first: u32, second: u32) -> Option<Slot> {
    match (first, second) {
        (1, 0) | (2, 1) | (3, 2) | (1, 3) => Some(Slot::First),
        (0, 1) | (1, 2) | (2, 3) | (3, 1) => Some(Slot::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequence_numbers_go_round_without_zero() {
        let mut sequence = Sequence::FIRST;
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(sequence.get());
            sequence = sequence.next();
        }
        assert_eq!(seen, [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!((Sequence::new(0), Sequence::new(4)), (None, None));
    }

    #[test]
    fn only_eight_pairs_are_legal() {
        let legal: Vec<_> = (0..=4)
            .flat_map(|first| (0..=4).map(move |second| (first, second)))
            .filter(|&(first, second)| newer(first, second).is_some())
            .collect();
        assert_eq!(legal, [(0, 1), (1, 0), (1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]);
    }

    #[test]
    fn a_successor_is_newer_in_either_slot() {
        for value in 1..=3 {
            let older = Sequence::new(value).unwrap();
            let next = older.next();
            assert_eq!(newer(older.get(), next.get()), Some(Slot::Second));
            assert_eq!(newer(next.get(), older.get()), Some(Slot::First));
        }
    }

    #[test]
    fn layouts_are_told_by_the_places_in_use() {
        use LogLayout::{Old, Standard};
        assert_eq!(LogLayout::detect([true, false, false, false]), Some(Standard));
        assert_eq!(LogLayout::detect([true, true, false, false]), Some(Standard));
        assert_eq!(LogLayout::detect([true, false, true, false]), Some(Old));
        for corrupt in [
            [false; 4],
            [true; 4],
            [true, true, true, false],
            [true, false, false, true],
            [false, true, false, false],
        ] {
            assert_eq!(LogLayout::detect(corrupt), None);
        }
    }

    #[test]
    fn an_entry_survives_its_encoding() {
        let entry = FlogEntry { lba: 1, old_map: 0x4000_0002, new_map: 3, seq: 2 };
        let mut bytes = [0; 16];
        let [low, high] = entry.halves();
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0x40, 3, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(FlogEntry::decode(&bytes), entry);
        assert_eq!(entry.old_block(), Block(2));
    }

    proptest! {
        /// A lane's two entries after any number of writes, the first of which goes to the second
        /// slot.
        #[test]
        fn the_newest_of_a_lane_is_the_last_that_was_written(writes in 0..100usize) {
            let mut slots = [Sequence::FIRST.get(), 0];
            let (mut last, mut sequence) = (0, Sequence::FIRST);
            for _ in 0..writes {
                (last, sequence) = (1 - last, sequence.next());
                slots[last] = sequence.get();
            }
            let newest = [Slot::First, Slot::Second][last];
            prop_assert_eq!(newer(slots[0], slots[1]), Some(newest));
            prop_assert_eq!(newest.other().other(), newest);
        }

        #[test]
        fn no_slot_is_newer_unless_it_follows_the_other(
            first in prop_oneof![0..8u32, any::<u32>()],
            second in prop_oneof![0..8u32, any::<u32>()],
        ) {
            let follows = |new: u32, old: u32| match (Sequence::new(new), Sequence::new(old)) {
                (Some(new), Some(old)) => old.next() == new,
                (Some(new), None) => old == 0 && new == Sequence::FIRST,
                (None, _) => false,
            };
            let newest = match (follows(first, second), follows(second, first)) {
                (true, false) => Some(Slot::First),
                (false, true) => Some(Slot::Second),
                _ => None,
            };
            prop_assert_eq!(newer(first, second), newest);
        }

        #[test]
        fn any_entry_survives_its_encoding(words in any::<[u32; 4]>()) {
            let [lba, old_map, new_map, seq] = words;
            let entry = FlogEntry { lba, old_map, new_map, seq };
            let bytes: Vec<u8> = entry.halves().into_iter().flat_map(u64::to_le_bytes).collect();
            prop_assert_eq!(FlogEntry::decode(bytes.as_slice().try_into().unwrap()), entry);
            let plain: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
            prop_assert_eq!(bytes, plain);
            prop_assert_eq!(entry.is_empty(), words == [0; 4]);
            prop_assert_eq!(entry.old_block().0, old_map % (1 << 30));
            prop_assert_eq!(entry.new_block().0, new_map % (1 << 30));
        }

        /// Whatever a lane holds, both its slots lie in it, and do not overlap.
        #[test]
        fn a_layout_is_detected_by_places_that_it_uses(used in any::<[bool; PLACES]>()) {
            let Some(layout) = LogLayout::detect(used) else { return Ok(()) };
            let places = [Slot::First, Slot::Second].map(|slot| layout.place(slot));
            for (place, used) in used.into_iter().enumerate() {
                prop_assert!(!used || places.contains(&place));
            }
            prop_assert!(places[0] < places[1] && places[1] < PLACES);
            prop_assert_eq!(layout.slot_offset(Slot::Second), places[1] as u64 * ENTRY_SIZE);
        }
    }
}
