//! Which of the legal states of a point are tried.

use std::fmt;
use std::str::FromStr;

use super::super::log::{Entry, flag};
use super::choice::{Choice, Piece, Tear};
use super::timeline::{Pending, Timeline};
use crate::pmem::cache_model::Random;

/// Random states of each point.
const RANDOM_STATES: u64 = 4;

/// A way to choose among the states of a point. docs/powercut.md says what each stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// All that was written before the point is there.
    Prefix,
    /// As `Prefix`, at flushes and at the end alone.
    Flush,
    /// All but so many requests or sectors.
    Drop(usize),
    /// None but so many requests or sectors.
    Keep(usize),
    /// Each sector is there or not.
    Random(u64),
    /// One sector of the last request is cut.
    Torn,
    /// The last request is cut between aligned blocks of so many bytes.
    Atomic(u64),
    /// As `Drop` and `Random`, and flushes make nothing durable: the control.
    IgnoreFlush,
}

/// Takes every so many of the pairs that `drop-2` and `keep-2` try, whose number grows with the square of what is
/// pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stride {
    step: u64,
    /// Pairs that are passed over before the next one is taken.
    skipped: u64,
}

/// A text that is no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a model: prefix, flush, drop-K, keep-K, random:SEED, torn, atomic:BYTES, request-torn or ignore-flush, with K 1 or 2"
)]
pub struct ModelError(String);

impl FromStr for Model {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Model, ModelError> {
        let fails = || ModelError(text.into());
        let count = |text: &str| match text.parse() {
            Ok(count @ 1..=2) => Ok(count),
            _ => Err(fails()),
        };
        let simple = match text {
            "prefix" => Some(Model::Prefix),
            "flush" => Some(Model::Flush),
            "torn" => Some(Model::Torn),
            "request-torn" => Some(Model::Atomic(0)),
            "ignore-flush" => Some(Model::IgnoreFlush),
            _ => None,
        };
        if let Some(model) = simple {
            return Ok(model);
        }
        if let Some(k) = text.strip_prefix("drop-") {
            return Ok(Model::Drop(count(k)?));
        }
        if let Some(k) = text.strip_prefix("keep-") {
            return Ok(Model::Keep(count(k)?));
        }
        if let Some(seed) = text.strip_prefix("random:") {
            return seed.parse().map(Model::Random).map_err(|_| fails());
        }
        match text.strip_prefix("atomic:").and_then(|bytes| bytes.parse::<u64>().ok()) {
            Some(bytes) if bytes.is_power_of_two() && bytes >= 512 => Ok(Model::Atomic(bytes)),
            _ => Err(fails()),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Model::Prefix => f.write_str("prefix"),
            Model::Flush => f.write_str("flush"),
            Model::Drop(k) => write!(f, "drop-{k}"),
            Model::Keep(k) => write!(f, "keep-{k}"),
            Model::Random(seed) => write!(f, "random:{seed}"),
            Model::Torn => f.write_str("torn"),
            Model::Atomic(0) => f.write_str("request-torn"),
            Model::Atomic(bytes) => write!(f, "atomic:{bytes}"),
            Model::IgnoreFlush => f.write_str("ignore-flush"),
        }
    }
}

impl Stride {
    /// Takes no more than `wanted` of `total` pairs.
    #[must_use]
    pub fn new(total: u64, wanted: u64) -> Stride {
        Stride { step: total.div_ceil(wanted.max(1)).max(1), skipped: 0 }
    }

    /// The numbers of those that are taken of the next `count`.
    fn of_next(&mut self, count: u64) -> impl Iterator<Item = usize> + use<> {
        let (first, step) = (self.skipped, self.step);
        let taken = count.saturating_sub(first).div_ceil(step);
        self.skipped = first + taken * step - count;
        (0..taken).map(move |number| (first + number * step) as usize)
    }
}

impl Default for Stride {
    /// Takes all.
    fn default() -> Stride {
        Stride::new(0, 0)
    }
}

impl Model {
    /// Returns whether it tries pairs.
    #[must_use]
    pub fn tries_pairs(self) -> bool {
        matches!(self, Model::Drop(2) | Model::Keep(2))
    }

    /// The number of pairs that it tries where `timeline` stands.
    #[must_use]
    pub fn pairs(self, timeline: &Timeline<'_>) -> u64 {
        if !self.tries_pairs() {
            return 0;
        }
        let pairs_of = |count: u64| count * count.saturating_sub(1) / 2;
        let entries = timeline.log().entries();
        let pending = &timeline.point().pending;
        let (requests, sectors) =
            (pending.len() as u64, pending.iter().map(|entry| entries[*entry].sectors).sum());
        pairs_of(requests) + if sectors > requests { pairs_of(sectors) } else { 0 }
    }

    /// Returns whether flushes make nothing durable.
    #[must_use]
    pub fn ignores_flushes(self) -> bool {
        self == Model::IgnoreFlush
    }

