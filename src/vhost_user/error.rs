//! What can go wrong with a socket.

use std::io;
use std::path::PathBuf;

use crate::btt::NamespaceError;

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace, or the BTT in it.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Somebody listens on the path already.
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
    #[error("descriptor {descriptor} is not a Unix stream socket")]
    Inherited {
        /// Its number.
        descriptor: i32,
        /// Why.
        source: io::Error,
    },
    /// A system call that should not fail.
    #[error("{action}")]
    System {
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The vhost-user machinery cannot be set up.
    #[error("cannot set up the device: {0}")]
    Setup(vhost_user_backend::Error),
    /// Some of several disks ended early; the log says why.
    #[error("{failed} of {disks} disks could not be served to the end")]
    Disks {
        /// How many failed.
        failed: usize,
        /// How many there were.
        disks: usize,
    },
}
