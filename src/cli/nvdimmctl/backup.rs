//! The backup of what a repair changes: a text file, which a person can read too.
//!
//! ```text
//! nvdimmctl-backup 1
//! file disk.nvdimm
//! namespace namespace0.0 0 268435456
//! 4096 16 00000000000000000000000000000000 4254545f4152454e415f494e464f0000
//! end 1
//! ```
//!
//! After the head, a line for each range: its offset in the file, its length, its bytes before the
//! repair, or `-` if they could not be read, and those after it. Where some could not, the others are
//! not put back either: there is no state to go back to. The last line counts them, so that half a
//! backup is not taken for a whole one. What was changed since the repair is not put back: lanes and map
//! of today with those of yesterday among them would be damage. So that every write is noticed, the ranges
//! of a repair of map or flog are the arena's whole flog and its records of groups, too.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Error, io_error};
use crate::nvdimm::Claim;
use crate::pmem::{Mapping, MediaError, PersistentMemory, Saved};

/// Most backups of a file whose names are tried.
const MOST_BACKUPS: u32 = 10_000;

/// A line of a backup, read.
struct Replaced {
    /// In the namespace.
    offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// What stands for bytes that could not be read.
const UNREADABLE: &str = "-";

/// The first line of a backup.
const HEAD: &str = "nvdimmctl-backup 1";

/// Saves what a repair is going to change in a claimed namespace, durably, in the new file `path`, or in one
/// next to the NVDIMM file. Returns its path.
pub(super) fn save(path: Option<&Path>, claim: &Claim, saved: &[Saved]) -> Result<PathBuf, Error> {
    let path = path.map_or_else(|| unused_name(claim.path()), PathBuf::from);
    write(&path, claim, saved)?;
    if saved.iter().any(|saved| saved.before.is_none()) {
        log::warn!("some of what the repair changes cannot be read: it cannot be taken back");
    }
    Ok(path)
}

/// Puts back what a repair has changed, from the backup `path`, unless it was changed since. Returns
/// the number of bytes.
pub(super) fn undo(path: &Path, claim: &Claim, medium: &Mapping) -> Result<usize, Error> {
    let fails = |source: MediaError| {
        let (path, source) = (claim.path().into(), source.into());
        Error::Sectors { path, source }
    };
    let saved = read(path, claim)?;
    if let Some(offset) = changed_since(medium, &saved).map_err(fails)? {
        return Err(Error::ChangedSince { path: claim.path().into(), offset });
    }
    put_back(medium, &saved).map_err(fails)?;
    Ok(saved.iter().map(|saved| saved.before.len()).sum())
}

/// Writes the bytes of a claimed namespace to the new file `path`; durable on return.
fn write(path: &Path, claim: &Claim, saved: &[Saved]) -> Result<(), Error> {
    let range = &claim.namespace().range;
    let mut text = format!(
        "{HEAD}\nfile {}\nnamespace {} {} {}\n",
        claim.path().display(),
        claim.namespace().device_name(),
        range.start,
        range.end - range.start
    );
    for Saved { offset, before, after } in saved {
        let before = before.as_ref().map_or_else(|| UNREADABLE.into(), |bytes| hex_of(bytes));
        let (place, length) = (range.start + offset, after.len());
        let _ = writeln!(text, "{place} {length} {before} {}", hex_of(after));
    }
    let _ = writeln!(text, "end {}", saved.len());
    let fails = io_error("write the backup of what the repair changes");
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(fails)
}

/// An unused name for the backup: next to the file, or, for a device, in the current folder.
fn unused_name(file: &Path) -> PathBuf {
    let is_device = file.starts_with("/dev");
    let base = if is_device { file.file_name().map_or(file, Path::new) } else { file };
    let name = |number: u32| {
        let mut name = base.as_os_str().to_owned();
        name.push(".before-repair");
        if number > 1 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    };
    // Should it come to be there in between, creating the file fails, and nothing is repaired.
    (1..MOST_BACKUPS).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(MOST_BACKUPS))
}

/// Reads a backup of a claimed namespace; offsets are those in the namespace.
fn read(path: &Path, claim: &Claim) -> Result<Vec<Replaced>, Error> {
    let text = fs::read_to_string(path).map_err(io_error("read the backup"))?;
    let range = &claim.namespace().range;
    let bad = |line, reason| Error::BadBackup { path: path.into(), line, reason };
    let mut lines = (1..).zip(text.lines());
    if lines.next().is_none_or(|(_, line)| line != HEAD) {
        return Err(bad(1, "not a backup that a repair has written"));
    }
    let mut saved = Vec::new();
    let mut is_whole = false;
    for (number, line) in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["file", ..] => {}
            ["namespace", _, start, size] => {
                let ours = [range.start, range.end - range.start].map(|number| number.to_string());
                if ours != [start, size] {
                    return Err(bad(number, "of a namespace elsewhere, or of another size"));
                }
            }
            ["end", count] => is_whole = count == saved.len().to_string(),
            [_, _, UNREADABLE, _] => {
                return Err(bad(number, "these bytes could not be read: nothing can be put back"));
            }
            [offset, length, before, after] => {
                let malformed = || bad(number, "not an offset, a length, and twice so many bytes");
                let offset: u64 = offset.parse().map_err(|_| malformed())?;
                let before = bytes_of(before).ok_or_else(malformed)?;
                let after = bytes_of(after).ok_or_else(malformed)?;
                if [&before, &after].iter().any(|bytes| length != bytes.len().to_string()) {
                    return Err(malformed());
                }
                let inside = offset >= range.start
                    && offset.checked_add(before.len() as u64).is_some_and(|end| end <= range.end);
                if !inside {
                    return Err(bad(number, "outside the namespace"));
                }
                saved.push(Replaced { offset: offset - range.start, before, after });
            }
            _ => return Err(bad(number, "not a line of a backup")),
        }
    }
    if is_whole { Ok(saved) } else { Err(bad(text.lines().count(), "the end is missing")) }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8; 2]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Offset in the namespace of the first byte that is neither as before the repair nor as after it: a repair
/// that was cut off leaves some of each.
fn changed_since<M: PersistentMemory>(
    medium: &M,
    saved: &[Replaced],
) -> Result<Option<u64>, MediaError> {
    for Replaced { offset, before, after } in saved {
        let mut now = vec![0; before.len()];
        medium.read_bytes(*offset, &mut now)?;
        let mut bytes = now.iter().zip(before.iter().zip(after));
        if let Some(byte) = bytes.position(|(now, (before, after))| ![before, after].contains(&now))
        {
            return Ok(Some(offset + byte as u64));
        }
    }
    Ok(None)
}

/// Writes bytes back as they were; durable on return if fences are.
fn put_back<M: PersistentMemory>(medium: &M, saved: &[Replaced]) -> Result<(), MediaError> {
    for Replaced { offset, before, .. } in saved {
        medium.write_bytes(*offset, before)?;
    }
    medium.fence()?;
    medium.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(bytes_of("00ffA5"), Some(vec![0, 0xff, 0xa5]));
        assert_eq!(bytes_of(""), Some(vec![]));
        for bad in ["0", "0g", "+1", "é"] {
            assert_eq!(bytes_of(bad), None, "{bad}");
        }
    }
}
