//! The map: one entry per sector, naming the block that holds it.

use super::geometry::MAX_BLOCKS;
use super::units::{Block, Lba};

/// Bit 31: the sector reads as zeroes.
const FLAG_ZERO: u32 = 1 << 31;
/// Bit 30: the sector cannot be read.
const FLAG_ERROR: u32 = 1 << 30;
/// Both bits: a block with data.
const FLAGS: u32 = FLAG_ZERO | FLAG_ERROR;

/// A map entry as it stands on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry(pub u32);

/// What a map entry says of its sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// Flags 00: never written. Reads as zeroes: the block, number equal to the sector's, may hold
    /// whatever was on the medium before.
    NeverWritten,
    /// Flags 10: reads as zeroes, and still owns its block.
    Zero(Block),
    /// Flags 01: cannot be read until it is written.
    Error(Block),
    /// Flags 11: data.
    Data(Block),
}

impl MapEntry {
    /// The entry of a sector that holds data.
    #[must_use]
    pub fn data(block: Block) -> MapEntry {
        MapEntry(block.0 | FLAGS)
    }

    /// The entry of a sector that reads as zeroes.
    #[must_use]
    pub fn zero(block: Block) -> MapEntry {
        MapEntry(block.0 | FLAG_ZERO)
    }

    /// The entry of a sector that cannot be read.
    #[must_use]
    pub fn error(block: Block) -> MapEntry {
        MapEntry(block.0 | FLAG_ERROR)
    }

    /// What the entry says.
    #[must_use]
    pub fn mapped(self) -> Mapped {
        let block = strip_flags(self.0);
        match self.0 & FLAGS {
            0 => Mapped::NeverWritten,
            FLAG_ZERO => Mapped::Zero(block),
            FLAG_ERROR => Mapped::Error(block),
            _ => Mapped::Data(block),
        }
    }

    /// The block that the sector `lba` owns.
    #[must_use]
    pub fn block(self, lba: Lba) -> Block {
        match self.mapped() {
            Mapped::NeverWritten => Block(lba.0),
            Mapped::Zero(block) | Mapped::Error(block) | Mapped::Data(block) => block,
        }
    }

    /// Returns whether the sector cannot be read.
    #[must_use]
    pub fn is_error(self) -> bool {
        matches!(self.mapped(), Mapped::Error(_))
    }
}

/// The block number in a map entry, or in a flog entry's `old_map` and `new_map`: PMDK and Windows
/// keep flags in both, Linux keeps the error flag in `old_map`.
#[must_use]
pub fn strip_flags(entry: u32) -> Block {
    Block(entry & (MAX_BLOCKS - 1))
}

/// Returns whether a flog entry's `old_map` says that the block could not be read when it was replaced.
#[must_use]
pub fn has_error_flag(old_map: u32) -> bool {
    old_map & FLAGS == FLAG_ERROR
}

/// What to keep as a flog entry's `old_map` when `entry` is replaced: the block that becomes free,
/// with the error flag if the block could not be read.
#[must_use]
pub fn old_map(entry: MapEntry, lba: Lba) -> u32 {
    let block = entry.block(lba);
    if entry.is_error() && !mutant!(btt::ErrorForgotten) {
        MapEntry::error(block).0
    } else {
        block.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flags_tell_the_four_states() {
        let block = Block(0x123_4567);
        assert_eq!(MapEntry(0).mapped(), Mapped::NeverWritten);
        assert_eq!(MapEntry(0x8123_4567).mapped(), Mapped::Zero(block));
        assert_eq!(MapEntry(0x4123_4567).mapped(), Mapped::Error(block));
        assert_eq!(MapEntry(0xc123_4567).mapped(), Mapped::Data(block));
        assert_eq!(MapEntry::data(block), MapEntry(0xc123_4567));
        assert_eq!(MapEntry::zero(block), MapEntry(0x8123_4567));
        assert_eq!(MapEntry::error(block), MapEntry(0x4123_4567));
    }

    #[test]
    fn a_never_written_sector_owns_the_block_of_its_own_number() {
        assert_eq!(MapEntry(0).block(Lba(7)), Block(7));
        // Linux ignores the block number of such an entry; so do we.
        assert_eq!(MapEntry(5).block(Lba(7)), Block(7));
        assert_eq!(MapEntry::zero(Block(5)).block(Lba(7)), Block(5));
    }

    #[test]
    fn an_errored_sector_leaves_its_flag_in_the_flog() {
        assert_eq!(old_map(MapEntry::error(Block(5)), Lba(7)), 0x4000_0005);
        assert_eq!(old_map(MapEntry::data(Block(5)), Lba(7)), 5);
        assert_eq!(old_map(MapEntry::zero(Block(5)), Lba(7)), 5);
        assert_eq!(old_map(MapEntry(0), Lba(7)), 7);
        assert!(has_error_flag(0x4000_0005));
        assert!(!has_error_flag(0xc000_0005), "both flags: data, as PMDK keeps it");
        assert!(!has_error_flag(5));
    }

    proptest! {
        #[test]
        fn every_entry_is_what_it_was_made_as(number in 0..MAX_BLOCKS, lba in 0..MAX_BLOCKS) {
            let (block, lba) = (Block(number), Lba(lba));
            for (entry, mapped) in [
                (MapEntry::data(block), Mapped::Data(block)),
                (MapEntry::zero(block), Mapped::Zero(block)),
                (MapEntry::error(block), Mapped::Error(block)),
            ] {
                prop_assert_eq!(entry.mapped(), mapped);
                prop_assert_eq!(entry.block(lba), block);
                prop_assert_eq!(strip_flags(entry.0), block);
                prop_assert_eq!(entry.is_error(), mapped == Mapped::Error(block));
            }
        }

        #[test]
        fn any_word_is_an_entry_of_a_block(word: u32, lba in 0..MAX_BLOCKS) {
            let (entry, lba) = (MapEntry(word), Lba(lba));
            let owned = entry.block(lba);
            prop_assert!(owned.0 < MAX_BLOCKS);
            match entry.mapped() {
                Mapped::NeverWritten => prop_assert_eq!(owned.0, lba.0),
                Mapped::Zero(block) => prop_assert_eq!((entry, owned), (MapEntry::zero(block), block)),
                Mapped::Error(block) => prop_assert_eq!((entry, owned), (MapEntry::error(block), block)),
                Mapped::Data(block) => prop_assert_eq!((entry, owned), (MapEntry::data(block), block)),
            }
            // What the flog keeps of it names the same block, and no flag but that of an error.
            let old = old_map(entry, lba);
            prop_assert_eq!(strip_flags(old), owned);
            prop_assert_eq!(has_error_flag(old), entry.is_error());
            prop_assert_eq!(old & FLAG_ZERO, 0);
        }
    }
}
