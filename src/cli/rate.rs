//! Rate limits on the command line, with cloud-hypervisor's names.

use std::str::FromStr;
use std::time::Duration;

use super::key_value::{self, KeyValueError, ValueError, given, parsed};
use super::size::Size;
use crate::vhost_user::control::RateReport;
use crate::vhost_user::{BucketConfig, RateLimit};

/// The value of `--rate-limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RateArg {
    /// `None`: of each disk.
    pub group: Option<String>,
    pub limit: RateReport,
}

/// The keys that there are.
const KEYS: [&str; 7] = [
    "group",
    "bw_size",
    "bw_one_time_burst",
    "bw_refill_time",
    "ops_size",
    "ops_one_time_burst",
    "ops_refill_time",
];

impl FromStr for RateArg {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<RateArg, KeyValueError> {
        let [group, bw_size, bw_burst, bw_time, ops_size, ops_burst, ops_time] =
            key_value::values(text, &KEYS)?;
        let limit = RateReport {
            bw_size: parsed("bw_size", bw_size, bytes)?.unwrap_or(0),
            bw_one_time_burst: parsed("bw_one_time_burst", bw_burst, bytes)?.unwrap_or(0),
            bw_refill_time: parsed("bw_refill_time", bw_time, number)?.unwrap_or(0),
            ops_size: parsed("ops_size", ops_size, number)?.unwrap_or(0),
            ops_one_time_burst: parsed("ops_one_time_burst", ops_burst, number)?.unwrap_or(0),
            ops_refill_time: parsed("ops_refill_time", ops_time, number)?.unwrap_or(0),
        };
        for (key, size, time) in [
            ("bw_refill_time", limit.bw_size, limit.bw_refill_time),
            ("ops_refill_time", limit.ops_size, limit.ops_refill_time),
        ] {
            if (size == 0) != (time == 0) {
                let (value, reason) = (time.to_string(), ValueError::RefillTime);
                return Err(KeyValueError::BadValue { key, value, reason });
            }
        }
        Ok(RateArg { group: given("group", group)?, limit })
    }
}

fn bytes(text: &str) -> Result<u64, ValueError> {
    let Size(bytes) = text.parse()?;
    Ok(bytes)
}

fn number(text: &str) -> Result<u64, ValueError> {
    text.parse().map_err(|_| ValueError::Number)
}

impl RateArg {
    /// The limits.
    pub(super) fn limit(&self) -> RateLimit {
        let bucket = |size, one_time_burst, refill_time| BucketConfig {
            size,
            one_time_burst,
            refill_time: Duration::from_millis(refill_time),
        };
        let limit = &self.limit;
        let bandwidth = bucket(limit.bw_size, limit.bw_one_time_burst, limit.bw_refill_time);
        let operations = bucket(limit.ops_size, limit.ops_one_time_burst, limit.ops_refill_time);
        RateLimit {
            bandwidth: (limit.bw_size > 0).then_some(bandwidth),
            operations: (limit.ops_size > 0).then_some(operations),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_the_names_of_cloud_hypervisor() {
        let text =
            "bw_size=10M,bw_refill_time=1000,ops_size=500,ops_one_time_burst=7,ops_refill_time=100";
        let rate: RateArg = text.parse().unwrap();
        let RateLimit { bandwidth, operations } = rate.limit();
        let second = Duration::from_secs(1);
        let expected = BucketConfig { size: 10 << 20, one_time_burst: 0, refill_time: second };
        assert_eq!(bandwidth, Some(expected));
        let expected = BucketConfig { size: 500, one_time_burst: 7, refill_time: second / 10 };
        assert_eq!((operations, rate.group), (Some(expected), None));
        let rate: RateArg = "group=guests,ops_size=1,ops_refill_time=1".parse().unwrap();
        assert_eq!((rate.group.as_deref(), rate.limit().bandwidth), (Some("guests"), None));
    }

    #[test]
    fn a_size_needs_its_time() {
        for text in ["bw_size=1M", "ops_refill_time=5", "bw_size=x,bw_refill_time=1"] {
            let error = text.parse::<RateArg>().unwrap_err();
            assert!(matches!(error, KeyValueError::BadValue { .. }), "{error}");
        }
    }
}
