//! Sharing the extents of a file with another one (`ioctl_ficlonerange(2)`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::ioctl::{Setter, ioctl, opcode};

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

/// Lets `into` have the bytes `range` of `from` from its start on, in extents that both files share until one of
/// them is written to.
///
/// # Errors
///
/// The file system shares no extents (`EOPNOTSUPP`), the files are on different ones (`EXDEV`), or the bytes do
/// not begin and end with blocks of it (`EINVAL`).
pub fn clone_range(from: &File, range: &Range<u64>, into: &File) -> io::Result<()> {
    /// `FICLONERANGE`.
    const CLONE_RANGE: rustix::ioctl::Opcode = opcode::write::<FileCloneRange>(0x94, 13);
    let request = FileCloneRange {
        src_fd: from.as_raw_fd().into(),
        src_offset: range.start,
        src_length: range.end - range.start,
        dest_offset: 0,
    };
    // SAFETY: the opcode is that of a call that reads one `struct file_clone_range`, and stores nothing.
    unsafe { Ok(ioctl(into, Setter::<CLONE_RANGE, FileCloneRange>::new(request))?) }
}
