//! What a power failure may leave of stores that were not fenced.

use super::contents::Contents;
use super::random::Random;
use super::unfenced::{Stream, Unfenced, WORD};
use crate::pmem::CACHE_LINE;

/// How many of the possible images to try.
///
/// Of ordinary stores (maps, flogs, labels, journals) there are few open at once, and all their
/// combinations are tried up to [`most`](Self::most). Of streaming stores (data) there are 2⁶⁴ for a
/// sector of 512 bytes; tried are none, all, each cache line missing, each alone, and random ones.
/// That is enough where nothing refers to data before they are durable, which is for the caller to
/// check.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Most images of one point in time; beyond, that many are drawn at random, corners included.
    pub most: usize,
    /// Random choices among the words of streaming stores.
    pub random: usize,
    /// Most cache lines of streaming stores that are left out, or let through, one by one; beyond,
    /// that many are drawn at random.
    pub lines: usize,
}

/// How many images there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Images {
    /// Images made.
    pub made: usize,
    /// True if these were all that [`Effort`] speaks of, and not a sample.
    pub complete: bool,
}

/// Which words of the streaming stores reached the medium.
#[derive(Debug, Clone, Copy)]
enum Words {
    None,
    All,
    /// All but those of this cache line.
    Without(u64),
    /// Only those of this cache line.
    Only(u64),
    /// Each or not, as this seed has it.
    Random(u64),
}

/// A legal choice: how many stores of each line, in the order of the lines, and which words.
struct Choice {
    prefixes: Vec<usize>,
    words: Words,
}

/// A store that reached the medium, or a part of one.
type Fragment<'a> = (u64, u64, &'a [u8]);

impl Unfenced {
    /// Hands `each` the images that a power failure may leave, given what is `durable`.
    pub fn images(
        &self,
        durable: &Contents,
        effort: &Effort,
        random: &mut Random,
        each: &mut dyn FnMut(Contents),
    ) -> Images {
        let words = self.words(effort, random);
        let lengths: Vec<usize> = self.lines.values().map(|line| line.stores.len()).collect();
        enumerate(&lengths, &words, effort, random, &mut |prefixes, words| {
            each(self.image(durable, &Choice { prefixes, words }));
        })
    }

    /// Hands `store` offset and bytes of what reaches the medium, in their order, if the power fails
    /// now and `random` decides.
    pub fn fail(&self, random: &mut Random, store: &mut dyn FnMut(u64, &[u8])) {
        let lengths = self.lines.values().map(|line| line.stores.len());
        let prefixes = random_prefixes(lengths, random);
        let words = match random.within(0..4) {
            0 => Words::None,
            1 => Words::All,
            _ => Words::Random(random.any()),
        };
        for (_, offset, bytes) in self.fragments(&Choice { prefixes, words }) {
            store(offset, bytes);
        }
    }

    /// The choices among the words of streaming stores that `effort` asks for.
    fn words(&self, effort: &Effort, random: &mut Random) -> Vec<Words> {
        if self.streams.is_empty() {
            return vec![Words::None];
        }
        let mut choices = vec![Words::None, Words::All];
        let mut lines: Vec<u64> = self.streams.iter().flat_map(Stream::lines).collect();
        lines.sort_unstable();
        lines.dedup();
        while lines.len() > effort.lines {
            lines.swap_remove(random.within(0..lines.len() as u64) as usize);
        }
        choices.extend(lines.iter().map(|line| Words::Without(*line)));
        choices.extend(lines.iter().map(|line| Words::Only(*line)));
        choices.extend((0..effort.random).map(|_| Words::Random(random.any())));
        choices
    }

    fn image(&self, durable: &Contents, choice: &Choice) -> Contents {
        let mut image = durable.clone();
        for (_, offset, bytes) in self.fragments(choice) {
            image.write(offset, bytes);
        }
        image
    }

    /// What reached the medium, in the order in which it was stored.
    fn fragments(&self, choice: &Choice) -> Vec<Fragment<'_>> {
        let mut fragments: Vec<Fragment<'_>> = Vec::new();
        for (line, count) in self.lines.values().zip(&choice.prefixes) {
            for store in &line.stores[..*count] {
                fragments.push((store.order, store.offset, store.bytes()));
            }
        }
        for stream in &self.streams {
            choice.words.take(stream, &mut fragments);
        }
        fragments.sort_by_key(|(order, ..)| *order);
        fragments
    }
}

impl Words {
    /// Adds what reached the medium of a streaming store.
    fn take<'a>(self, stream: &'a Stream, fragments: &mut Vec<Fragment<'a>>) {
        let Stream { order, offset, ref bytes, .. } = *stream;
        let end = offset + bytes.len() as u64;
        let mut take = |from: u64, to: u64| {
            let (from, to) = (from.clamp(offset, end), to.clamp(offset, end));
            if from < to {
                let part = &bytes[(from - offset) as usize..(to - offset) as usize];
                fragments.push((order, from, part));
            }
        };
        match self {
            Words::None => {}
            Words::All => take(offset, end),
            Words::Without(line) => {
                take(offset, line * CACHE_LINE);
                take((line + 1) * CACHE_LINE, end);
            }
            Words::Only(line) => take(line * CACHE_LINE, (line + 1) * CACHE_LINE),
            Words::Random(seed) => {
                let mut random = Random::new(seed ^ offset);
                for word in offset / WORD..end.div_ceil(WORD) {
                    if random.one_in(2) {
                        take(word * WORD, (word + 1) * WORD);
                    }
                }
            }
        }
    }
}

