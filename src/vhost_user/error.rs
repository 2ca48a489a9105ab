//! Errors of serving devices.

use std::io;
use std::path::PathBuf;

use crate::namespace::NamespaceError;
use crate::sandbox::SandboxError;
use crate::{dax, nvdimm};

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace, or what is in it.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The file, as far as it is not one namespace's.
    #[error(transparent)]
    Nvdimm(#[from] nvdimm::Error),
    /// The DAX device.
    #[error("{log_name}")]
    Region {
        /// What the log calls the region.
        log_name: String,
        /// What is wrong.
        source: Box<dax::Error>,
    },
    /// A size that no shared memory region can have.
    #[error(
        "device {device:?}: a window of {size} bytes is not possible: it has to be a multiple of 2 MiB, \
         and hold the device's {needed} bytes; reserve=SIZE makes a window larger than its device"
    )]
    WindowSize {
        /// Name of the device.
        device: String,
        /// Bytes that the window would have.
        size: u64,
        /// Bytes of the device.
        needed: u64,
    },
    /// A frontend could reach what another guest has.
    #[error(
        "window {device:?}: its frontend gets a descriptor of the whole file {path}, which also holds \
         {exposed}: a frontend that was taken over can read and overwrite that; use another file, or allow \
         it with expose-file, as in --window={device},expose-file"
    )]
    Exposed {
        /// Name of the DAX device.
        device: String,
        /// The NVDIMM file.
        path: PathBuf,
        /// The namespace of another guest, and where it is served.
        exposed: String,
    },
    /// Two guests would have one DAX device, and at least one of them could write to it.
    #[error(
        "device {device:?} would be mapped by two guests, at {first} and at {second}, and not only to be \
         read: neither expects what the other one stores, and a file system on it would be destroyed; make \
         both read-only, or, where the guests are prepared for it, allow it with share-rw for both, as in \
         --window={device},share-rw"
    )]
    SharedDevice {
        /// Name of the DAX device.
        device: String,
        /// Where the first guest's frontend connects.
        first: String,
        /// Where that of the second one connects.
        second: String,
    },
    /// Another process listens on the path.
    #[error("{path}: another process is listening on this socket")]
    SocketInUse {
        /// The path.
        path: PathBuf,
    },
    /// There is something at the path that is not a socket.
    #[error("{path}: exists, and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be bound.
    #[error("cannot listen on {path}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The descriptor that was handed over is of no use.
    #[error("{name} is not a Unix stream socket")]
    Inherited {
        /// Its number, or place.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The service manager has passed fewer sockets than devices need.
    #[error(
        "the service manager has passed no socket for a device: its .socket unit has to list one for each, in \
         the order of the devices"
    )]
    NothingPassed,
    /// The keeper has passed sockets for other devices.
    #[error(
        "--kept has {sockets} descriptors, and there are {devices} devices: the option is for --keeper alone"
    )]
    Kept {
        /// Descriptors.
        sockets: usize,
        /// Devices.
        devices: usize,
    },
    /// The socket cannot be given to the group.
    #[error(
        "cannot give {path} to group {group}: the user that runs the daemon has to be a member of the group"
    )]
    SocketGroup {
        /// The path.
        path: PathBuf,
        /// Number of the group.
        group: u32,
        /// Why.
        source: io::Error,
    },
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A system call that should not fail.
    #[error("{action}")]
    System {
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Some of several devices ended early; the log says why.
    #[error("{failed} of {devices} devices could not be served to the end")]
    Devices {
        /// How many failed.
        failed: usize,
        /// How many there were.
        devices: usize,
    },
}
