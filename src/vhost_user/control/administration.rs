//! What is done when an administrator asks for it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use log::{LevelFilter, info};

use super::super::fleet::{Fleet, FleetError};
use super::super::queue::{BucketConfig, RateLimit};
use super::super::windows::{DeviceSelector, OnlineResize, Resized};
use super::protocol::{Answer, MOST_QUIESCE_SECONDS, Request, VERSION};
use super::report::RateReport;
use crate::error_chain::in_one_line;

/// What an administrator can have changed.
pub struct Administration {
    /// The DAX devices.
    pub(in crate::vhost_user) dax_devices: OnlineResize,
    /// The devices that are served.
    pub(in crate::vhost_user) fleet: Arc<Fleet>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("{0:?} is no log level: off, error, warn, info, debug, trace")]
    LogLevel(String),
    #[error("name a device, or a group, and not both")]
    DeviceOrGroup,
    #[error("a device is quiesced for 1 to {MOST_QUIESCE_SECONDS} seconds, and not for {0}")]
    TimeLimit(u64),
    #[error("{0}_refill_time is missing: how many milliseconds the bucket takes to fill")]
    RefillTime(&'static str),
}

impl Administration {
    /// Carries out `request`.
    pub(super) fn carry_out(&self, request: Request) -> Answer {
        let answer = match request {
            Request::ResizeDevice { file, namespace, device, size, force } => {
                let (file, namespace) = (file.as_deref(), namespace.as_deref());
                let selector = DeviceSelector { file, namespace, name: &device };
                return self.resize_device(&selector, size, force);
            }
            Request::Version => {
                Ok(Answer::Version { protocol: VERSION, program: env!("CARGO_PKG_VERSION").into() })
            }
            Request::Stat { device } => self.stat(device.as_deref()),
            other => self.change(other),
        };
        answer.unwrap_or_else(|refusal| {
            let reason = in_one_line(&refusal);
            info!("an administrator is refused: {reason}");
            Answer::Refused { reason }
        })
    }

    fn stat(&self, device: Option<&str>) -> Result<Answer, Refusal> {
        Ok(Answer::Stat { devices: self.fleet.report(device)? })
    }

    fn change(&self, request: Request) -> Result<Answer, Refusal> {
        match request {
            Request::Quiesce { device, time_limit } => {
                if !(1..=MOST_QUIESCE_SECONDS).contains(&time_limit) {
                    return Err(Refusal::TimeLimit(time_limit));
                }
                self.fleet.quiesce(&device, Duration::from_secs(time_limit))?;
            }
            Request::Resume { device } => self.fleet.resume(&device)?,
            Request::Drain { device } => self.fleet.drain(&device)?,
            Request::Remove { device, force } => self.fleet.remove(&device, force)?,
            Request::Resize { device, size, force } => {
                let (before, size, told) = self.fleet.resize(&device, size, force)?;
                return Ok(Answer::Grown { before, size, told });
            }
            Request::Defragment { device, position } => {
                let (position, is_done) = self.fleet.defragment(&device, position)?;
                return Ok(Answer::Defragmented { position, is_done });
            }
            Request::Rate { device, group, limit } => {
                let limit = rate_limit(&limit)?;
                match (device, group) {
                    (Some(device), None) => self.fleet.rate(&device, limit)?,
                    (None, Some(group)) => self.fleet.group_rate(&group, limit)?,
                    _ => return Err(Refusal::DeviceOrGroup),
                }
            }
            Request::LogLevel { level } => {
                let filter = LevelFilter::from_str(&level);
                log::set_max_level(filter.map_err(|_| Refusal::LogLevel(level))?);
            }
            Request::ResizeDevice { .. } | Request::Version | Request::Stat { .. } => {}
        }
        Ok(Answer::Done)
    }

    fn resize_device(&self, selector: &DeviceSelector<'_>, size: u64, force: bool) -> Answer {
        let device = selector.name;
        match self.dax_devices.resize(selector, size, force) {
            Ok(Resized { before, size, windows }) => {
                info!(
                    "device {device:?}: resized from {before} to {size} bytes, {windows} windows to it"
                );
                Answer::Resized { before, size, windows }
            }
            Err(error) => {
                let reason = in_one_line(&error);
                info!("device {device:?}: not resized: {reason}");
                Answer::Refused { reason }
            }
        }
    }
}

/// The limit that is asked for.
fn rate_limit(report: &RateReport) -> Result<RateLimit, Refusal> {
    let bucket = |name, size, one_time_burst, refill_time| match (size, refill_time) {
        (0, _) => Ok(None),
        (_, 0) => Err(Refusal::RefillTime(name)),
        _ => {
            let refill_time = Duration::from_millis(refill_time);
            Ok(Some(BucketConfig { size, one_time_burst, refill_time }))
        }
    };
    let RateReport { bw_size, bw_one_time_burst, bw_refill_time, .. } = *report;
    let RateReport { ops_size, ops_one_time_burst, ops_refill_time, .. } = *report;
    Ok(RateLimit {
        bandwidth: bucket("bw", bw_size, bw_one_time_burst, bw_refill_time)?,
        operations: bucket("ops", ops_size, ops_one_time_burst, ops_refill_time)?,
    })
}
