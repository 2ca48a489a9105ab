//! Errors of mappings and of accesses to a medium.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// What was being done to the medium when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loading or copying from the medium.
    Read,
    /// Storing or copying to the medium.
    Write,
    /// Writing back cache lines.
    Flush,
    /// Waiting for durability: a fence, or a sync of the file.
    Sync,
    /// Making a range read as zeroes.
    Zero,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Flush => "flush",
            Access::Sync => "sync",
            Access::Zero => "zeroing",
        })
    }
}

/// Why an access failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The memory did not answer: poison, a truncated file, or no space to back a hole (`SIGBUS`).
    #[error("the medium does not answer (poisoned memory, a truncated file or a full file system)")]
    Medium,
    /// The other side of the copy did not answer: the buffer's memory was taken away.
    #[error("the buffer's memory does not answer")]
    Buffer,
    /// The range does not lie inside the medium.
    #[error("outside the medium")]
    OutOfBounds,
    /// The offset of a single-access load or store is not naturally aligned.
    #[error("not naturally aligned")]
    Misaligned,
    /// A store to a medium that was opened for reading.
    #[error("the medium is open for reading only")]
    ReadOnly,
    /// The operating system refused.
    #[error("{}", .0.desc())]
    System(Errno),
}

/// A failed access to the medium: it fails the request that made it, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{access} of {length} bytes at offset {offset:#x}: {cause}")]
pub struct MediaError {
    /// What was being done.
    pub access: Access,
    /// Byte offset from the start of the range.
    pub offset: u64,
    /// Length of the access in bytes; 0 where it has none.
    pub length: u64,
    /// Why it failed.
    pub cause: Cause,
}

/// Why a file could not be mapped as persistent memory.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The range to map lies beyond the end of the file.
    #[error("bytes {start:#x} to {end:#x} lie beyond the end of the file at {size:#x}")]
    BeyondEnd {
        /// First byte asked for.
        start: u64,
        /// Byte after the last one asked for.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// The range to map is empty, or does not start on a page.
    #[error("bytes {start:#x} to {end:#x} are empty or do not start on a page of 4096 bytes")]
    BadRange {
        /// First byte asked for.
        start: u64,
        /// Byte after the last one asked for.
        end: u64,
    },
    /// Neither a regular file nor a device-DAX character device.
    #[error("neither a regular file nor a device-DAX character device")]
    NotMappable,
    /// The size or alignment of a device-DAX device could not be read from sysfs.
    #[error("cannot read {path}")]
    Sysfs {
        /// The attribute that could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{call}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl MapError {
    /// Wraps the error of a system call.
    pub(super) fn system(call: &'static str) -> impl Fn(Errno) -> MapError {
        move |errno| MapError::System { call, source: errno.into() }
    }
}
