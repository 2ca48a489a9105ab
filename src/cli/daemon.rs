//! The command line of `vhost-user-btt`.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, ValueEnum, value_parser};
use nix::unistd::Group;
use serde_json::json;

use super::disk::{DiskArg, logical_block_size, queue_count, serial};
use super::keeper::KeeperArgs;
use super::logging::LogLevel;
use super::name::NamespaceArgs;
use super::powercut::DiskOptions;
use super::rate::RateArg;
use super::sandbox::SandboxArgs;
use super::size::Size;
use super::window::{DeviceArg, PmemArg, WindowArg};
use crate::namespace::{Atomic, NamespaceOptions};
use crate::nvdimm::Selection;
use crate::pmem::DurabilityRequest;
use crate::vhost_user::control::ControlConfig;
use crate::vhost_user::{
    AdditionConfig, DeviceConfig, DiskConfig, MOST_POLL_US, MOST_QUEUE_SIZE, MOST_QUEUES,
    MOST_WINDOWS, PmemConfig, RateGroup, RateLimit, RegionConfig, SocketAccess, SocketPath,
    SocketSource, TheMapping, WindowConfig, is_atomic_size, is_queue_size,
};
use crate::virtio::block::{Discard, Serial};

/// Number of queues with which each has lanes for whole rounds.
const FEW_QUEUES: u16 = 4;

/// Serves disks with atomic sectors, and DAX devices, to virtual machines over vhost-user.
///
/// The NVDIMM file is on a DAX file system, a device-DAX device, or any ordinary file. nvdimmctl makes the
/// file and the namespaces in it. The daemon never formats anything.
///
/// One disk: --socket-path=PATH --nvdimm=FILE --namespace=NAME. Several disks: --nvdimm=FILE and a --disk for
/// each. DAX devices: --pmem serves one as persistent memory, --window as a part of a disk.
#[derive(Debug, Parser)]
#[command(name = "vhost-user-btt", version, max_term_width = 100)]
pub struct DaemonArgs {
    /// What is served.
    #[command(flatten)]
    pub devices: DeviceArgs,

    /// What is given up before serving begins.
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// The process that holds the connections of frontends.
    #[command(flatten)]
    pub keeper: KeeperArgs,

    /// Print the capabilities of the program as JSON, and exit
    #[arg(long, action = ArgAction::SetTrue)]
    print_capabilities: bool,
}

