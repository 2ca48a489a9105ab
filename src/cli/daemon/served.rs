//! The devices that a command line asks for.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use super::values::ClaimArg;
use super::{DeviceArgs, DurabilityArg, HugePagesArg};
use crate::cli::disk::DiskArg;
use crate::cli::name::NamespaceArgs;
use crate::cli::powercut::DiskOptions;
use crate::cli::rate::RateArg;
use crate::cli::window::{DeviceArg, WindowArg};
use crate::namespace::{Atomic, NamespaceOptions};
use crate::nvdimm::Selection;
use crate::vhost_user::control::ControlConfig;
use crate::vhost_user::{
    AdditionConfig, DeviceConfig, DiskConfig, MOST_QUEUES, MOST_WINDOWS, PmemConfig, RateGroup,
    RateLimit, RegionConfig, SocketAccess, SocketPath, SocketSource, TheMapping, WindowConfig,
};

/// Number of queues with which each has lanes for whole rounds.
const FEW_QUEUES: u16 = 4;

/// QEMU wants a queue for each of the guest's CPUs, which are seldom more than the host's, and is refused when
/// there are fewer. Up to four queues share the lanes without loss: a round takes 64 of the 256 that there are.
fn usual_queues() -> u16 {
    let cpus = available_parallelism().map_or(1, NonZero::get);
    u16::try_from(cpus).unwrap_or(MOST_QUEUES).clamp(FEW_QUEUES, MOST_QUEUES)
}

/// A command line that lacks something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No socket.
    #[error(
        "say where to listen: --socket-path=PATH, --fd=N, or for each --disk and --pmem socket=PATH or fd=N, or \
         let the service manager pass a socket for each"
    )]
    NoSocket,
    /// No file.
    #[error("say what to serve: --nvdimm=FILE")]
    NoFile,
    /// A window that may be any disk's.
    #[error(
        "--window={0}: say which disk it belongs to: disk=NAME, with the namespace of a --disk"
    )]
    WhichDisk(String),
    /// A window of a disk that is not there.
    #[error("--window: no --disk, or more than one, has namespace={0}")]
    NoSuchDisk(String),
    /// A group of rate limits that is not there.
    #[error("--disk: rate-group={0}: no --rate-limit has group={0}")]
    NoSuchGroup(String),
    /// A disk that is let go cannot have windows.
    #[error(
        "--claim=running is not for disks with windows: what a guest stores through them is not migrated"
    )]
    ClaimWithWindow,
    /// More windows than a device can have.
    #[error("a disk has 255 windows at most")]
    TooManyWindows,
}

/// What is served.
pub struct Served {
    /// The devices.
    pub devices: Vec<DeviceConfig>,
    /// The control socket.
    pub control: Option<ControlConfig>,
}

impl DeviceArgs {
    /// The devices to serve, and the control socket; the service manager has `passed` so many sockets. There is at
    /// least one device, unless others can be added.
    pub fn served(self, passed: usize) -> Result<Served, UsageError> {
        let groups = self.rate_groups();
        let devices = self.devices(passed, &groups)?;
        let control = self.control.clone().map(|path| {
            let mut disk = self.usual_disk(
                NamespaceArgs { namespace: None, ..self.namespace.clone() }
                    .options(Path::new(""), self.durability.into()),
            );
            disk.socket =
                SocketSource::Path(SocketPath { path: PathBuf::new(), access: self.access() });
            // The locks on a file that is handed over belong to all that use it.
            disk.claim_while_running = false;
            ControlConfig { path, additions: AdditionConfig { disk, groups } }
        });
        Ok(Served { devices, control })
    }

    fn access(&self) -> SocketAccess {
        SocketAccess { mode: self.socket_mode, group: self.socket_group }
    }

