//! The process at the other end of a connection.

use std::fmt;
use std::fs;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt};

/// The process that has connected, as far as the kernel tells.
pub(super) struct Peer(Option<UnixCredentials>);

impl Peer {
    /// The process at the other end of `stream`.
    pub(super) fn of(stream: &UnixStream) -> Peer {
        Peer(getsockopt(stream, sockopt::PeerCredentials).ok())
    }
}

impl fmt::Display for Peer {
    /// Its number, its user and, where /proc can be read, its name. A frontend in another namespace has no
    /// number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(peer) = &self.0 else { return f.write_str("an unknown process") };
        write!(f, "process {}", peer.pid())?;
        if let Ok(name) = fs::read_to_string(format!("/proc/{}/comm", peer.pid())) {
            write!(f, " ({})", name.trim_end())?;
        }
        write!(f, " of user {}", peer.uid())
    }
}
