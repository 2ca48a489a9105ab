//! Correcting one damaged word of a page by its checksum.
//!
//! Fletcher-64 of words `v` is Σ v and Σ w·v, both modulo 2³², where the weight `w` of a word is its
//! position counted from the end. If one word of 32 bits has become another, the differences of the two
//! sums are `d` and `w·d`: they tell by how much the word has changed, and where. If the differences are
//! spread over the two halves of a word of 64 bits, each place has one solution, and it is the contents
//! that have to decide: a correction counts only if the page makes sense with it and with no other.

use crate::pmem::fletcher64_without_field;

/// The one word of 64 bits, by its byte offset in the page, that has to have another value for the page to
/// have the checksum `sum`; `None` if no correction makes sense, or more than one does.
///
/// `makes_sense` tells that of a page's contents. The simplest explanation is taken: one bit, then one
/// half of a word, then, if the page makes no sense as it is, a whole word.
pub(super) fn correct<const N: usize>(
    page: &[u8; N],
    sum: u64,
    makes_sense: impl Fn(&[u8; N]) -> bool,
) -> Option<(u64, u64)> {
    let found = fletcher64_without_field(page, 0);
    if (found ^ sum).count_ones() <= 1 {
        // It is the checksum itself that is damaged.
        return None;
    }
    let low = (sum as u32).wrapping_sub(found as u32);
    let high = ((sum >> 32) as u32).wrapping_sub((found >> 32) as u32);
    let halves: Vec<Correction> = halves(page, low, high).collect();
    let is_bit = |correction: &&Correction| correction.flips == 1;
    let bits: Vec<Correction> = halves.iter().filter(is_bit).copied().collect();
    let mut candidates = [bits, halves, Vec::new()];
    if !makes_sense(page) {
        candidates[2] = (1..N / 8).map(|word| whole(page, word, low, high)).collect();
    }
    for candidates in candidates {
        let mut corrected = candidates.into_iter().filter(|correction| {
            let mut page = *page;
            page[correction.at..][..8].copy_from_slice(&correction.value.to_le_bytes());
            makes_sense(&page)
        });
        if let Some(correction) = corrected.next() {
            let is_only_one = corrected.next().is_none();
            return is_only_one.then_some((correction.at as u64, correction.value));
        }
    }
    None
}

/// A word, and what it should be.
#[derive(Clone, Copy)]
struct Correction {
    at: usize,
    value: u64,
    /// Bits that are different.
    flips: u32,
}

impl Correction {
    fn new(page: &[u8], word: usize, low: u32, high: u32) -> Correction {
        let at = word * 8;
        let half =
            |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let (before, after) = ([half(at), half(at + 4)], [low, high]);
        let flips = before.iter().zip(after).map(|(before, after)| (before ^ after).count_ones());
        let value = u64::from(high) << 32 | u64::from(low);
        Correction { at, value, flips: flips.sum() }
    }
}

/// Two halves of a word of 64 bits.
fn word_at(page: &[u8], word: usize) -> (u32, u32) {
    let bytes = page[word * 8..].first_chunk().copied().unwrap_or_default();
    let value = u64::from_le_bytes(bytes);
    (value as u32, (value >> 32) as u32)
}

/// Corrections of 32 bits: by `low`, where the weight makes `high` of it. The checksum is no part of it.
fn halves(page: &[u8], low: u32, high: u32) -> impl Iterator<Item = Correction> {
    let words = page.len() / 4;
    let fits = move |index: &usize| low != 0 && ((words - index) as u32).wrapping_mul(low) == high;
    (2..words).filter(fits).map(move |index| {
        let (first, second) = word_at(page, index / 2);
        if index % 2 == 0 {
            Correction::new(page, index / 2, first.wrapping_add(low), second)
        } else {
            Correction::new(page, index / 2, first, second.wrapping_add(low))
        }
    })
}

/// The correction of 64 bits at a place: the differences of its halves add up to `low`, and weighted to
/// `high`.
fn whole(page: &[u8], word: usize, low: u32, high: u32) -> Correction {
    let weight = (page.len() / 4 - 2 * word - 1) as u32;
    let difference = high.wrapping_sub(weight.wrapping_mul(low));
    let (first, second) = word_at(page, word);
    let second = second.wrapping_add(low.wrapping_sub(difference));
    Correction::new(page, word, first.wrapping_add(difference), second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dax::format::layout::{METADATA_PAGE_SIZE, PageBytes};
    use crate::pmem::simulated::Random;

    /// A page of noise whose words of 64 bits end in a zero byte, and its checksum.
    fn sample() -> (Box<PageBytes>, u64) {
        let mut page = Box::new([0; METADATA_PAGE_SIZE as usize]);
        let mut random = Random::new(1);
        for word in page[8..].as_chunks_mut::<8>().0 {
            *word = (random.any() >> 8).to_le_bytes();
        }
        let sum = fletcher64_without_field(&page[..], 0);
        (page, sum)
    }

    fn makes_sense(page: &PageBytes) -> bool {
        page[8..].as_chunks::<8>().0.iter().all(|word| word[7] == 0)
    }

    fn corrected(change: impl Fn(&mut u64), at: usize) -> Option<(u64, u64)> {
        let (mut page, sum) = sample();
        let mut word = [0; 8];
        word.copy_from_slice(&page[at..at + 8]);
        let whole = u64::from_le_bytes(word);
        let mut damaged = whole;
        change(&mut damaged);
        page[at..at + 8].copy_from_slice(&damaged.to_le_bytes());
        let correction = correct(&page, sum, makes_sense);
        assert!(correction.is_none_or(|(place, value)| (place as usize, value) == (at, whole)));
        correction
    }

    #[test]
    fn a_bit_that_was_flipped_is_found() {
        for at in (8..METADATA_PAGE_SIZE as usize).step_by(8) {
            for bit in [0, 7, 20, 32, 40, 52] {
                assert!(corrected(|word| *word ^= 1 << bit, at).is_some(), "{at} {bit}");
            }
            // At these, many places explain the difference, and this page makes sense with any.
            corrected(|word| *word ^= 1 << 31, at);
            // But no other place explains a word that makes no sense.
            assert!(corrected(|word| *word ^= 1 << 63, at).is_some(), "{at}");
        }
    }

    #[test]
    fn a_word_that_has_become_another_is_found_if_it_makes_no_sense_now() {
        for at in (8..METADATA_PAGE_SIZE as usize).step_by(8) {
            assert!(
                corrected(|word| *word = 0x1234_5678_9abc_def1 ^ at as u64, at).is_some(),
                "{at}"
            );
            assert!(corrected(|word| *word ^= 0x1234_5671, at).is_some(), "half a word at {at}");
        }
    }

    #[test]
    fn a_damaged_checksum_is_no_damage_of_the_contents() {
        let (page, sum) = sample();
        for bit in 0..64 {
            assert_eq!(correct(&page, sum ^ 1 << bit, makes_sense), None, "bit {bit}");
        }
        assert_eq!(correct(&page, sum, makes_sense), None);
        assert_eq!(correct(&page, 0x0123_4567_89ab_cdef, makes_sense), None);
    }

    #[test]
    fn two_damaged_words_are_not_corrected_to_something_else() {
        let (mut page, sum) = sample();
        page[1007] = 1;
        page[4007] = 1;
        assert_eq!(correct(&page, sum, makes_sense), None);
    }
}
