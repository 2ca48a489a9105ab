//! Disks that an administrator adds while others are served.

use std::error::Error as StdError;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::info;
use rustix::fs::{OFlags, fcntl_getfl};

use super::block::{
    DiskConfig, MOST_POLL_US, RateGroup, is_atomic_size, is_logical_block_size, is_queue_count,
    is_queue_size,
};
use super::control::{Handed, NewDiscard, NewDisk, NewDurability, RateLimitError};
use super::error::Error;
use super::fleet::Fleet;
use super::inherited::Inherited;
use super::socket::{SocketAccess, SocketPath, SocketSource};
use super::stop::Stop;
use super::supervisor::Arrivals;
use super::windows::Regions;
use crate::namespace::Atomic;
use crate::nvdimm::{self, LabelSize, Selection};
use crate::pmem::DurabilityRequest;
use crate::virtio::block::{Discard, Serial};

/// What an added disk is where the request does not say.
#[derive(Debug, Clone)]
pub struct AdditionConfig {
    /// The options of the daemon, with no file and no socket.
    pub disk: DiskConfig,
    /// The groups of rate limits that there are.
    pub groups: Vec<RateGroup>,
}

/// Why a disk is not added.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdditionError {
    /// The descriptors are others than the request says.
    #[error(
        "the request says what {named} descriptors are, and {came} came with it: send them with its first byte"
    )]
    Descriptors { named: usize, came: usize },
    /// A kind of descriptor is there twice.
    #[error("two descriptors of one kind")]
    Twice,
    /// A relative path means something else to the daemon.
    #[error("{0}: not an absolute path")]
    Relative(PathBuf),
    /// A value that is not possible.
    #[error("{field}: {reason}")]
    Value { field: &'static str, reason: &'static str },
    /// A rate limit that is not possible.
    #[error(transparent)]
    Rate(#[from] RateLimitError),
    /// There is no such group.
    #[error(
        "this daemon has no group {0:?} of rate limits: groups are named by --rate-limit at its start"
    )]
    NoGroup(String),
    /// The disk could not be written to.
    #[error(
        "the descriptor of {0} is open for reading only: open it for writing, or add a read-only disk"
    )]
    ReadOnlyDescriptor(PathBuf),
    /// A claim would not keep a second disk from the same namespace.
    #[error("the descriptor of {0} is that of another disk: open the file once for each disk")]
    SameDescriptor(PathBuf),
    /// What a path names is closed to the daemon.
    #[error(
        "the daemon may not open {nvdimm}, or make {socket}: hand both over open, as 'nvdimmctl add' does without \
         --by-path, or start the daemon with --allow-path=FOLDER"
    )]
    Closed { nvdimm: PathBuf, socket: PathBuf, source: Box<Error> },
    /// It cannot be opened.
    #[error(transparent)]
    Open(Box<Error>),
    /// A system call fails.
    #[error("{action}")]
    System { action: &'static str, source: io::Error },
}

impl AdditionError {
    fn system(action: &'static str) -> impl Fn(io::Error) -> AdditionError {
        move |source| AdditionError::System { action, source }
    }
}

/// Adds disks to those that are served.
pub(super) struct Additions {
    config: AdditionConfig,
    arrivals: Arrivals,
    /// One at a time: each is compared with those that are there, and the umask is the process's.
    lock: Mutex<()>,
}

impl Additions {
    pub(super) fn new(config: AdditionConfig, arrivals: Arrivals) -> Additions {
        Additions { config, arrivals, lock: Mutex::default() }
    }

    /// Adds the disk `new` to `fleet`, with the descriptors that came with the request. Returns its name.
    ///
    /// # Errors
    ///
    /// Nothing is left of it.
    pub(super) fn add(
        &self,
        fleet: &Fleet,
        new: &NewDisk,
        descriptors: Vec<OwnedFd>,
    ) -> Result<String, AdditionError> {
        let _one = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.disk(new, Descriptors::of(new, descriptors)?)?;
        compare(fleet, &config)?;
        let stop = Stop::new().map_err(AdditionError::system("cannot make a stop handle"))?;
        let mut regions = Regions::default();
        let server = config.server(&mut regions, stop).map_err(|error| not_opened(new, error))?;
        let name = server.known_as().to_owned();
        let log_name = server.name().to_owned();
        let fails = AdditionError::system("cannot start a thread for the disk");
        self.arrivals.serve(server).map_err(fails)?;
        info!("{log_name}: added, at {}", config.socket);
        Ok(name)
    }