    fn devices(
        &self,
        passed: usize,
        groups: &[RateGroup],
    ) -> Result<Vec<DeviceConfig>, UsageError> {
        let mut devices = self.configs(groups)?;
        let access = self.access();
        let mut needed = 0;
        for device in &mut devices {
            match device.socket_mut() {
                SocketSource::Path(socket) => socket.access = access,
                SocketSource::Passed => needed += 1,
                SocketSource::Descriptor(_) | SocketSource::Inherited(_) => {}
            }
        }
        if needed > passed { Err(UsageError::NoSocket) } else { Ok(devices) }
    }

    /// Socket, number and size of queues, serial number and control socket of a single disk.
    pub(in crate::cli) fn disk_options(&self) -> Option<DiskOptions> {
        Some(DiskOptions {
            socket: self.socket_path.clone()?,
            queues: self.num_queues.unwrap_or(1),
            queue_size: self.queue_size,
            serial: self.serial,
            control: self.control.clone(),
        })
    }

    /// Returns whether an option asks for what a medium whose power fails cannot give.
    #[must_use]
    pub fn asks_for_a_plain_medium(&self) -> bool {
        self.read_only || self.durability != DurabilityArg::Auto || self.claim != ClaimArg::Start
    }

    fn configs(&self, groups: &[RateGroup]) -> Result<Vec<DeviceConfig>, UsageError> {
        let mut disks = self.disks(groups)?;
        if self.claim == ClaimArg::Running && !self.window.is_empty() {
            return Err(UsageError::ClaimWithWindow);
        }
        for window in &self.window {
            let config = WindowConfig { reserve: window.reserve, ..self.window(&window.device)? };
            let disk = Self::disk_of(window, &mut disks)?;
            if disk.windows.len() == MOST_WINDOWS {
                return Err(UsageError::TooManyWindows);
            }
            disk.windows.push(config);
        }
        let mut devices: Vec<_> = disks.into_iter().map(DeviceConfig::Disk).collect();
        for pmem in &self.pmem {
            let (socket, window) = (pmem.socket.clone(), self.window(&pmem.device)?);
            devices.push(DeviceConfig::Pmem(PmemConfig { socket, window }));
        }
        Ok(devices)
    }

    fn disks(&self, groups: &[RateGroup]) -> Result<Vec<DiskConfig>, UsageError> {
        if !self.disk.is_empty() {
            return self.disk.iter().map(|disk| self.one_disk(disk, groups)).collect();
        }
        let is_disk = self.socket_path.is_some() || self.fd.is_some();
        // They may come later.
        let names_none = self.control.is_some() && self.file().is_none();
        if !is_disk && (!self.pmem.is_empty() || names_none) {
            return Ok(Vec::new());
        }
        self.only_disk().map(|disk| vec![disk])
    }

