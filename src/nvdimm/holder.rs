//! Finds the process that holds a namespace in the kernel's lock tables.
//!
//! `/proc/locks` names no owner of an open-file-description lock, but `/proc/PID/fdinfo/FD` lists the
//! locks of a descriptor, if its permissions allow reading it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The process that holds a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process that we can see.
    Process {
        /// Its process id.
        pid: u32,
        /// The name of its program.
        program: String,
    },
    /// A process whose descriptors we may not look at, or one on another host.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, program } => write!(f, "{program} (pid {pid})"),
            Holder::Unknown => f.write_str("a process that cannot be seen from here"),
        }
    }
}

impl Holder {
    /// Returns whether this is a process of a user other than this process's.
    #[must_use]
    pub fn is_another_user(&self) -> bool {
        let Holder::Process { pid, .. } = self else { return false };
        let process = fs::metadata(folder(*pid));
        process.is_ok_and(|process| process.uid() != rustix::process::geteuid().as_raw())
    }

    /// Finds who has a lock on some of the bytes `range` of `file`, other than through `file`
    /// itself.
    #[must_use]
    pub fn find(file: &File, range: &Range<u64>) -> Holder {
        Holder::search(file, range).unwrap_or(Holder::Unknown)
    }

    /// As [`find`](Self::find), but returns `None` if no visible process holds such a lock.
    #[must_use]
    pub fn search(file: &File, range: &Range<u64>) -> Option<Holder> {
        let wanted = file.metadata().ok()?;
        let processes = fs::read_dir("/proc").ok()?;
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let holders = pids
            .filter(|pid| holds(&folder(*pid), (wanted.dev(), wanted.ino()), range))
            .filter_map(|pid| Some((pid, parent(pid)?)));
        let pid = topmost(&holders.collect())?;
        let program = fs::read_to_string(folder(pid).join("comm")).unwrap_or_default();
        Some(Holder::Process { pid, program: program.trim_end().to_owned() })
    }
}

/// The process that took a lock, of all `holders`, which are mapped to their parents.
///
/// A child process has the descriptors of its parent, and with them the parent's locks, at least until
/// it executes its program. Process ids wrap around, so the child can have the lower one.
fn topmost(holders: &BTreeMap<u32, u32>) -> Option<u32> {
    let mut tops = holders.iter().filter(|(_, parent)| !holders.contains_key(parent));
    tops.next().or_else(|| holders.first_key_value()).map(|(pid, _)| *pid)
}

/// The directory of a process in procfs.
fn folder(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The process id of a process's parent; `None` if the process has ended.
fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(folder(pid).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Returns whether a process has a lock on some of the bytes `range` of the file `wanted`, by device and
/// inode.
fn holds(process: &Path, wanted: (u64, u64), range: &Range<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.filter_map(Result::ok).any(|descriptor| {
        let is_wanted = fs::metadata(descriptor.path())
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == wanted);
        is_wanted
            && fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()))
                .is_ok_and(|info| info.lines().any(|line| is_lock_on(line, range)))
    })
}

/// Returns whether a line of `fdinfo` is an open-file-description lock on some of the bytes `range`.
///
/// Such a line reads `lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:1234 0 4095`, the last byte included,
/// or `EOF`.
fn is_lock_on(line: &str, range: &Range<u64>) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["lock:", _, "OFDLCK", .., start, end] = words.as_slice() else {
        return false;
    };
    let Ok(start) = start.parse::<u64>() else {
        return false;
    };
    let last = if *end == "EOF" { Ok(u64::MAX) } else { end.parse() };
    last.is_ok_and(|last| start < range.end && range.start <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_named_and_not_a_child_that_inherited_its_lock() {
        assert_eq!(topmost(&BTreeMap::from([(300, 1)])), Some(300));
        assert_eq!(topmost(&BTreeMap::from([(7, 300), (300, 1)])), Some(300));
        assert_eq!(topmost(&BTreeMap::from([(7, 9), (9, 300), (300, 1), (301, 300)])), Some(300));
        // The parent has ended, or holds no lock.
        assert_eq!(topmost(&BTreeMap::from([(9, 1)])), Some(9));
        assert_eq!(topmost(&BTreeMap::new()), None);
        // A process id was used again while the processes were listed.
        assert_eq!(topmost(&BTreeMap::from([(7, 9), (9, 7)])), Some(7));
    }

    #[test]
    fn lock_lines_are_matched_by_range() {
        let line = "lock:\t1: OFDLCK  ADVISORY  WRITE -1 fe:00:131 4096 8191";
        assert!(is_lock_on(line, &(0..4097)));
        assert!(is_lock_on(line, &(8191..9000)));
        assert!(!is_lock_on(line, &(0..4096)));
        assert!(!is_lock_on(line, &(8192..9000)));
        assert!(is_lock_on(
            "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:131 0 EOF",
            &(1 << 40..1 << 41)
        ));
        assert!(!is_lock_on("lock:\t1: POSIX  ADVISORY  WRITE 7 fe:00:131 0 EOF", &(0..4096)));
        assert!(!is_lock_on("flags:\t02", &(0..4096)));
    }
}
