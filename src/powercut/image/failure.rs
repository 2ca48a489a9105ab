//! When the power of an image fails, and what is left then.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::super::random_seed;
use crate::pmem::cache_model::Random;

/// When the power fails.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Moment {
    /// At SIGUSR1.
    #[default]
    OnDemand,
    /// So many requests that write have completed, and the next one is in flight.
    AfterWrites(u64),
    /// So many flushes have taken effect, and the next one begins.
    AfterFlushes(u64),
    /// A mark with this text is set.
    AtMark(String),
}

/// What is left of the writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Remains {
    /// Any version of each sector; now and then all, or nothing.
    #[default]
    Any,
    /// All that was written.
    Prefix,
    /// Any version of each sector.
    Random,
    /// All but so many requests.
    Drop(usize),
    /// Nothing but so many requests.
    Keep(usize),
}

/// When the power fails, and what is left of what was not flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub moment: Moment,
    /// Decides what is left.
    pub seed: u64,
    /// What it decides among.
    pub remains: Remains,
    /// Flushes make nothing durable: the control.
    pub loses_flushes: bool,
}

/// A text that is no failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not after-writes=N, after-flushes=N, at-mark=TEXT, seed=S, model=MODEL (prefix, random, drop-K or keep-K) or lose-flushes"
)]
pub struct FailureError(String);

impl FromStr for Failure {
    type Err = FailureError;

    fn from_str(text: &str) -> Result<Failure, FailureError> {
        let mut failure = Failure {
            moment: Moment::OnDemand,
            seed: random_seed(),
            remains: Remains::Any,
            loses_flushes: false,
        };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let number = |value: &str| value.parse().map_err(|_| FailureError(part.into()));
            match part.split_once('=') {
                Some(("after-writes", value)) => {
                    failure.moment = Moment::AfterWrites(number(value)?);
                }
                Some(("after-flushes", value)) => {
                    failure.moment = Moment::AfterFlushes(number(value)?);
                }
                Some(("at-mark", text)) => failure.moment = Moment::AtMark(text.into()),
                Some(("seed", value)) => failure.seed = number(value)?,
                Some(("model", model)) => {
                    failure.remains = Remains::parse(model).ok_or(FailureError(part.into()))?;
                }
                None if part == "lose-flushes" => failure.loses_flushes = true,
                _ => return Err(FailureError(part.into())),
            }
        }
        Ok(failure)
    }
}

impl Remains {
    fn parse(text: &str) -> Option<Remains> {
        let count = |text: &str| text.parse::<usize>().ok();
        match (text, text.split_once('-')) {
            ("prefix", _) => Some(Remains::Prefix),
            ("random", _) => Some(Remains::Random),
            (_, Some(("drop", k))) => count(k).map(Remains::Drop),
            (_, Some(("keep", k))) => count(k).map(Remains::Keep),
            _ => None,
        }
    }
}

/// Decides which version of a sector is left.
pub(super) struct Choice {
    random: Random,
    remains: Remains,
    /// The requests that `remains` counts.
    named: BTreeSet<u64>,
}

impl Choice {
    /// Decides as `failure` says, among the requests `pending`.
    pub(super) fn new(failure: &Failure, pending: impl Iterator<Item = u64>) -> Choice {
        let mut random = Random::new(failure.seed);
        let remains = match failure.remains {
            // Each sector by itself rarely comes to all, or to nothing.
            Remains::Any => match random.within(0..4) {
                0 => Remains::Keep(0),
                1 => Remains::Prefix,
                _ => Remains::Random,
            },
            remains => remains,
        };
        let (mut pending, mut named): (Vec<u64>, _) = (pending.collect(), BTreeSet::new());
        if let Remains::Drop(count) | Remains::Keep(count) = remains {
            for _ in 0..count.min(pending.len()) {
                named.insert(pending.swap_remove(random.within(0..pending.len() as u64) as usize));
            }
        }
        Choice { random, remains, named }
    }

    /// Which of the `versions` of a sector, by the requests that have written them, is left; `None`: what was durable.
    pub(super) fn of(&mut self, versions: &[u64]) -> Option<u64> {
        let is_named = |request: &u64| self.named.contains(request);
        match self.remains {
            Remains::Drop(_) => versions.iter().copied().rfind(|request| !is_named(request)),
            Remains::Keep(_) => versions.iter().copied().rfind(is_named),
            Remains::Prefix => versions.last().copied(),
            Remains::Any | Remains::Random => {
                let version = self.random.within(0..versions.len() as u64 + 1).checked_sub(1)?;
                versions.get(version as usize).copied()
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.moment {
            Moment::OnDemand => write!(f, "at SIGUSR1")?,
            Moment::AfterWrites(writes) => write!(f, "after {writes} writes")?,
            Moment::AfterFlushes(flushes) => write!(f, "after {flushes} flushes")?,
            Moment::AtMark(text) => write!(f, "at the mark {text:?}")?,
        }
        let flushes = if self.loses_flushes { ", and what is flushed is lost" } else { "" };
        write!(f, ", seed {}{flushes}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_a_moment_and_a_seed() {
        let failure = |text: &str| text.parse::<Failure>();
        assert_eq!(failure("after-writes=7,seed=9").unwrap().moment, Moment::AfterWrites(7));
        assert_eq!(failure("after-writes=7,seed=9").unwrap().seed, 9);
        assert_eq!(failure("after-flushes=0").unwrap().moment, Moment::AfterFlushes(0));
        assert_eq!(failure("at-mark=a b").unwrap().moment, Moment::AtMark("a b".into()));
        assert_eq!(failure("").unwrap().moment, Moment::OnDemand);
        assert!(failure("lose-flushes").unwrap().loses_flushes);
        for bad in ["after=1", "seed", "seed=x", "after-writes=-1", "lose-flushes=1", "model=torn"]
        {
            assert!(failure(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_model_says_how_many_requests_are_lost_or_there() {
        let left = |model: &str| {
            let failure: Failure = format!("seed=3,model={model}").parse().unwrap();
            let mut choice = Choice::new(&failure, 10..20);
            (10..20).filter(|request| choice.of(&[*request]) == Some(*request)).count()
        };
        assert_eq!((left("prefix"), left("drop-0"), left("keep-0")), (10, 10, 0));
        assert_eq!((left("drop-2"), left("keep-3"), left("drop-99")), (8, 3, 0));
        assert!((1..10).contains(&left("random")));
        // Of a sector that was written twice, the older version shows when the newer one is lost.
        let failure: Failure = "model=drop-1,seed=1".parse().unwrap();
        assert_eq!(Choice::new(&failure, [8].into_iter()).of(&[7, 8]), Some(7));
    }
}
