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

impl Model {
    /// Returns whether flushes make nothing durable.
    #[must_use]
    pub fn ignores_flushes(self) -> bool {
        self == Model::IgnoreFlush
    }

    /// Hands `each` the states of the point where `timeline` stands.
    pub fn choices(self, timeline: &Timeline<'_>, each: &mut dyn FnMut(Choice)) {
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
                subsets(timeline, k, &mut |pieces| each(Choice::Drop(pieces)));
            }
            Model::Keep(k) => {
                each(Choice::Keep(Vec::new()));
                subsets(timeline, k, &mut |pieces| each(Choice::Keep(pieces)));
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

/// Each `k` of the pending requests, and of the pending sectors.
fn subsets(timeline: &Timeline<'_>, k: usize, each: &mut dyn FnMut(Vec<Piece>)) {
    let pending = &timeline.point().pending;
    let requests: Vec<Piece> = pending.iter().map(|entry| Piece::Request(*entry)).collect();
    let all_of = |piece: &Piece| piece.sectors(timeline.log()).into_iter().map(Piece::Sector);
    let sectors: Vec<Piece> = requests.iter().flat_map(all_of).collect();
    combinations(&requests, k, each);
    if sectors.len() > requests.len() {
        combinations(&sectors, k, each);
    }
}

fn combinations(pieces: &[Piece], k: usize, each: &mut dyn FnMut(Vec<Piece>)) {
    for (index, piece) in pieces.iter().enumerate() {
        if k == 1 {
            each(vec![*piece]);
        } else {
            combinations(&pieces[index + 1..], k - 1, &mut |mut others| {
                others.insert(0, *piece);
                each(others);
            });
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
