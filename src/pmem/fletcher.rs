//! Fletcher-64, the checksum of every structure on an NVDIMM.
//!
//! As in the kernel's `nd_fletcher64` and the UEFI specification's BTT and label chapters: two sums
//! modulo 2³² over little-endian 32-bit words.

/// Size of a checksum field in bytes.
pub const CHECKSUM_SIZE: usize = 8;

/// Fletcher-64 of `bytes`, whose length is a multiple of four; up to three trailing bytes beyond one
/// are not summed.
#[must_use]
pub fn fletcher64(bytes: &[u8]) -> u64 {
    fletcher64_of_words(words(bytes))
}

/// Fletcher-64 of `bytes` with the eight bytes at `field`, where the sum itself is stored, taken as
/// zero. `field` is a multiple of four.
#[must_use]
pub fn fletcher64_without_field(bytes: &[u8], field: usize) -> u64 {
    let skipped = field / 4..(field + CHECKSUM_SIZE) / 4;
    let masked =
        words(bytes).enumerate().map(|(i, word)| if skipped.contains(&i) { 0 } else { word });
    fletcher64_of_words(masked)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))
}

fn fletcher64_of_words(words: impl Iterator<Item = u32>) -> u64 {
    let (low, high) = words.fold((0u32, 0u32), |(low, high), word| {
        let low = low.wrapping_add(word);
        (low, high.wrapping_add(low))
    });
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_vector() {
        assert_eq!(fletcher64(b"abcdefgh"), 0x312e_2b27_ccca_c8c6);
    }

    #[test]
    fn zeroes_sum_to_zero() {
        assert_eq!(fletcher64(&[0; 4096]), 0);
    }

    #[test]
    fn the_checksum_field_does_not_count() {
        let mut bytes = *b"abcdefgh--------ijkl";
        let sum = fletcher64_without_field(&bytes, 8);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(fletcher64_without_field(&bytes, 8), sum);
        bytes[8..16].fill(0);
        assert_eq!(fletcher64(&bytes), sum);
    }

    /// As the specification says it, in arithmetic that cannot overflow.
    fn by_the_book(words: &[u32]) -> u64 {
        let modulus = 1u128 << 32;
        let low: u128 = words.iter().map(|word| u128::from(*word)).sum();
        let weights = (1..=words.len() as u128).rev();
        let high: u128 = words.iter().zip(weights).map(|(word, n)| u128::from(*word) * n).sum();
        (((high % modulus) << 32) | (low % modulus)) as u64
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_specification(
            words in prop::collection::vec(any::<u32>(), 0..1100),
            trailing in 0..4usize,
        ) {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(fletcher64(&bytes), by_the_book(&words));
            bytes.extend(&[0xff; 3][..trailing.min(3)]);
            prop_assert_eq!(fletcher64(&bytes), by_the_book(&words));
        }

        #[test]
        fn the_field_of_the_sum_counts_as_zero(
            mut words in prop::collection::vec(any::<u32>(), 2..200),
            place in any::<prop::sample::Index>(),
        ) {
            let field = place.index(words.len() - 1);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            words[field..field + 2].fill(0);
            prop_assert_eq!(fletcher64_without_field(&bytes, 4 * field), by_the_book(&words));
        }

        #[test]
        fn a_changed_word_changes_the_sum(
            mut words in prop::collection::vec(any::<u32>(), 1..200),
            place in any::<prop::sample::Index>(),
            change in 1..u32::MAX,
        ) {
            let before = by_the_book(&words);
            let place = place.index(words.len());
            words[place] = words[place].wrapping_add(change);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_ne!(fletcher64(&bytes), before);
        }
    }
}
