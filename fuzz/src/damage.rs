//! Damage: words of an image that are replaced, wherever it hurts.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vhost_user_btt::btt::{FLOG_PAIR_SIZE, INFO_SIZE, LaneIndex, Lba};
use vhost_user_btt::pmem::fletcher64_without_field;
use vhost_user_btt::pmem::simulated::Contents;

use crate::image::Image;

/// Offset of the checksum in an info block.
const CHECKSUM_OFFSET: usize = 4088;
/// Words of an info block that mean something, those behind each other.
const INFO_WORDS: u64 = 32;

/// A word of an image.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Place {
    /// Of the first info block of an arena; its sum is made right afterwards, or not.
    Primary { arena: u8, word: u8, repair: bool },
    /// Of the second.
    Backup { arena: u8, word: u8, repair: bool },
    /// Of a lane.
    Flog { arena: u8, lane: u8, word: u8 },
    /// A map entry.
    Map { arena: u8, lba: u8 },
    /// Any.
    Anywhere { word: u32 },
}

/// What is done to a word.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Word {
    /// A bit is flipped.
    Flip(u8),
    /// It becomes a small number, with the upper two bits of it as flags.
    Small { number: u8, flags: u8 },
    /// It becomes anything.
    Any(u32),
    /// Something is added.
    Add(i16),
    /// It becomes the word that stands so many words further on, or before it.
    CopyFrom(i8),
}

/// Damage to an image.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Damage {
    /// The word.
    pub place: Place,
    /// What is done to it.
    pub word: Word,
}

impl Word {
    /// The word that comes of `old`; `other` reads the one so many words away.
    pub fn apply(self, old: u32, other: impl Fn(i8) -> u32) -> u32 {
        match self {
            Word::Flip(bit) => old ^ (1 << (bit % 32)),
            Word::Small { number, flags } => u32::from(number) | u32::from(flags) << 30,
            Word::Any(word) => word,
            Word::Add(number) => old.wrapping_add_signed(number.into()),
            Word::CopyFrom(distance) => other(distance),
        }
    }
}

impl Damage {
    /// Damages `contents`, which were those of `image`.
    pub fn apply(self, image: &Image, contents: &mut Contents) {
        let (offset, info) = self.place.offset(image);
        let offset = offset.min(contents.size() - 4);
        let load = |offset: u64| {
            let mut word = [0; 4];
            contents.read(offset.min(contents.size() - 4), &mut word);
            u32::from_le_bytes(word)
        };
        let other = |distance: i8| load(offset.saturating_add_signed(4 * i64::from(distance)));
        let word = self.word.apply(load(offset), other);
        contents.write(offset, &word.to_le_bytes());
        if let Some(info) = info {
            repair_sum(contents, info, INFO_SIZE as usize, CHECKSUM_OFFSET);
        }
    }
}

impl Place {
    /// Offset of the word; and of the info block whose sum is to be made right.
    fn offset(self, image: &Image) -> (u64, Option<u64>) {
        let arena = |number: u8| image.arenas[usize::from(number) % image.arenas.len()];
        match self {
            Place::Primary { arena: number, word, repair } => {
                let (start, _) = arena(number);
                (start + u64::from(word) % INFO_WORDS * 4, repair.then_some(start))
            }
            Place::Backup { arena: number, word, repair } => {
                let (start, geometry) = arena(number);
                let info = start + geometry.info2off;
                (info + u64::from(word) % INFO_WORDS * 4, repair.then_some(info))
            }
            Place::Flog { arena: number, lane, word } => {
                let (start, geometry) = arena(number);
                let lane = LaneIndex(u32::from(lane) % geometry.nfree);
                let word = u64::from(word) * 4 % FLOG_PAIR_SIZE;
                (start + geometry.flog_offset(lane) + word, None)
            }
            Place::Map { arena: number, lba } => {
                let (start, geometry) = arena(number);
                let lba = Lba(u32::from(lba) % geometry.external_nlba);
                (start + geometry.map_entry_offset(lba), None)
            }
            Place::Anywhere { word } => (u64::from(word) * 4 % image.contents.size(), None),
        }
    }
}

/// Makes the sum at `field` of the `length` bytes at `offset` right.
pub fn repair_sum(contents: &mut Contents, offset: u64, length: usize, field: usize) {
    let mut bytes = vec![0; length];
    contents.read(offset, &mut bytes);
    let sum = fletcher64_without_field(&bytes, field);
    contents.write(offset + field as u64, &sum.to_le_bytes());
}