/// What is served, where, and how: options of every program that serves NVDIMM files.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Listen on this Unix socket; a socket on which no process listens any more is replaced
    #[arg(long, value_name = "PATH", group = "socket")]
    socket_path: Option<PathBuf>,

    /// Use this open descriptor: a Unix stream socket that is listening or connected
    #[arg(long, value_name = "N", group = "socket", value_parser = value_parser!(i32).range(0..))]
    fd: Option<i32>,

    /// Permissions of the sockets that frontends connect to, in octal, whatever the umask is [default: 660
    /// less the umask]
    #[arg(long, value_name = "MODE", value_parser = socket_mode)]
    socket_mode: Option<u32>,

    /// Group of the sockets that frontends connect to, by name or number; the user that runs the daemon has
    /// to be a member
    #[arg(long, value_name = "GROUP", value_parser = socket_group)]
    socket_group: Option<u32>,

    /// The NVDIMM file or device with the namespaces to serve
    #[arg(long, value_name = "FILE")]
    nvdimm: Option<PathBuf>,

    /// The same as --nvdimm, under the name of QEMU's conventions for back ends
    #[arg(long, value_name = "FILE", conflicts_with = "nvdimm")]
    blk_file: Option<PathBuf>,

    /// One of several disks: socket=PATH (or fd=N) and namespace=NAME; optionally queues=N,
    /// logical-block-size=N, read-only, serial=TEXT, rate-group=NAME, and nvdimm=FILE for another file; two commas in
    /// a value stand for one
    #[arg(long, value_name = "KEY=VALUE,...", conflicts_with_all = ["socket", "namespace", "serial"])]
    disk: Vec<DiskArg>,

    /// A DAX device as persistent memory of a guest: socket=PATH (or fd=N) and device=NAME; optionally
    /// read-only, namespace=NAME if several are in dax mode, nvdimm=FILE for another file, and expose-file
    /// and share-rw as for --window
    #[arg(long, value_name = "KEY=VALUE,...")]
    pmem: Vec<PmemArg>,

    /// A DAX device that the guest of a disk maps as a shared memory region of the disk: NAME; optionally
    /// reserve=SIZE to leave room for growth, read-only, namespace and nvdimm as for --pmem, disk=NAME with
    /// the namespace of the disk if there are several, expose-file to give the frontend a descriptor of the
    /// whole file although other guests have namespaces in it, and share-rw to let other guests have the
    /// device at the same time and write to it
    #[arg(long, value_name = "NAME,KEY=VALUE,...")]
    window: Vec<WindowArg>,

    /// Listen on this Unix socket for administrators: nvdimmctl --control=PATH dax resize-device ...
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Refuse every write, and open the file for reading only
    #[arg(long)]
    read_only: bool,

    /// When the namespaces of disks are claimed: from the 'start' of the daemon to its end, or while rings are
    /// 'running', which two daemons at the two ends of a migration have to do
    #[arg(long, value_name = "WHEN", default_value = "start")]
    claim: ClaimArg,

    // A text, and not a comment: the names are those that are typed.
    #[arg(
        long,
        value_name = "KEY=VALUE,...",
        help = "How fast each disk may be: bw_size=BYTES in bw_refill_time=MILLISECONDS, ops_size=REQUESTS in \
                ops_refill_time=MILLISECONDS, and bw_one_time_burst and ops_one_time_burst beside these once; \
                with group=NAME, the limits are those of all disks together that have rate-group=NAME"
    )]
    rate_limit: Vec<RateArg>,

    /// Number of request queues that frontends can use, each with lanes of its own, and with a worker thread
    /// once the guest uses it [default: the number of CPUs, at least 4 and at most 64]
    #[arg(long, value_name = "N", value_parser = queue_count)]
    num_queues: Option<u16>,

    /// Largest queue size, a power of two
    #[arg(long, value_name = "N", default_value_t = MOST_QUEUE_SIZE, value_parser = queue_size)]
    queue_size: u16,

    /// Bytes of the block that the guest addresses: 512 over sectors of 4096 bytes is for firmware and images that
    /// know no other; 8192, 16384 and 32768, each all or nothing, are for data disks of guests that know such
    /// blocks (Linux from 6.15 on) [default: a sector]
    #[arg(long, value_name = "BYTES", value_parser = logical_block_size)]
    logical_block_size: Option<u32>,

    /// Let aligned writes of 8K, 16K and so on, up to this power of two, be all or nothing as sectors are: a
    /// database page never tears; 'auto': up to 64K, or as far as that is possible; 'off': only sectors are
    #[arg(long, value_name = "SIZE", default_value = "off", value_parser = atomic_or_auto)]
    atomic: Atomic,

    /// Tell the guest to prefer writes of this size, which is all or nothing; what follows is said in
    /// docs/atomic.md
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true,
          default_missing_value = "16K", value_parser = atomic_hint)]
    atomic_hint: Option<u32>,

    /// The serial number that the guest reads, up to 20 characters [default: from the uuid]
    #[arg(long, value_name = "TEXT", value_parser = serial)]
    serial: Option<Serial>,

    /// Whether the guest may discard sectors: 'auto' is on with sectors of 4096 bytes
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    discard: DiscardArg,

    /// What a completed write survives; see "What a completed write survives" in the README
    #[arg(long, value_name = "KIND", default_value = "auto")]
    durability: DurabilityArg,

    /// Whether what is in memory of a file in the page cache gets mapped by pages of 2 MiB: 'auto' has the kernel
    /// copy it into such pages in the background, where it can, as on tmpfs
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    huge_pages: HugePagesArg,

    /// How long a worker polls an empty ring before it sleeps, in microseconds, 0 to 1000; it sleeps at once
    /// where polling does not pay, or another thread needs the CPU
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u16).range(..=i64::from(MOST_POLL_US)))]
    poll_us: u16,

    /// Which messages are shown on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
}

