//! Where frontends connect.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use log::{debug, info};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::error::Error;

/// Where to listen, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketSource {
    /// A path to bind (`--socket-path`).
    Path(PathBuf),
    /// A descriptor that was handed over, listening or connected (`--fd`).
    Descriptor(i32),
}

impl fmt::Display for SocketSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketSource::Path(path) => write!(f, "{}", path.display()),
            SocketSource::Descriptor(descriptor) => write!(f, "descriptor {descriptor}"),
        }
    }
}

/// A socket to serve.
#[derive(Debug)]
pub enum Endpoint {
    /// Frontends connect, one after another.
    Listening(UnixListener, Option<SocketName>),
    /// One frontend is connected, and there will be no other.
    Connected(UnixStream),
}

impl Endpoint {
    /// Binds the path, or takes over the descriptor.
    pub fn open(source: &SocketSource) -> Result<Endpoint, Error> {
        match source {
            SocketSource::Path(path) => {
                let listener = bind(path)?;
                Ok(Endpoint::Listening(listener, SocketName::of(path)))
            }
            SocketSource::Descriptor(descriptor) => inherit(*descriptor)
                .map_err(|source| Error::Inherited { descriptor: *descriptor, source }),
        }
    }
}

/// The name of a socket in the file system; taken away when dropped, unless somebody else has bound
/// the path meanwhile.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketName {
    fn of(path: &Path) -> Option<SocketName> {
        Some(SocketName { path: path.into(), identity: identity(path)? })
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Binds `path`, over the name that a process which is gone has left.
fn bind(path: &Path) -> Result<UnixListener, Error> {
    let fails = |source| Error::Bind { path: path.into(), source };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path).map_err(fails)
        }
        bound => bound.map_err(fails),
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let fails = |source| Error::Bind { path: path.into(), source };
    if !fs::symlink_metadata(path).map_err(fails)?.file_type().is_socket() {
        return Err(Error::NotASocket { path: path.into() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!("taking over {}, which nobody listens on any more", path.display());
            fs::remove_file(path).map_err(fails)
        }
        Ok(_) => Err(Error::SocketInUse { path: path.into() }),
        Err(error) => Err(fails(error)),
    }
}

/// Takes over a descriptor that the process was started with.
fn inherit(descriptor: i32) -> io::Result<Endpoint> {
    let socket = duplicate(descriptor)?;
    if getsockopt(&socket, sockopt::SockType)? != SockType::Stream {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
    }
    let endpoint = if getsockopt(&socket, sockopt::AcceptConn)? {
        let listener = UnixListener::from(socket);
        listener.local_addr()?;
        Endpoint::Listening(listener, None)
    } else {
        let stream = UnixStream::from(socket);
        stream.local_addr()?;
        Endpoint::Connected(stream)
    };
    Ok(endpoint)
}

/// Returns a duplicate of the descriptor with this number, if there is one.
///
/// To own a descriptor by its number means to vouch that nothing else does. So it is sent over a socket
/// pair, by which the kernel makes another one.
fn duplicate(descriptor: i32) -> io::Result<OwnedFd> {
    let (sender, receiver) = UnixStream::pair()?;
    sender.send_with_fd(&[0][..], descriptor).map_err(io::Error::from)?;
    let (_, file) = receiver.recv_with_fd(&mut [0]).map_err(io::Error::from)?;
    file.map(OwnedFd::from).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
