//! What a daemon says of its devices.
//!
//! Numbers count from the start of the daemon, or of the device if it was added later; times are in
//! nanoseconds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::queue::{BucketConfig, RateLimit};

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceReport {
    /// What it is, and where.
    #[serde(flatten)]
    pub identity: Identity,
    /// The frontend that is connected.
    pub frontend: Option<FrontendReport>,
    /// How many frontends have connected.
    pub connections: u64,
    /// Nothing is taken off its rings until it is resumed.
    pub quiesced: bool,
    /// Its disk; `None`: it is persistent memory.
    pub disk: Option<DiskReport>,
    /// Its rate limits, and those of its group.
    #[serde(default, skip_serializing_if = "LimitsReport::is_empty")]
    pub limits: LimitsReport,
    /// How its medium is mapped; `None`: the medium is no page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PagesReport>,
    /// Its syncs.
    pub syncs: SyncReport,
    /// Its queues.
    pub queues: Vec<QueueReport>,
}

/// What a device is, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    /// By which it is named in requests, among others: the namespace's name, or else its device name.
    pub name: String,
    /// "disk" or "pmem".
    pub kind: String,
    /// The NVDIMM file.
    pub file: PathBuf,
    /// Device name of the namespace.
    pub namespace: String,
    /// Uuid of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Where frontends connect.
    pub socket: String,
    /// How the namespace is claimed: "exclusive", or "shared" with others that read.
    pub claim: String,
    /// The file was handed over open by the client that added it, so that the daemon cannot open it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
}

impl Identity {
    /// Returns whether it goes by `name`.
    #[must_use]
    pub fn goes_by(&self, name: &str) -> bool {
        [&self.name, &self.namespace, &self.socket].iter().any(|own| *own == name)
            || self.uuid.as_deref() == Some(name)
    }
}

/// A frontend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FrontendReport {
    /// Its process.
    pub pid: Option<i32>,
    /// For how many seconds it has been connected.
    pub connected: u64,
    /// Virtio features that its driver has accepted, by name.
    pub features: Vec<String>,
    /// Protocol features that it has accepted, by name.
    pub protocol_features: Vec<String>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskReport {
    /// Bytes.
    pub size: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Bytes up to which an aligned write of a power of two is all or nothing.
    pub atomic_size: u32,
    /// Every change is refused.
    pub read_only: bool,
    /// What a completed write is safe from.
    pub durability: String,
    /// The arenas of its BTT.
    pub arenas: Vec<ArenaReport>,
}

/// An arena of a BTT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArenaReport {
    /// Sectors that it serves.
    pub sectors: u64,
    /// Lanes, each with a free block: as many writes can be under way.
    pub lanes: u32,
    /// Bytes that a block takes.
    pub block_size: u32,
    /// Version of the BTT.
    pub version: String,
}

/// Rate limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LimitsReport {
    /// The device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<RateReport>,
    /// Name of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    /// Those of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<RateReport>,
}

impl LimitsReport {
    fn is_empty(&self) -> bool {
        *self == LimitsReport::default()
    }
}

/// A rate limit, with cloud-hypervisor's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateReport {
    /// Bytes that are refilled in `bw_refill_time`; zero: no limit.
    #[serde(default)]
    pub bw_size: u64,
    /// Bytes beside these, once.
    #[serde(default)]
    pub bw_one_time_burst: u64,
    /// Milliseconds.
    #[serde(default)]
    pub bw_refill_time: u64,
    /// Requests that are refilled in `ops_refill_time`; zero: no limit.
    #[serde(default)]
    pub ops_size: u64,
    /// Requests beside these, once.
    #[serde(default)]
    pub ops_one_time_burst: u64,
    /// Milliseconds.
    #[serde(default)]
    pub ops_refill_time: u64,
}

/// A rate limit that is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}_refill_time is missing: how many milliseconds the bucket takes to fill")]
pub struct RateLimitError(&'static str);

impl RateReport {
    /// The limit that this says.
    ///
    /// # Errors
    ///
    /// A size has no refill time.
    pub(in crate::vhost_user) fn limit(&self) -> Result<RateLimit, RateLimitError> {
        let bucket = |name, size, one_time_burst, refill_time| match (size, refill_time) {
            (0, _) => Ok(None),
            (_, 0) => Err(RateLimitError(name)),
            _ => {
                let refill_time = Duration::from_millis(refill_time);
                Ok(Some(BucketConfig { size, one_time_burst, refill_time }))
            }
        };
        let RateReport { bw_size, bw_one_time_burst, bw_refill_time, .. } = *self;
        let RateReport { ops_size, ops_one_time_burst, ops_refill_time, .. } = *self;
        Ok(RateLimit {
            bandwidth: bucket("bw", bw_size, bw_one_time_burst, bw_refill_time)?,
            operations: bucket("ops", ops_size, ops_one_time_burst, ops_refill_time)?,
        })
    }
}

/// How a medium in the page cache is mapped, as it was when it was last gone through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PagesReport {
    /// How often it has been gone through from end to end.
    pub passes: u64,
    /// Bytes that were in memory, and were entered in the page tables.
    pub filled: u64,
    /// Bytes that are mapped by pages of 2 MiB.
    pub huge: u64,
}

