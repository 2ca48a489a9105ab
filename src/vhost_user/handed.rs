//! Connections that another process has accepted, and hands over one after another (`--keeper`).
//!
//! Each comes as the descriptor of a byte over a socket pair. In the other direction go the bytes [`SERVING`],
//! once, and [`OVER`], for each connection that this process has closed, in the order in which they came: the end
//! of a connection alone does not tell that from the end of the process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendFlags, send};

use super::fd_passing::{ReceiveError, receive};

/// The process serves from now on.
pub const SERVING: u8 = b's';
/// The process has closed a connection.
pub const OVER: u8 = b'o';

/// Where connections come from.
#[derive(Debug)]
pub struct Handed(UnixStream);

impl Handed {
    /// Connections that come over `socket`.
    pub(super) fn over(socket: UnixStream) -> Handed {
        Handed(socket)
    }

    /// Takes the next connection.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: there is none yet. `UnexpectedEof`: the process that hands them over is gone.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let mut descriptors = Vec::new();
        match receive(&self.0, &mut [0], &mut descriptors, 1) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(ReceiveError::DescriptorsLost) => return Err(io::ErrorKind::InvalidData.into()),
            Err(ReceiveError::System(errno)) => return Err(errno.into()),
        }
        descriptors.pop().map(UnixStream::from).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Says [`SERVING`] or [`OVER`].
    pub(super) fn say(&self, byte: u8) -> io::Result<()> {
        match send(&self.0, &[byte], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Handed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
