//! Versions of a region's format.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use uuid::Uuid;

use crate::pmem::fletcher64;

/// A version of a region's format: they differ in the checksum of journal entries alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Fletcher-64. Regions of this version are opened and changed, and no longer made.
    One,
    /// SipHash-2-4, whose key is the region's uuid.
    Two,
}

impl Version {
    /// The version of this number, if there is one.
    #[must_use]
    pub(crate) fn of_number(number: u32) -> Option<Version> {
        match number {
            1 => Some(Version::One),
            2 => Some(Version::Two),
            _ => None,
        }
    }

    /// Its number in superblocks and journal entries.
    #[must_use]
    pub(crate) fn number(self) -> u32 {
        match self {
            Version::One => 1,
            Version::Two => 2,
        }
    }

    /// The checksum of a journal entry of the region `uuid`: of all bytes after the checksum itself.
    #[must_use]
    pub(crate) fn entry_checksum(self, uuid: Uuid, bytes: &[u8]) -> u64 {
        match self {
            Version::One => fletcher64(bytes),
            Version::Two => {
                let mut hasher = SipHasher24::new_with_key(uuid.as_bytes());
                hasher.write(bytes);
                hasher.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vector of the reference implementation with a message: key 0, 1, ... 15 and message 0,
    /// 1, ... 14 (appendix A of "`SipHash`: a fast short-input PRF").
    #[test]
    fn entries_of_version_2_are_summed_by_siphash_2_4() {
        let bytes: Vec<u8> = (0..16).collect();
        let key = Uuid::from_slice(&bytes).unwrap();
        assert_eq!(Version::Two.entry_checksum(key, &bytes[..15]), 0xa129_ca61_49be_45e5);
        assert_eq!(Version::One.entry_checksum(key, b"abcdefgh"), fletcher64(b"abcdefgh"));
    }

    #[test]
    fn versions_are_known_by_their_numbers() {
        for version in [Version::One, Version::Two] {
            assert_eq!(Version::of_number(version.number()), Some(version));
        }
        assert_eq!((Version::of_number(0), Version::of_number(3)), (None, None));
    }

    /// What Fletcher-64 misses: the sums are modulo 2³², so two words that lose their highest bit at a
    /// distance of an even number of words cancel out, in both sums.
    #[test]
    fn two_words_that_lose_their_highest_bits_are_seen_by_siphash_alone() {
        let whole: Vec<u8> =
            [1u64, 0x8000_0000, 2, 0x8000_0000].iter().flat_map(|w| w.to_le_bytes()).collect();
        let torn: Vec<u8> = [1u64, 0, 2, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let sums = |version: Version| {
            [&whole, &torn].map(|bytes| version.entry_checksum(Uuid::nil(), bytes))
        };
        let [before, after] = sums(Version::One);
        assert_eq!(before, after);
        let [before, after] = sums(Version::Two);
        assert_ne!(before, after);
    }
}