/// The value of `--claim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClaimArg {
    /// From the start of the daemon to its end
    Start,
    /// While rings run
    Running,
}

/// The value of `--discard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DiscardArg {
    /// With sectors of 4096 bytes; Linux's own driver misreads discarded sectors of 512
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl From<DiscardArg> for Discard {
    fn from(discard: DiscardArg) -> Discard {
        match discard {
            DiscardArg::Auto => Discard::Auto,
            DiscardArg::On => Discard::On,
            DiscardArg::Off => Discard::Off,
        }
    }
}

/// The value of `--huge-pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HugePagesArg {
    /// Where the kernel can
    Auto,
    /// Only what the kernel maps by itself
    Off,
}

/// The value of `--durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DurabilityArg {
    /// 'dax' where the file supports it, else 'page-cache'
    Auto,
    /// Flush CPU caches at every step; where the file is not DAX, for measurements only
    Dax,
    /// Make writes durable when the guest flushes
    PageCache,
    /// Make every write durable before it completes, by syncing the file where it is not DAX
    Strict,
}

impl From<DurabilityArg> for DurabilityRequest {
    fn from(durability: DurabilityArg) -> DurabilityRequest {
        match durability {
            DurabilityArg::Auto => DurabilityRequest::Auto,
            DurabilityArg::Dax => DurabilityRequest::Dax,
            DurabilityArg::PageCache => DurabilityRequest::PageCache,
            DurabilityArg::Strict => DurabilityRequest::Strict,
        }
    }
}

pub(super) fn queue_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if is_queue_size(size) => Ok(size),
        _ => Err(format!("not a power of two from 2 to {MOST_QUEUE_SIZE}")),
    }
}

/// QEMU wants a queue for each of the guest's CPUs, which are seldom more than the host's, and is refused when
/// there are fewer. Up to four queues share the lanes without loss: a round takes 64 of the 256 that there are.
fn usual_queues() -> u16 {
    let cpus = available_parallelism().map_or(1, NonZero::get);
    u16::try_from(cpus).unwrap_or(MOST_QUEUES).clamp(FEW_QUEUES, MOST_QUEUES)
}

/// What 'auto' comes to, where it can: no database has larger pages.
const USUAL_ATOMIC: u32 = 64 << 10;

pub(super) fn atomic(text: &str) -> Result<u32, String> {
    if text == "off" {
        return Ok(0);
    }
    atomic_size(text).ok_or_else(|| "neither 'off' nor a power of two from 1K to 256K".into())
}

fn atomic_or_auto(text: &str) -> Result<Atomic, String> {
    match text {
        "auto" => Ok(Atomic { least: 0, most: USUAL_ATOMIC }),
        _ => match atomic(text) {
            Ok(size) => Ok(Atomic { least: size, most: size }),
            Err(error) => Err(format!("not 'auto', and {error}")),
        },
    }
}

fn atomic_hint(text: &str) -> Result<u32, String> {
    let size = atomic_size(text).filter(|size| *size >= 8 << 10);
    size.ok_or_else(|| "not a power of two from 8K to 256K".into())
}

fn atomic_size(text: &str) -> Option<u32> {
    match text.parse::<Size>() {
        Ok(Size(size)) if is_atomic_size(size) => Some(size as u32),
        _ => None,
    }
}

pub(super) fn socket_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 => Ok(mode),
        _ => Err("not an octal number from 0 to 777".into()),
    }
}

pub(super) fn socket_group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no such group".into()),
        Err(errno) => Err(format!("cannot look it up: {errno}")),
    }
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
    pub(super) fn disk_options(&self) -> Option<DiskOptions> {
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

/// The answer to `--print-capabilities` (QEMU, "vhost-user", "Backend program conventions").
#[must_use]
pub fn capabilities() -> String {
    json!({ "type": "block", "features": ["read-only", "blk-file"] }).to_string()
}