    /// The options of the disk.
    fn disk(&self, new: &NewDisk, handed: Descriptors) -> Result<DiskConfig, AdditionError> {
        let mut disk = self.config.disk.clone();
        let Descriptors { nvdimm, socket } = handed;
        disk.socket = if let Some(socket) = socket {
            SocketSource::Inherited(Inherited::handed_over(&new.socket, socket))
        } else {
            let access = match &disk.socket {
                SocketSource::Path(usual) => usual.access,
                _ => SocketAccess::default(),
            };
            SocketSource::Path(SocketPath { path: absolute(&new.socket)?, access })
        };
        disk.namespace.path =
            if nvdimm.is_some() { new.nvdimm.clone() } else { absolute(&new.nvdimm)? };
        disk.namespace.file = nvdimm.map(|file| Arc::new(File::from(file)));
        let namespace = new.namespace.clone();
        disk.namespace.selection = namespace.map_or(Selection::Only, Selection::Named);
        disk.read_only |= new.read_only.unwrap_or(false);
        set_numbers(&mut disk, new)?;
        set_manners(&mut disk, new)?;
        disk.rate_group = self.group(new.rate_group.as_deref())?;
        Ok(disk)
    }

    fn group(&self, name: Option<&str>) -> Result<Option<RateGroup>, AdditionError> {
        let Some(name) = name else { return Ok(None) };
        let group = self.config.groups.iter().find(|group| group.name() == name);
        group.cloned().map(Some).ok_or_else(|| AdditionError::NoGroup(name.to_owned()))
    }
}

