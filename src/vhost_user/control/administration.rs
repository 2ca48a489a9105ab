//! What is done when an administrator asks for it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use log::{LevelFilter, info};

use super::super::addition::{AdditionConfig, AdditionError, Additions};
use super::super::devices::DeviceConfig;
use super::super::fleet::{Fleet, FleetError};
use super::super::windows::{DeviceSelector, OnlineResize, Resized};
use super::protocol::{Answer, MOST_QUIESCE_SECONDS, Request, VERSION};
use super::report::RateLimitError;
use crate::error_chain::in_one_line;

/// A control socket to be opened.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Where it listens.
    pub path: PathBuf,
    /// What disks are that are added.
    pub additions: AdditionConfig,
}

impl ControlConfig {
    /// Has added disks changed as those are that are there from the start.
    pub fn change_additions(&mut self, mut change: impl FnMut(&mut DeviceConfig)) {
        let mut disk = DeviceConfig::Disk(self.additions.disk.clone());
        change(&mut disk);
        if let DeviceConfig::Disk(changed) = disk {
            self.additions.disk = changed;
        }
    }
}

/// What an administrator can have changed.
pub struct Administration {
    /// The DAX devices.
    pub(in crate::vhost_user) dax_devices: OnlineResize,
    /// The devices that are served.
    pub(in crate::vhost_user) fleet: Arc<Fleet>,
    /// Those that come.
    pub(in crate::vhost_user) additions: Additions,
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
    #[error(transparent)]
    Rate(#[from] RateLimitError),
    #[error(transparent)]
    Addition(#[from] AdditionError),
    #[error("{0} descriptors came with a request that takes {1} at most")]
    Descriptors(usize, usize),
}

impl Administration {
    /// Carries out `request`, with the descriptors that came with it.
    pub(super) fn carry_out(&self, request: Request, descriptors: Vec<OwnedFd>) -> Answer {
        let answer = match request {
            _ if descriptors.len() > request.most_descriptors() => {
                Err(Refusal::Descriptors(descriptors.len(), request.most_descriptors()))
            }
            Request::ResizeDevice { file, namespace, device, size, force } => {
                let (file, namespace) = (file.as_deref(), namespace.as_deref());
                let selector = DeviceSelector { file, namespace, name: &device };
                return self.resize_device(&selector, size, force);
            }
            Request::Version => {
                Ok(Answer::Version { protocol: VERSION, program: env!("CARGO_PKG_VERSION").into() })
            }
            Request::Stat { device } => self.stat(device.as_deref()),
            Request::Add(disk) => {
                let added = self.additions.add(&self.fleet, &disk, descriptors);
                added.map(|name| Answer::Added { name }).map_err(Refusal::from)
            }
            Request::Resize { device, size, force } => {
                let file = descriptors.into_iter().next();
                self.resize(&device, size, force, file).map_err(Refusal::from)
            }
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
            Request::Defragment { device, position } => {
                let (position, is_done) = self.fleet.defragment(&device, position)?;
                return Ok(Answer::Defragmented { position, is_done });
            }
            Request::Rate { device, group, limit } => {
                let limit = limit.limit()?;
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
            Request::ResizeDevice { .. }
            | Request::Version
            | Request::Stat { .. }
            | Request::Add(_)
            | Request::Resize { .. } => {}
        }
        Ok(Answer::Done)
    }

    fn resize(
        &self,
        device: &str,
        size: Option<u64>,
        force: bool,
        file: Option<OwnedFd>,
    ) -> Result<Answer, FleetError> {
        let (before, size, told) = self.fleet.resize(device, size, force, file.map(File::from))?;
        Ok(Answer::Grown { before, size, told })
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
