//! The record of a round's groups: which flog entries belong together.
//!
//! It lies in the *slack* between the last internal block and the map, which no implementation reads or
//! writes: one line of 64 bytes for each set of lanes. All fields are little-endian.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic number, XOR the first 8 bytes of the BTT's uuid; 0: no record |
//! | 8 | 4 | generation: goes up with each record of the session |
//! | 12 | 2 + 2 | number of sets in the session that wrote it; this set |
//! | 16 | 2 + 2 | first position of the window; its length, at most 64 |
//! | 20 | 4 | zero |
//! | 24 | 8 | bit *i*: position *i* of the window ends its group |
//! | 32 | 16 | two bits for each position: the sequence number that its lane's flog entry gets; 0: no member |
//! | 48 | 8 | zero |
//! | 56 | 8 | Fletcher-64 of the bytes before |
//!
//! A position counts all lanes of the set, those too that are out of use: lane = set + position · sets.
//! The window goes round.

use uuid::Uuid;

use super::flog::Sequence;
use super::units::LaneIndex;
use crate::pmem::{CACHE_LINE, fletcher64};

/// Bytes of a record: a cache line, whose stores a power failure keeps in order.
pub(in crate::btt) const RECORD_SIZE: u64 = CACHE_LINE;
/// Words of a record.
pub(in crate::btt) const WORDS: usize = (RECORD_SIZE / 8) as usize;
/// Most positions of a window.
pub(in crate::btt) const WINDOW: usize = 64;
/// Most records of an arena, so most sets whose rounds can have groups.
pub(in crate::btt) const MAX_RECORDS: u64 = 64;

/// Sequence numbers that a word has room for.
const PER_WORD: usize = u64::BITS as usize / 2;

const MAGIC: u64 = u64::from_le_bytes(*b"BTTgroup");

/// The first word of the records of a BTT.
pub(in crate::btt) fn magic(uuid: Uuid) -> u64 {
    let [low, ..]: [[u8; 8]; 2] = zerocopy::transmute!(*uuid.as_bytes());
    match MAGIC ^ u64::from_le_bytes(low) {
        0 => MAGIC,
        magic => magic,
    }
}

/// The members of a round, and where its groups end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::btt) struct Record {
    pub generation: u32,
    pub sets: u16,
    pub set: u16,
    pub first: u16,
    pub count: u16,
    pub ends: u64,
    /// Two bits for each position.
    pub sequences: [u64; 2],
}

impl Record {
    /// Adds the lane at `offset` in the window, whose entry gets `sequence`.
    pub(in crate::btt) fn add(&mut self, offset: usize, sequence: Sequence, ends_group: bool) {
        self.sequences[offset / PER_WORD] |= u64::from(sequence.get()) << (offset % PER_WORD * 2);
        self.ends |= u64::from(ends_group) << offset;
        self.count = offset as u16 + 1;
    }

    /// As it is stored.
    pub(in crate::btt) fn encode(&self, magic: u64) -> [u64; WORDS] {
        let half = |low: u16, high: u16| u64::from(low) | u64::from(high) << 16;
        let mut words = [
            magic,
            u64::from(self.generation) | half(self.sets, self.set) << 32,
            half(self.first, self.count),
            self.ends,
            self.sequences[0],
            self.sequences[1],
            0,
            0,
        ];
        words[WORDS - 1] = checksum(&words);
        words
    }

    /// The record that a line holds; `None`: none that is whole and of this BTT.
    pub(in crate::btt) fn decode(line: &[u8; RECORD_SIZE as usize], magic: u64) -> Option<Record> {
        let words: [[u8; 8]; WORDS] = zerocopy::transmute!(*line);
        let words = words.map(u64::from_le_bytes);
        if words[0] != magic || words[WORDS - 1] != checksum(&words) {
            return None;
        }
        let part = |word: u64, shift: u32| (word >> shift) as u16;
        let record = Record {
            generation: words[1] as u32,
            sets: part(words[1], 32),
            set: part(words[1], 48),
            first: part(words[2], 0),
            count: part(words[2], 16),
            ends: words[3],
            sequences: [words[4], words[5]],
        };
        (usize::from(record.count) <= WINDOW && record.set < record.sets).then_some(record)
    }

    /// The sequence number of the member at `offset` in the window; 0: there is none.
    fn sequence(&self, offset: usize) -> u32 {
        (self.sequences[offset / PER_WORD] >> (offset % PER_WORD * 2)) as u32 & 3
    }