/// The syncs of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SyncReport {
    /// How many have ended.
    pub count: u64,
    /// How many of them have failed.
    pub errors: u64,
    /// How long they took.
    pub time: u64,
}

/// A queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueReport {
    /// Its requests by kind: read, write, flush, discard, write-zeroes, and other.
    pub requests: BTreeMap<String, OperationReport>,
    /// Batches by their size: of 1 request, of 2, of up to 4, 8, 16, 32, 64.
    pub batches: Vec<u64>,
    /// Looks at an empty ring.
    pub polls: u64,
    /// Kicks of the guest.
    pub kicks: u64,
    /// Interrupts of the guest.
    pub interrupts: u64,
    /// Fences of the medium.
    pub fences: u64,
    /// How often a rate limit has made it wait.
    pub throttles: u64,
    /// How long.
    pub throttled: u64,
}

/// The requests of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperationReport {
    /// How many were completed.
    pub count: u64,
    /// How many of them with an error.
    pub errors: u64,
    /// Bytes that were read, written, zeroed or discarded.
    pub bytes: u64,
    /// How long all of them took, from the ring and back to it.
    pub time: u64,
    /// How many took less than a time, and not less than the time before it.
    pub latency: Vec<(u64, u64)>,
}

impl OperationReport {
    /// The time within which the part `quantile` of the requests was completed, rounded up to a bucket.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a part of a count, from nothing to all of it"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count: u64 = self.latency.iter().map(|(_, count)| count).sum();
        let wanted = ((count as f64 * quantile).ceil() as u64).max(1);
        let mut below = 0;
        self.latency.iter().find_map(|(bound, count)| {
            below += count;
            (below >= wanted).then_some(*bound)
        })
    }

    /// What has come since `before`.
    #[must_use]
    pub fn since(&self, before: &OperationReport) -> OperationReport {
        let earlier: BTreeMap<u64, u64> = before.latency.iter().copied().collect();
        let left = |(bound, count): &(u64, u64)| {
            let count = count.saturating_sub(*earlier.get(bound).unwrap_or(&0));
            (count > 0).then_some((*bound, count))
        };
        OperationReport {
            count: self.count.saturating_sub(before.count),
            errors: self.errors.saturating_sub(before.errors),
            bytes: self.bytes.saturating_sub(before.bytes),
            time: self.time.saturating_sub(before.time),
            latency: self.latency.iter().filter_map(left).collect(),
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &OperationReport) {
        self.count += other.count;
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.time += other.time;
        let mut sum: BTreeMap<u64, u64> = self.latency.iter().copied().collect();
        for (bound, count) in &other.latency {
            *sum.entry(*bound).or_default() += count;
        }
        self.latency = sum.into_iter().collect();
    }
}

impl DeviceReport {
    /// The requests of one kind, of all queues.
    #[must_use]
    pub fn operation(&self, kind: &str) -> OperationReport {
        let mut sum = OperationReport::default();
        for queue in &self.queues {
            if let Some(operation) = queue.requests.get(kind) {
                sum.add(operation);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(latency: &[(u64, u64)]) -> OperationReport {
        OperationReport { latency: latency.to_vec(), ..OperationReport::default() }
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let one = operation(&[(256, 98), (1024, 1), (4096, 1)]);
        let quantiles = [0.0, 0.5, 0.98, 0.99, 0.999].map(|part| one.quantile(part));
        assert_eq!(quantiles, [256, 256, 256, 1024, 4096].map(Some));
        assert_eq!(operation(&[]).quantile(0.5), None);
    }

    #[test]
    fn a_difference_and_what_was_before_make_up_the_whole() {
        let before = operation(&[(256, 2), (1024, 5)]);
        let after = operation(&[(256, 2), (512, 1), (1024, 7)]);
        let mut since = after.since(&before);
        assert_eq!(since.latency, [(512, 1), (1024, 2)]);
        since.add(&before);
        assert_eq!(since, after);
    }
}