    /// Hands `each` the states of the point where `timeline` stands; of pairs, those that `stride` takes.
    pub fn choices(
        self,
        timeline: &Timeline<'_>,
        stride: &mut Stride,
        each: &mut dyn FnMut(Choice),
    ) {
        let (log, point) = (timeline.log(), timeline.point());
        let last = point.position.checked_sub(1).map(|last| &log.entries()[last]);
        let is_new = last.is_some_and(Entry::changes) && !point.pending.is_empty();
        match self {
            Model::Torn if is_new => torn(timeline, each),
            Model::Atomic(bytes) if is_new => atomic(timeline, bytes, each),
            Model::Prefix | Model::Torn | Model::Atomic(_) => each(all()),
            Model::Flush => {
                let is_end = point.position == log.entries().len();
                let next = log.entries().get(point.position);
                if is_end || next.is_some_and(|next| next.has(flag::FLUSH)) {
                    each(all());
                }
            }
            Model::Drop(k) => {
                each(all());
                subsets(timeline, k, stride, &mut |pieces| each(Choice::Drop(pieces)));
            }
            Model::Keep(k) => {
                each(Choice::Keep(Vec::new()));
                subsets(timeline, k, stride, &mut |pieces| each(Choice::Keep(pieces)));
            }
            Model::Random(seed) => random(timeline, seed, each),
            Model::IgnoreFlush => {
                each(Choice::Keep(Vec::new()));
                for entry in &point.pending {
                    each(Choice::Drop(vec![Piece::Request(*entry)]));
                }
                random(timeline, 0, each);
            }
        }
    }
}

fn all() -> Choice {
    Choice::Drop(Vec::new())
}

/// Each one of the pending requests, and of the pending sectors; or the pairs of them that `stride` takes.
fn subsets(
    timeline: &Timeline<'_>,
    k: usize,
    stride: &mut Stride,
    each: &mut dyn FnMut(Vec<Piece>),
) {
    let pending = &timeline.point().pending;
    let requests: Vec<Piece> = pending.iter().map(|entry| Piece::Request(*entry)).collect();
    let all_of = |piece: &Piece| piece.sectors(timeline.log()).into_iter().map(Piece::Sector);
    let sectors: Vec<Piece> = requests.iter().flat_map(all_of).collect();
    let has_sectors = sectors.len() > requests.len();
    for pieces in [Some(requests), has_sectors.then_some(sectors)].into_iter().flatten() {
        if k == 1 {
            for piece in pieces {
                each(vec![piece]);
            }
        } else {
            pairs(&pieces, stride, each);
        }
    }
}

fn pairs(pieces: &[Piece], stride: &mut Stride, each: &mut dyn FnMut(Vec<Piece>)) {
    for (index, piece) in pieces.iter().enumerate() {
        let others = &pieces[index + 1..];
        for other in stride.of_next(others.len() as u64) {
            each(vec![*piece, others[other]]);
        }
    }
}

fn random(timeline: &Timeline<'_>, seed: u64, each: &mut dyn FnMut(Choice)) {
    let point = timeline.point();
    if point.pending.is_empty() {
        return each(all());
    }
    let mut random =
        Random::new(seed ^ (point.position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..RANDOM_STATES).for_each(|_| each(Choice::Random(random.any())));
}

/// Each sector of the last request, cut in several places.
fn torn(timeline: &Timeline<'_>, each: &mut dyn FnMut(Choice)) {
    let size = timeline.log().sector_size();
    let last = timeline.point().position - 1;
    for (number, sector) in (0..).zip(Piece::Request(last).sectors(timeline.log())) {
        let prefixes = [8, 64, size / 4, size / 2, size - 64, size - 8].map(Tear::Prefix);
        let words = [1, 2].map(|seed| Tear::Words(number * 2 + seed));
        for tear in prefixes.into_iter().chain(words) {
            each(Choice::Torn(sector, tear));
        }
    }
}

/// The last request, cut between aligned blocks: a beginning of it, an end, all but one block, and one alone.
fn atomic(timeline: &Timeline<'_>, bytes: u64, each: &mut dyn FnMut(Choice)) {
    let size = u64::from(timeline.log().sector_size());
    let block = (bytes / size).max(1);
    let last = timeline.point().position - 1;
    let sectors = Piece::Request(last).sectors(timeline.log());
    let blocks: Vec<&[Pending]> =
        sectors.chunk_by(|one, next| one.sector / block == next.sector / block).collect();
    let mut drop = |dropped: &[&[Pending]]| {
        each(Choice::Drop(dropped.concat().into_iter().map(Piece::Sector).collect()));
    };
    drop(&[]);
    drop(&blocks);
    for cut in 1..blocks.len() {
        drop(&blocks[cut..]);
        drop(&blocks[..cut]);
    }
    for one in 0..blocks.len() {
        drop(&blocks[one..=one]);
        drop(&[&blocks[..one], &blocks[one + 1..]].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(count: usize, mut stride: Stride) -> Vec<(usize, usize)> {
        let pieces: Vec<Piece> = (0..count).map(Piece::Request).collect();
        let mut taken = Vec::new();
        pairs(&pieces, &mut stride, &mut |pair| match pair[..] {
            [Piece::Request(one), Piece::Request(other)] => taken.push((one, other)),
            _ => panic!("{pair:?} is no pair"),
        });
        taken
    }

    #[test]
    fn a_stride_takes_every_so_many_pairs() {
        let all = taken(20, Stride::default());
        assert_eq!(all.len(), 190);
        for wanted in [1, 7, 50, 189, 190, 500] {
            let stride = Stride::new(190, wanted);
            let expected: Vec<_> = all.iter().copied().step_by(stride.step as usize).collect();
            assert_eq!(taken(20, stride), expected);
            assert!(expected.len() as u64 <= wanted, "{} of {wanted}", expected.len());
        }
    }
}