    /// The groups of two members or more, in an arena of `nfree` lanes, with the sequence number of each
    /// member.
    pub(in crate::btt) fn groups(&self, nfree: u32) -> Vec<Vec<(LaneIndex, u32)>> {
        let (sets, set) = (u32::from(self.sets), u32::from(self.set));
        let lanes = nfree.saturating_sub(set).div_ceil(sets);
        if u32::from(self.first) >= lanes || u32::from(self.count) > lanes {
            return Vec::new();
        }
        let mut groups = Vec::new();
        let mut group = Vec::new();
        for offset in 0..u32::from(self.count) {
            let sequence = self.sequence(offset as usize);
            if sequence != 0 {
                let position = (u32::from(self.first) + offset) % lanes;
                group.push((LaneIndex(set + position * sets), sequence));
            }
            if self.ends & 1 << offset != 0 {
                groups.push(std::mem::take(&mut group));
            }
        }
        groups.retain(|group| group.len() > 1);
        groups
    }
}

fn checksum(words: &[u64; WORDS]) -> u64 {
    let mut bytes = [0; RECORD_SIZE as usize];
    for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *at = word.to_le_bytes();
    }
    fletcher64(&bytes[..bytes.len() - 8])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(words: &[u64; WORDS]) -> [u8; RECORD_SIZE as usize] {
        let mut bytes = [0; RECORD_SIZE as usize];
        for (at, word) in bytes.chunks_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn record() -> Record {
        let mut record = Record { generation: 7, sets: 4, set: 1, first: 62, ..Record::default() };
        for (offset, sequence, ends) in [(0, 2, false), (1, 3, true), (3, 1, false), (4, 1, true)] {
            record.add(offset, Sequence::new(sequence).unwrap(), ends);
        }
        record.add(5, Sequence::FIRST, true);
        record
    }

    #[test]
    fn every_byte_is_where_it_is_documented() {
        let uuid = Uuid::from_u128_le(0x0102_0304_0506_0708);
        let line = bytes(&record().encode(magic(uuid)));
        assert_eq!(line[..8], (MAGIC ^ 0x0102_0304_0506_0708).to_le_bytes());
        assert_eq!(line[8..24], [7, 0, 0, 0, 4, 0, 1, 0, 62, 0, 6, 0, 0, 0, 0, 0]);
        assert_eq!(line[24..32], [0b11_0010, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(line[32..34], [0b0100_1110, 0b0101]);
        assert!(line[34..56].iter().all(|byte| *byte == 0));
        assert_eq!(line[56..], fletcher64(&line[..56]).to_le_bytes());
    }

    #[test]
    fn groups_go_round_and_leave_out_what_is_no_member() {
        let lane = |position: u32| LaneIndex(1 + 4 * position);
        let expected = [vec![(lane(62), 2), (lane(63), 3)], vec![(lane(1), 1), (lane(2), 1)]];
        assert_eq!(record().groups(256), expected);
        assert!(record().groups(100).is_empty(), "there are not so many lanes");
        assert!(record().groups(1).is_empty());
    }

    #[test]
    fn what_is_not_whole_is_no_record() {
        let magic = magic(Uuid::max());
        let line = bytes(&record().encode(magic));
        assert_eq!(Record::decode(&line, magic), Some(record()));
        assert_eq!(Record::decode(&line, magic ^ 1), None);
        assert_eq!(Record::decode(&[0; 64], magic), None);
        for bit in 0..512 {
            let mut damaged = line;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&damaged, magic), None, "bit {bit}");
        }
    }

    #[test]
    fn a_magic_number_is_never_zero() {
        let uuid = Uuid::from_bytes([*b"BTTgroup", [0; 8]].concat().try_into().unwrap());
        assert_ne!(magic(uuid), 0);
    }

    proptest! {
        #[test]
        fn any_record_is_read_without_a_panic(words: [u64; WORDS], nfree in 1..70_000_u32) {
            let magic = words[0];
            let mut words = words;
            words[WORDS - 1] = checksum(&words);
            if let Some(record) = Record::decode(&bytes(&words), magic) {
                let lanes = record.groups(nfree);
                prop_assert!(lanes.iter().flatten().all(|(lane, _)| lane.0 < nfree));
            }
        }
    }
}
