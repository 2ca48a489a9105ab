//! Sockets that the process was started with.
//!
//! They are taken over before the process opens any file: after that, a number on the command line could
//! be that of a descriptor of its own.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use listenfd::ListenFd;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::devices::DeviceConfig;
use super::error::Error;
use super::handed::Handed;
use super::socket::{Endpoint, SocketName, SocketSource};

/// A socket that the process has taken over.
#[derive(Debug, Clone)]
pub struct Inherited {
    name: String,
    /// The process that has bound it leaves its name to this one.
    keeps_name: bool,
    socket: Arc<OwnedFd>,
    /// Connections come over it, from the keeper.
    is_kept: bool,
}

impl Inherited {
    /// A listening or connected stream socket, which the log calls `name`.
    #[must_use]
    pub fn new(name: String, socket: OwnedFd) -> Inherited {
        Inherited { name, keeps_name: false, socket: Arc::new(socket), is_kept: false }
    }

    /// A listening or connected stream socket that was bound to `path` for this process, which removes that name
    /// at the end if it can.
    pub(super) fn handed_over(path: &Path, socket: OwnedFd) -> Inherited {
        let name = path.display().to_string();
        Inherited { name, keeps_name: true, socket: Arc::new(socket), is_kept: false }
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint, Error> {
        let fails = |source| Error::Inherited { name: self.name.clone(), source };
        let socket = self.socket.try_clone().map_err(fails)?;
        if self.is_kept {
            return Ok(Endpoint::Handed(Handed::over(UnixStream::from(socket))));
        }
        match endpoint(socket).map_err(fails)? {
            Endpoint::Listening(listener, None) if self.keeps_name => {
                let address = listener.local_addr().map_err(fails)?;
                let name = address.as_pathname().and_then(SocketName::of);
                Ok(Endpoint::Listening(listener, name))
            }
            other => Ok(other),
        }
    }
}

impl PartialEq for Inherited {
    fn eq(&self, other: &Inherited) -> bool {
        Arc::ptr_eq(&self.socket, &other.socket)
    }
}

impl Eq for Inherited {}

impl fmt::Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The sockets that the service manager has passed (`LISTEN_FDS`, `sd_listen_fds(3)`), in its order.
#[derive(Debug, Default)]
pub struct PassedSockets(VecDeque<Inherited>);

impl PassedSockets {
    /// Takes over what was passed to this process; that may be nothing.
    ///
    /// # Errors
    ///
    /// One of the descriptors is not a Unix stream socket.
    pub fn from_environment() -> Result<PassedSockets, Error> {
        let mut passed = ListenFd::from_env();
        let count = passed.len();
        let take = |index| {
            let name = format!("socket {index} of the service manager");
            match passed.take_unix_listener(index) {
                Ok(Some(socket)) => Ok(Inherited::new(name, socket.into())),
                Ok(None) => Err(Error::NothingPassed),
                Err(source) => Err(Error::Inherited { name, source }),
            }
        };
        (0..count).map(take).collect::<Result<_, _>>().map(PassedSockets)
    }

    /// How many are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether none are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives each of `devices` the socket that it is to have, as far as that is one of the process.
    ///
    /// # Errors
    ///
    /// There are too few, or a descriptor is of no use.
    pub fn hand_out(&mut self, devices: &mut [DeviceConfig]) -> Result<(), Error> {
        for device in devices {
            let socket = device.socket_mut();
            let inherited = match *socket {
                SocketSource::Passed => self.0.pop_front().ok_or(Error::NothingPassed)?,
                SocketSource::Descriptor(number) => take(number)?,
                SocketSource::Path(_) | SocketSource::Inherited(_) => continue,
            };
            *socket = SocketSource::Inherited(inherited);
        }
        Ok(())
    }
}

/// Gives each of `devices` the descriptor of `numbers` from which the keeper has it take connections.
///
/// # Errors
///
/// There are fewer or more than devices, or a descriptor is of no use.
pub fn take_kept(numbers: &[i32], devices: &mut [DeviceConfig]) -> Result<(), Error> {
    if numbers.len() != devices.len() {
        return Err(Error::Kept { sockets: numbers.len(), devices: devices.len() });
    }
    for (number, device) in numbers.iter().zip(devices) {
        let name = device.socket().to_string();
        let source = |source| Error::Inherited { name: name.clone(), source };
        let socket = duplicate(*number).map_err(source)?;
        let inherited =
            Inherited { name, keeps_name: false, socket: Arc::new(socket), is_kept: true };
        *device.socket_mut() = SocketSource::Inherited(inherited);
    }
    Ok(())
}

fn take(number: i32) -> Result<Inherited, Error> {
    let name = SocketSource::Descriptor(number).to_string();
    match duplicate(number) {
        Ok(socket) => Ok(Inherited::new(name, socket)),
        Err(source) => Err(Error::Inherited { name, source }),
    }
}

/// The endpoint that a stream socket is.
pub(super) fn endpoint(socket: OwnedFd) -> io::Result<Endpoint> {
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
pub(super) fn duplicate(descriptor: i32) -> io::Result<OwnedFd> {
    let (sender, receiver) = UnixStream::pair()?;
    sender.send_with_fd(&[0][..], descriptor).map_err(io::Error::from)?;
    let (_, file) = receiver.recv_with_fd(&mut [0]).map_err(io::Error::from)?;
    file.map(OwnedFd::from).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
