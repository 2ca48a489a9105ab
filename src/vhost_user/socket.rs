//! The sockets to which frontends connect.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use log::{debug, info};
use rustix::fs::{AtFlags, CWD, Gid, Mode, chownat, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::umask;

use super::error::Error;
use super::handed::Handed;
use super::inherited::{Inherited, duplicate, endpoint};

/// How many clients may wait to be accepted: as many as the system allows (`net.core.somaxconn`). A client that does
/// not block gets EAGAIN when the queue is full, however soon the process accepts the others.
const BACKLOG: i32 = i32::MAX;

/// The mode of a socket that no other was asked for, before the umask is applied.
const USUAL_MODE: u32 = 0o660;

/// Where to listen, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketSource {
    /// A path to bind (`--socket-path`).
    Path(SocketPath),
    /// A descriptor that was handed over, listening or connected (`--fd`).
    Descriptor(i32),
    /// The next socket that the service manager has passed (`LISTEN_FDS`).
    Passed,
    /// A socket that the process has taken over.
    Inherited(Inherited),
}

/// A path to bind, and who may connect there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath {
    /// The path.
    pub path: PathBuf,
    /// The users that may connect.
    pub access: SocketAccess,
}

/// The users that may connect to a socket that is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketAccess {
    /// Permission bits of the socket, whatever the umask is; `None`: 0660 less the umask.
    pub mode: Option<u32>,
    /// Number of the group that owns the socket; `None`: that of the process.
    pub group: Option<u32>,
}

impl<P: Into<PathBuf>> From<P> for SocketPath {
    fn from(path: P) -> SocketPath {
        SocketPath { path: path.into(), access: SocketAccess::default() }
    }
}

impl SocketSource {
    /// The path that is bound, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            SocketSource::Path(socket) => Some(&socket.path),
            _ => None,
        }
    }
}

impl fmt::Display for SocketSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketSource::Path(socket) => write!(f, "{}", socket.path.display()),
            SocketSource::Descriptor(descriptor) => write!(f, "descriptor {descriptor}"),
            SocketSource::Passed => f.write_str("the socket of the service manager"),
            SocketSource::Inherited(socket) => write!(f, "{socket}"),
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
    /// The keeper hands over connections, one after another.
    Handed(Handed),
}

impl Endpoint {
    /// Binds the path, or takes over the descriptor.
    pub fn open(source: &SocketSource) -> Result<Endpoint, Error> {
        match source {
            SocketSource::Path(socket) => {
                let listener = bind_path(socket)?;
                Ok(Endpoint::Listening(listener, SocketName::of(&socket.path)))
            }
            SocketSource::Descriptor(descriptor) => {
                duplicate(*descriptor).and_then(endpoint).map_err(|source| Error::Inherited {
                    name: SocketSource::Descriptor(*descriptor).to_string(),
                    source,
                })
            }
            SocketSource::Inherited(socket) => socket.endpoint(),
            SocketSource::Passed => Err(Error::NothingPassed),
        }
    }
}

/// The name of a socket in the file system; removed when dropped, unless another process has bound
/// the path meanwhile.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketName {
    pub(super) fn of(path: &Path) -> Option<SocketName> {
        Some(SocketName { path: path.into(), identity: identity(path)? })
    }

    /// Leaves the name to another process, which removes it.
    pub fn leave(mut self) {
        self.identity = NOTHING;
    }
}

/// The identity of no file: no file system has device number 0 and inode number 0.
const NOTHING: (u64, u64) = (0, 0);

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

/// Binds a path, over the name that a process which is gone has left, and listens there.
fn bind_path(socket: &SocketPath) -> Result<UnixListener, Error> {
    let path = socket.path.as_path();
    let fails = |source| Error::Bind { path: path.into(), source };
    let bound = match bind_at(socket) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            bind_at(socket).map_err(fails)?
        }
        bound => bound.map_err(fails)?,
    };
    // No frontend can connect before the process listens.
    if let Some(group) = socket.access.group {
        give_to_group(path, group)?;
    }
    listen(&bound, BACKLOG).map_err(|errno| fails(errno.into()))?;
    Ok(UnixListener::from(bound))
}

/// Binds the path for the owner and the group, as far as the umask lets it, or with the mode that was asked
/// for: a client that may connect may read and write the disk.
fn bind_at(SocketPath { path, access }: &SocketPath) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Linux gives the name the mode of the socket, less the umask (unix_bind_bsd in net/unix/af_unix.c).
    fchmod(&socket, Mode::from_raw_mode(access.mode.unwrap_or(USUAL_MODE)))?;
    let address = SocketAddrUnix::new(path)?;
    let _umask = access.mode.map(|_| NoUmask::new());
    bind(&socket, &address)?;
    Ok(socket)
}

/// No umask, for as long as it lives. The umask is the process's: nothing else may make a file meanwhile, as
/// is the case before the first disk is served, and as this process makes no files later but the sockets of disks
/// that are added, one after another.
struct NoUmask(Mode);

impl NoUmask {
    fn new() -> NoUmask {
        NoUmask(umask(Mode::empty()))
    }
}

impl Drop for NoUmask {
    fn drop(&mut self) {
        umask(self.0);
    }
}

/// Changes the group of a socket on which no process listens yet.
fn give_to_group(path: &Path, group: u32) -> Result<(), Error> {
    let gid = Gid::from_raw(group);
    chownat(CWD, path, None, Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
        let _ = fs::remove_file(path);
        Error::SocketGroup { path: path.into(), group, source: errno.into() }
    })
}

/// Removes the name of a socket that a process has left, if it is one, and no process listens there.
///
/// # Errors
///
/// Another process listens there, it is no socket, or it cannot be removed.
pub fn remove_left_socket(path: &Path) -> Result<(), Error> {
    if path.symlink_metadata().is_ok() { remove_stale(path) } else { Ok(()) }
}

/// Removes a socket on which no process listens.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let fails = |source| Error::Bind { path: path.into(), source };
    if !fs::symlink_metadata(path).map_err(fails)?.file_type().is_socket() {
        return Err(Error::NotASocket { path: path.into() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!("replacing {}, on which no process listens", path.display());
            fs::remove_file(path).map_err(fails)
        }
        Ok(_) => Err(Error::SocketInUse { path: path.into() }),
        Err(error) => Err(fails(error)),
    }
}
