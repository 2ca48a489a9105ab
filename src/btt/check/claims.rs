//! Which blocks of an arena have an owner: one bit for each.

use crate::btt::format::units::Block;

const BITS: u32 = u64::BITS;

/// A set of the blocks of an arena.
#[derive(Debug)]
pub(super) struct Claims {
    words: Vec<u64>,
    blocks: u32,
}

impl Claims {
    /// The empty set of an arena of `blocks` blocks.
    pub(super) fn new(blocks: u32) -> Claims {
        Claims { words: vec![0; blocks.div_ceil(BITS) as usize], blocks }
    }

    /// Takes every block out.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts a block of the arena in. Returns whether it was not in yet.
    pub(super) fn claim(&mut self, block: Block) -> bool {
        let (word, bit) = self.place(block);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes a block of the arena out. Returns whether it was in.
    pub(super) fn release(&mut self, block: Block) -> bool {
        let (word, bit) = self.place(block);
        let was_in = *word & bit != 0;
        *word &= !bit;
        was_in
    }

    fn place(&mut self, block: Block) -> (&mut u64, u64) {
        debug_assert!(block.0 < self.blocks);
        let word = &mut self.words[(block.0 / BITS) as usize];
        (word, 1 << (block.0 % BITS))
    }

    /// Puts `count` blocks from `first` on in, all of the arena, and tells which were in already.
    pub(super) fn claim_range(&mut self, first: u32, count: u32, mut again: impl FnMut(Block)) {
        self.for_each_word(first, count, |number, word, mask| {
            for_each_bit(*word & mask, number, &mut again);
            *word |= mask;
        });
    }

    /// Takes `count` blocks from `first` on out, all of the arena, and tells which were in.
    pub(super) fn release_range(&mut self, first: u32, count: u32, mut was_in: impl FnMut(Block)) {
        self.for_each_word(first, count, |number, word, mask| {
            for_each_bit(*word & mask, number, &mut was_in);
            *word &= !mask;
        });
    }

    /// The words that hold a range, with the range's bits in each.
    fn for_each_word(&mut self, first: u32, count: u32, mut f: impl FnMut(usize, &mut u64, u64)) {
        debug_assert!(first <= self.blocks && count <= self.blocks - first);
        let (mut next, end) = (first, first + count);
        while next < end {
            let bit = next % BITS;
            let bits = (BITS - bit).min(end - next);
            let number = (next / BITS) as usize;
            f(number, &mut self.words[number], u64::MAX >> (BITS - bits) << bit);
            next += bits;
        }
    }

    /// Number of blocks that are not in.
    pub(super) fn unclaimed_count(&self) -> u64 {
        let claimed: u64 = self.words.iter().map(|w| u64::from(w.count_ones())).sum();
        u64::from(self.blocks) - claimed
    }

    /// The blocks that are not in.
    pub(super) fn unclaimed(&self) -> impl Iterator<Item = Block> {
        let words = self.words.iter().enumerate();
        words
            .filter(|(_, word)| **word != u64::MAX)
            .flat_map(|(number, word)| {
                let first = number as u32 * BITS;
                let unset = move |bit: &u32| word & 1 << bit == 0;
                (0..BITS).filter(unset).map(move |bit| Block(first + bit))
            })
            .filter(|block| block.0 < self.blocks)
    }
}

/// The blocks whose bits are set in a word.
fn for_each_bit(mut word: u64, number: usize, mut f: impl FnMut(Block)) {
    while word != 0 {
        f(Block(number as u32 * BITS + word.trailing_zeros()));
        word &= word - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_claimed_once() {
        let mut claims = Claims::new(130);
        assert!(claims.claim(Block(129)));
        assert!(!claims.claim(Block(129)));
        assert_eq!(claims.unclaimed_count(), 129);
        assert!(claims.release(Block(129)));
        assert!(!claims.release(Block(129)));
        assert!(claims.claim(Block(129)));
    }

    #[test]
    fn ranges_are_the_same_as_their_blocks() {
        for (first, count) in [(0, 0), (0, 64), (3, 61), (3, 62), (63, 2), (5, 195), (0, 200)] {
            let (mut one, mut other) = (Claims::new(200), Claims::new(200));
            let mut again = Vec::new();
            for block in [0, 4, 63, 64, 199].map(Block) {
                one.claim(block);
                other.claim(block);
            }
            one.claim_range(first, count, |block| again.push(block));
            let expected: Vec<Block> =
                (first..first + count).map(Block).filter(|&block| !other.claim(block)).collect();
            assert_eq!(again, expected, "{first} {count}");
            assert_eq!(one.words, other.words);

            let mut out = Vec::new();
            one.release_range(first, count, |block| out.push(block.0));
            assert!(out.into_iter().eq(first..first + count));
            (first..first + count).for_each(|block| assert!(other.release(Block(block))));
            assert_eq!(one.words, other.words);
        }
    }

    #[test]
    fn what_is_left_is_listed_and_counted() {
        let mut claims = Claims::new(130);
        claims.claim_range(1, 128, |_| panic!());
        assert!(claims.unclaimed().eq([Block(0), Block(129)]));
        assert_eq!(claims.unclaimed_count(), 2);
        claims.clear();
        assert_eq!(claims.unclaimed().count(), 130);
    }
}
