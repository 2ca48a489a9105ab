//! Locks on ranges of a file. They belong to the open file description and end with it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::error::Error;
use super::holder::Holder;

/// How long it takes between two attempts to get a lock that is held for a short time.
const PAUSE: Duration = Duration::from_millis(10);

/// How long to wait for bytes that an `nvdimmctl` has claimed. Less than for the labels, because a command may
/// wait for a claim with the labels locked.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);

/// After how many searches in vain the holder is taken for one that cannot be seen.
const MOST_UNSEEN: u32 = 8;

/// The name of the administrator's tool, as the kernel has it.
const TOOL: &str = "nvdimmctl";

/// What a claim allows, and excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// Reading; excludes writers.
    Shared,
    /// Reading and writing; excludes all other processes.
    Exclusive,
}

/// Locks `range` of `file` without waiting. Returns `false` if another process has a lock on a part of it.
pub(super) fn try_lock(file: &File, range: &Range<u64>, kind: ClaimKind) -> io::Result<bool> {
    let lock_type = match kind {
        ClaimKind::Shared => libc::F_RDLCK,
        ClaimKind::Exclusive => libc::F_WRLCK,
    };
    match set(file, range, lock_type) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`try_lock`] with a lock that excludes all other processes, for up to `patience`.
pub(super) fn lock_within(file: &File, range: &Range<u64>, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    while !try_lock(file, range, ClaimKind::Exclusive)? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
    Ok(true)
}

/// As [`try_lock`], but waits for up to [`CLAIM_PATIENCE`] as long as an `nvdimmctl` has the lock: most of its
/// commands end within moments. Other programs keep what they hold, so there is no point in waiting for them.
pub(super) fn lock_patiently(file: &File, range: &Range<u64>, kind: ClaimKind) -> io::Result<bool> {
    let deadline = Instant::now() + CLAIM_PATIENCE;
    let mut unseen = 0;
    while !try_lock(file, range, kind)? {
        let is_brief = match Holder::search(file, range) {
            Some(Holder::Process { program, .. }) => program == TOOL,
            // A holder that lets go during the search is not found, and the next one may have the lock by then.
            Some(Holder::Unknown) | None => {
                unseen += 1;
                unseen < MOST_UNSEEN
            }
        };
        if !is_brief || Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
    Ok(true)
}

/// Gives up the locks on `range` that belong to the same open file description as `file`.
pub(super) fn unlock(file: &File, range: &Range<u64>) -> io::Result<()> {
    set(file, range, libc::F_UNLCK).map_err(io::Error::from)
}

/// Returns whether another open file description has a lock on some of `range`.
///
/// # Errors
///
/// The file has no locks.
pub fn is_locked(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let mut request = request(range, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut request)).map_err(io::Error::from)?;
    Ok(request.l_type != libc::F_UNLCK as libc::c_short)
}

fn set(file: &File, range: &Range<u64>, lock_type: libc::c_int) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&request(range, lock_type))).map(drop)
}

fn request(range: &Range<u64>, lock_type: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: lock_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start.cast_signed(),
        l_len: (range.end - range.start).cast_signed(),
        l_pid: 0,
    }
}

/// A second descriptor of the same open file: it keeps its locks, too.
pub(super) fn duplicate(path: &Path, file: &File) -> Result<File, Error> {
    let fails =
        |source| Error::File { action: "duplicate the descriptor of", path: path.into(), source };
    file.try_clone().map_err(fails)
}
