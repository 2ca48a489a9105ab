//! When the power of an image fails, and what is left then.

use std::fmt;
use std::str::FromStr;

use super::super::random_seed;

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

/// When the power fails, and what is left of what was not flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub moment: Moment,
    /// Decides what is left.
    pub seed: u64,
    /// Flushes make nothing durable: the control.
    pub loses_flushes: bool,
}

/// A text that is no failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not after-writes=N, after-flushes=N, at-mark=TEXT, seed=S or lose-flushes")]
pub struct FailureError(String);

impl FromStr for Failure {
    type Err = FailureError;

    fn from_str(text: &str) -> Result<Failure, FailureError> {
        let mut failure =
            Failure { moment: Moment::OnDemand, seed: random_seed(), loses_flushes: false };
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
                None if part == "lose-flushes" => failure.loses_flushes = true,
                _ => return Err(FailureError(part.into())),
            }
        }
        Ok(failure)
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
        for bad in ["after=1", "seed", "seed=x", "after-writes=-1", "lose-flushes=1"] {
            assert!(failure(bad).is_err(), "{bad}");
        }
    }
}