/// Compares the disk with those that are served.
fn compare(fleet: &Fleet, disk: &DiskConfig) -> Result<(), AdditionError> {
    let path = &disk.namespace.path;
    let examine = AdditionError::system("cannot examine the NVDIMM file");
    let metadata = match &disk.namespace.file {
        Some(file) => {
            let flags = fcntl_getfl(file).map_err(|errno| examine(errno.into()))?;
            if !disk.read_only && !flags.contains(OFlags::RDWR) {
                return Err(AdditionError::ReadOnlyDescriptor(path.clone()));
            }
            file.metadata()
        }
        // What is wrong with it is said when it is opened.
        None => std::fs::metadata(path),
    };
    let Ok(metadata) = metadata else { return Ok(()) };
    for member in fleet.all() {
        for window in &member.description.windows {
            let theirs = std::fs::metadata(&window.region.path).ok();
            if !window.expose_file && theirs.is_some_and(|theirs| is_same(&theirs, &metadata)) {
                let exposed = format!("the disk that is to be served at {}", disk.socket);
                let (device, path) = (window.device.clone(), window.region.path.clone());
                let exposed = Error::Exposed { device, path, exposed };
                return Err(AdditionError::Open(Box::new(exposed)));
            }
        }
        let (Some(file), Some(held)) = (&disk.namespace.file, &member.description.handed_over)
        else {
            continue;
        };
        let is_same_file = held.file.metadata().is_ok_and(|theirs| is_same(&theirs, &metadata));
        // The locks of an opening of a file do not exclude itself.
        if is_same_file && !nvdimm::is_locked(file, &held.range).map_err(&examine)? {
            return Err(AdditionError::SameDescriptor(path.clone()));
        }
    }
    Ok(())
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// What came with a request.
#[derive(Default)]
struct Descriptors {
    nvdimm: Option<OwnedFd>,
    socket: Option<OwnedFd>,
}

impl Descriptors {
    fn of(new: &NewDisk, came: Vec<OwnedFd>) -> Result<Descriptors, AdditionError> {
        if came.len() != new.descriptors.len() {
            let (named, came) = (new.descriptors.len(), came.len());
            return Err(AdditionError::Descriptors { named, came });
        }
        let mut descriptors = Descriptors::default();
        for (kind, descriptor) in new.descriptors.iter().zip(came) {
            let place = match kind {
                Handed::Nvdimm => &mut descriptors.nvdimm,
                Handed::Socket => &mut descriptors.socket,
            };
            if place.replace(descriptor).is_some() {
                return Err(AdditionError::Twice);
            }
        }
        Ok(descriptors)
    }
}

fn absolute(path: &std::path::Path) -> Result<PathBuf, AdditionError> {
    if path.is_absolute() { Ok(path.into()) } else { Err(AdditionError::Relative(path.into())) }
}

/// `value`, if `is_possible` says so.
fn checked<T: Copy>(
    value: T,
    is_possible: impl FnOnce(T) -> bool,
    field: &'static str,
    reason: &'static str,
) -> Result<T, AdditionError> {
    if is_possible(value) { Ok(value) } else { Err(AdditionError::Value { field, reason }) }
}

fn set_numbers(disk: &mut DiskConfig, new: &NewDisk) -> Result<(), AdditionError> {
    if let Some(queues) = new.queues {
        disk.queues = checked(queues, is_queue_count, "queues", "not a number from 1 to 64")?;
    }
    if let Some(size) = new.queue_size {
        let reason = "not a power of two from 2 to 32768";
        disk.queue_size = checked(size, is_queue_size, "queue-size", reason)?;
    }
    if let Some(size) = new.logical_block_size {
        let reason = "none of 512, 4096, 8192, 16384 and 32768";
        let size = checked(size, is_logical_block_size, "logical-block-size", reason)?;
        disk.logical_block_size = Some(size);
    }
    if let Some(size) = new.atomic {
        let is_possible = |size: u32| size == 0 || is_atomic_size(size.into());
        let reason = "neither 0 nor a power of two from 1024 to 262144";
        let size = checked(size, is_possible, "atomic", reason)?;
        disk.atomic = Atomic { least: size, most: size };
    }
    if let Some(time) = new.poll_us {
        let time = checked(time, |time| time <= MOST_POLL_US, "poll-us", "more than 1000")?;
        disk.poll = Duration::from_micros(time.into());
    }
    Ok(())
}

fn set_manners(disk: &mut DiskConfig, new: &NewDisk) -> Result<(), AdditionError> {
    disk.namespace.label_size = match new.label_size {
        None => disk.namespace.label_size,
        Some(0) => LabelSize::None,
        Some(size) => LabelSize::Bytes(size),
    };
    disk.serial = match new.serial.as_deref() {
        None => None,
        Some(text) => {
            let reason = "not 1 to 20 printable ASCII characters";
            let serial = Serial::new(text);
            Some(serial.ok_or(AdditionError::Value { field: "serial", reason })?)
        }
    };
    if let Some(discard) = new.discard {
        disk.discard = match discard {
            NewDiscard::Auto => Discard::Auto,
            NewDiscard::On => Discard::On,
            NewDiscard::Off => Discard::Off,
        };
    }
    if let Some(durability) = new.durability {
        disk.namespace.durability = match durability {
            NewDurability::Auto => DurabilityRequest::Auto,
            NewDurability::Dax => DurabilityRequest::Dax,
            NewDurability::PageCache => DurabilityRequest::PageCache,
            NewDurability::Strict => DurabilityRequest::Strict,
        };
    }
    disk.huge_pages = new.huge_pages.unwrap_or(disk.huge_pages);
    if let Some(limit) = &new.rate_limit {
        disk.rate_limit = limit.limit()?;
    }
    Ok(())
}

/// The error of a disk that cannot be opened: what to do where the sandbox keeps the daemon from a path.
fn not_opened(new: &NewDisk, error: Error) -> AdditionError {
    let is_by_path = new.descriptors.len() < 2;
    if is_by_path && is_denied(&error) {
        let (nvdimm, socket) = (new.nvdimm.clone(), new.socket.clone());
        return AdditionError::Closed { nvdimm, socket, source: Box::new(error) };
    }
    AdditionError::Open(Box::new(error))
}

/// Returns whether a cause of `error` is that the process may not do something.
fn is_denied(error: &Error) -> bool {
    let mut cause: Option<&dyn StdError> = Some(error);
    while let Some(current) = cause {
        let io = current.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = current.source();
    }
    false
}
