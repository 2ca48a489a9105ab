//! Options of a daemon that lets the power fail.

use std::hash::{BuildHasher, Hasher, RandomState};

use clap::Args;

use crate::pmem::PowerFailure;
use crate::vhost_user::Injection;

/// What to let go wrong.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Power failures (for tests)")]
pub(super) struct InjectionArgs {
    /// Let the power fail: after N fences, and at SIGUSR1
    ///
    /// The file is treated as if it were DAX: it gets what was flushed and fenced, and nothing else
    /// until the power fails. Then it gets what the CPU's caches might have written back by then of
    /// all the rest, as the seed says, and the daemon is gone, as by SIGKILL. Without
    /// 'after-fences', the power fails at SIGUSR1 alone; without 'seed', the seed is random. The
    /// last line on standard error says which it was. What guests store to DAX devices, and have not
    /// flushed, is lost in part, too; that takes as much memory as they are large. With
    /// 'lose-flushes', what they have flushed is lost as well: the control experiment.
    #[arg(long, value_name = "after-fences=N,seed=S,lose-flushes", num_args = 0..=1, default_missing_value = "",
          value_parser = power_failure, conflicts_with_all = ["durability", "read_only"])]
    power_fail: Option<PowerFailure>,

    /// Serve the namespace's bytes as they are, as sectors of 512 or 4096 bytes: not a BTT, and not
    /// atomic. What is in the namespace is lost
    #[arg(long, value_name = "SECTOR-SIZE", value_parser = sector_size,
          conflicts_with = "read_only")]
    raw: Option<u32>,
}

impl From<InjectionArgs> for Injection {
    fn from(args: InjectionArgs) -> Injection {
        Injection { power_fail: args.power_fail, raw: args.raw }
    }
}

/// Parses `after-fences=N,seed=S,lose-flushes`; each may be missing.
fn power_failure(text: &str) -> Result<PowerFailure, String> {
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

/// A seed that is another one every time.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("neither 512 nor 4096".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