    /// The disk that a window belongs to.
    fn disk_of<'a>(
        window: &WindowArg,
        disks: &'a mut [DiskConfig],
    ) -> Result<&'a mut DiskConfig, UsageError> {
        let Some(name) = &window.disk else {
            return match disks {
                [only] => Ok(only),
                _ => Err(UsageError::WhichDisk(window.device.name.clone())),
            };
        };
        let wanted = Selection::Named(name.clone());
        let mut found = disks.iter_mut().filter(|disk| disk.namespace.selection == wanted);
        match (found.next(), found.next()) {
            (Some(disk), None) => Ok(disk),
            _ => Err(UsageError::NoSuchDisk(name.clone())),
        }
    }

    fn window(&self, device: &DeviceArg) -> Result<WindowConfig, UsageError> {
        let path = device.file.as_ref().or(self.file()).ok_or(UsageError::NoFile)?;
        let region = RegionConfig {
            path: path.clone(),
            namespace: device.namespace.clone().map_or(Selection::Only, Selection::Named),
            label_size: self.namespace.label_size(),
            medium: Arc::new(TheMapping),
        };
        let read_only = self.read_only || device.read_only;
        let (name, expose_file) = (device.name.clone(), device.expose_file);
        let share_rw = device.share_rw;
        Ok(WindowConfig { region, device: name, reserve: None, read_only, expose_file, share_rw })
    }

    fn file(&self) -> Option<&PathBuf> {
        self.nvdimm.as_ref().or(self.blk_file.as_ref())
    }

    fn only_disk(&self) -> Result<DiskConfig, UsageError> {
        let socket = match (&self.socket_path, self.fd) {
            (Some(path), _) => SocketSource::Path(path.clone().into()),
            (None, Some(descriptor)) => SocketSource::Descriptor(descriptor),
            (None, None) => SocketSource::Passed,
        };
        let file = self.file().ok_or(UsageError::NoFile)?;
        let namespace = self.namespace.options(file, self.durability.into());
        Ok(DiskConfig { socket, serial: self.serial, ..self.usual_disk(namespace) })
    }

    /// What all disks have in common, at the service manager's socket.
    fn usual_disk(&self, namespace: NamespaceOptions) -> DiskConfig {
        DiskConfig {
            socket: SocketSource::Passed,
            namespace,
            read_only: self.read_only,
            claim_while_running: self.claim == ClaimArg::Running,
            queues: self.num_queues.unwrap_or_else(usual_queues),
            queue_size: self.queue_size,
            logical_block_size: self.logical_block_size,
            atomic: self.atomic(),
            atomic_hint: self.atomic_hint.unwrap_or(0),
            serial: None,
            discard: self.discard.into(),
            huge_pages: self.huge_pages == HugePagesArg::Auto,
            poll: Duration::from_micros(self.poll_us.into()),
            rate_limit: self.rate_limit(),
            rate_group: None,
            windows: Vec::new(),
            medium: Arc::new(TheMapping),
        }
    }

    /// A logical block of several sectors has to be all or nothing.
    fn atomic(&self) -> Atomic {
        let block = self.logical_block_size.filter(|size| *size > 4096).unwrap_or(0);
        let Atomic { least, most } = self.atomic;
        Atomic { least: if most > 0 { least.max(block) } else { 0 }, most }
    }

    /// The limits of each disk.
    fn rate_limit(&self) -> RateLimit {
        let of_each = self.rate_limit.iter().rfind(|rate| rate.group.is_none());
        of_each.map(RateArg::limit).unwrap_or_default()
    }

    /// The groups of disks that share limits.
    fn rate_groups(&self) -> Vec<RateGroup> {
        let group = |rate: &RateArg| Some(RateGroup::new(rate.group.clone()?, rate.limit()));
        self.rate_limit.iter().filter_map(group).collect()
    }

    /// The group `name`.
    fn rate_group(
        name: Option<&str>,
        groups: &[RateGroup],
    ) -> Result<Option<RateGroup>, UsageError> {
        let Some(name) = name else { return Ok(None) };
        let group = groups.iter().find(|group| group.name() == name);
        group.cloned().map(Some).ok_or_else(|| UsageError::NoSuchGroup(name.to_owned()))
    }

    /// One of several disks; what it does not say is as for all.
    fn one_disk(&self, disk: &DiskArg, groups: &[RateGroup]) -> Result<DiskConfig, UsageError> {
        let file = disk.file.as_ref().or(self.file()).ok_or(UsageError::NoFile)?;
        let namespace =
            NamespaceArgs { namespace: disk.namespace.clone(), ..self.namespace.clone() };
        let usual = self.usual_disk(namespace.options(file, self.durability.into()));
        Ok(DiskConfig {
            socket: disk.socket.clone(),
            read_only: self.read_only || disk.read_only,
            queues: disk.queues.unwrap_or(usual.queues),
            logical_block_size: disk.logical_block_size.or(usual.logical_block_size),
            serial: disk.serial,
            rate_group: Self::rate_group(disk.rate_group.as_deref(), groups)?,
            ..usual
        })
    }
}
