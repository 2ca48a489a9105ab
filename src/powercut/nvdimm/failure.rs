//! When the power of an NVDIMM file fails, and what is left then.

use std::fmt;
use std::str::FromStr;

use super::super::random_seed;

/// When the power fails, and what is left then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerFailure {
    /// Fences that take effect; the power fails in the next one. `None`: it fails on demand alone.
    pub after_fences: Option<u64>,
    /// Decides what is left of what was not fenced.
    pub seed: u64,
    /// What others flush is not made durable: the control experiment.
    pub loses_flushes: bool,
}

impl FromStr for PowerFailure {
    type Err = String;

    /// Parses `after-fences=N,seed=S,lose-flushes`; each may be missing.
    fn from_str(text: &str) -> Result<PowerFailure, String> {
        let mut failure =
            PowerFailure { after_fences: None, seed: random_seed(), loses_flushes: false };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let number = |value: &str| value.parse().map_err(|error| format!("{value:?}: {error}"));
            match part.split_once('=') {
                Some(("after-fences", value)) => failure.after_fences = Some(number(value)?),
                Some(("seed", value)) => failure.seed = number(value)?,
                None if part == "lose-flushes" => failure.loses_flushes = true,
                _ => return Err(format!("{part:?} is not after-fences=N, seed=S or lose-flushes")),
            }
        }
        Ok(failure)
    }
}

impl fmt::Display for PowerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after_fences {
            Some(fences) => write!(f, "after {fences} fences")?,
            None => write!(f, "at SIGUSR1")?,
        }
        let flushes = if self.loses_flushes { ", and what guests flush is lost" } else { "" };
        write!(f, ", seed {}{flushes}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power_failure(text: &str) -> Result<PowerFailure, String> {
        text.parse()
    }

    #[test]
    fn a_power_failure_is_said_in_either_order_or_not_at_all() {
        let failure = PowerFailure { after_fences: Some(7), seed: 9, loses_flushes: false };
        assert_eq!(power_failure("after-fences=7,seed=9"), Ok(failure));
        assert_eq!(power_failure("seed=9,after-fences=7"), Ok(failure));
        assert_eq!(power_failure("seed=9"), Ok(PowerFailure { after_fences: None, ..failure }));
        let losing = PowerFailure { loses_flushes: true, ..failure };
        assert_eq!(power_failure("after-fences=7,lose-flushes,seed=9"), Ok(losing));
        assert_eq!(power_failure("").unwrap().after_fences, None);
        assert_ne!(power_failure("").unwrap().seed, power_failure("").unwrap().seed);
        for bad in ["lose-flushes=1", "after=7", "seed", "seed=", "seed=-1", "after-fences=x"] {
            assert!(power_failure(bad).is_err(), "{bad}");
        }
    }
}