/// Hands `make` the combinations of a prefix of each of the lists of `lengths` with each of `choices`, of
/// which the first two are none and all: every combination, or a sample if `effort` allows fewer.
pub(in crate::pmem) fn enumerate<C: Copy>(
    lengths: &[usize],
    choices: &[C],
    effort: &Effort,
    random: &mut Random,
    take: &mut dyn FnMut(Vec<usize>, C),
) -> Images {
    let combinations = lengths.iter().try_fold(choices.len(), |product, length| {
        product.checked_mul(length + 1).filter(|product| *product <= effort.most)
    });
    let mut made = 0;
    let mut take = |prefixes, choice| {
        made += 1;
        take(prefixes, choice);
    };
    if combinations.is_some() {
        for choice in choices {
            let mut next = Some(vec![0; lengths.len()]);
            while let Some(prefixes) = next {
                next = successor(&prefixes, lengths);
                take(prefixes, *choice);
            }
        }
    } else {
        for corner in [vec![0; lengths.len()], lengths.to_vec()] {
            choices.iter().take(2).for_each(|choice| take(corner.clone(), *choice));
        }
        for _ in 2 * choices.len().min(2)..effort.most {
            let choice = choices[random.within(0..choices.len() as u64) as usize];
            take(random_prefixes(lengths.iter().copied(), random), choice);
        }
    }
    Images { made, complete: combinations.is_some() }
}

/// A prefix of each of the lists of `lengths`.
pub(in crate::pmem) fn random_prefixes(
    lengths: impl Iterator<Item = usize>,
    random: &mut Random,
) -> Vec<usize> {
    lengths.map(|length| random.within(0..length as u64 + 1) as usize).collect()
}

/// The next combination of prefixes, each up to its line's length; `None`: that was the last.
fn successor(prefixes: &[usize], lengths: &[usize]) -> Option<Vec<usize>> {
    let mut next = prefixes.to_vec();
    for (prefix, length) in next.iter_mut().zip(lengths) {
        if *prefix < *length {
            *prefix += 1;
            return Some(next);
        }
        *prefix = 0;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    const EFFORT: Effort = Effort { most: 1000, random: 8, lines: 16 };

    fn images(unfenced: &Unfenced, effort: &Effort) -> (Images, Vec<Contents>) {
        let mut all = Vec::new();
        let durable = Contents::zeroes(4096);
        let images =
            unfenced.images(&durable, effort, &mut Random::new(1), &mut |image| all.push(image));
        (images, all)
    }

    fn byte(contents: &Contents, offset: u64) -> u8 {
        let mut byte = [0];
        contents.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn a_line_keeps_the_order_of_its_stores_and_lines_have_none() {
        let mut unfenced = Unfenced::default();
        unfenced.store(0, &[1]);
        unfenced.store(8, &[2]);
        unfenced.store(64, &[3]);
        let (images, all) = images(&unfenced, &EFFORT);
        assert_eq!(images, Images { made: 6, complete: true });
        let seen: HashSet<[u8; 3]> =
            all.iter().map(|image| [0, 8, 64].map(|offset| byte(image, offset))).collect();
        let expected =
            [[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 0, 3], [1, 0, 3], [1, 2, 3]].into_iter();
        assert_eq!(seen, expected.collect());
    }

    #[test]
    fn words_of_a_streaming_store_come_in_any_combination_and_never_tear() {
        let mut unfenced = Unfenced::default();
        unfenced.stream(thread::current().id(), 0, &[9; 128]);
        let (images, all) = images(&unfenced, &EFFORT);
        assert_eq!(images, Images { made: 2 + 2 + 2 + 8, complete: true });
        let mut torn = 0;
        for image in &all {
            let mut bytes = [0; 128];
            image.read(0, &mut bytes);
            let (words, _) = bytes.as_chunks::<8>();
            assert!(words.iter().all(|word| *word == [0; 8] || *word == [9; 8]));
            torn += u32::from(words.iter().any(|word| word != &words[0]));
        }
        assert_eq!(torn, 12);
    }

    #[test]
    fn too_many_combinations_are_sampled() {
        let mut unfenced = Unfenced::default();
        for line in 0..20 {
            unfenced.store(line * 64, &[1]);
        }
        let (images, all) = images(&unfenced, &EFFORT);
        assert_eq!(images, Images { made: 1000, complete: false });
        let distinct: HashSet<u64> =
            all.iter().map(|image| image.fingerprint(&Contents::zeroes(4096))).collect();
        assert!(distinct.len() > 900);
    }

    #[test]
    fn a_failure_leaves_a_legal_image() {
        let mut unfenced = Unfenced::default();
        unfenced.store(0, &[1]);
        unfenced.store(8, &[2]);
        let mut seen = HashSet::new();
        for seed in 0..64 {
            let mut image = Contents::zeroes(4096);
            unfenced.fail(&mut Random::new(seed), &mut |offset, bytes| image.write(offset, bytes));
            seen.insert([byte(&image, 0), byte(&image, 8)]);
        }
        assert_eq!(seen, HashSet::from([[0, 0], [1, 0], [1, 2]]));
    }
}
