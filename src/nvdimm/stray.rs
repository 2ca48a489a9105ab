//! Finds labels that are not at the end of the file, where they belong.
//!
//! The label storage area is located from the end of the file. A file that was made longer has it in the
//! middle, and a file that was cut off has lost a part of it. Both look like files without labels.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::label::{IndexBlock, LEAST_AREA_SIZE, MOST_AREA_SIZE, SIGNATURE};
use super::space::LINUX_ALIGNMENT;
use crate::pmem::PAGE;

/// Labels that were found in a file, and not at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrayLabels {
    /// Offset in the file of the label storage area.
    pub start: u64,
    /// The size in bytes that the file had when the area was at its end.
    pub file_size: u64,
}

impl StrayLabels {
    /// Looks for labels in `file`, a regular file of `size` bytes without labels at its end.
    ///
    /// Not everywhere: in the last 16 MiB before the hole at the end of the file, which is what a longer
    /// file has, and where an area begins in a file whose size is a multiple of the alignment of Linux,
    /// with its labels or without.
    #[must_use]
    pub fn find(file: &File, size: u64) -> Option<StrayLabels> {
        let stored = last_stored(file, size)?;
        let near = (0..=MOST_AREA_SIZE / PAGE).map_while(|pages| stored.checked_sub(pages * PAGE));
        let aligned = (1..size.div_ceil(LINUX_ALIGNMENT)).flat_map(|number| {
            let end = number * LINUX_ALIGNMENT;
            [end, end - LEAST_AREA_SIZE]
        });
        near.chain(aligned).find_map(|start| StrayLabels::at(file, start))
    }

    /// The area at byte `start`, if an index block there is whole.
    fn at(file: &File, start: u64) -> Option<StrayLabels> {
        let mut signature = [0; SIGNATURE.len()];
        file.read_exact_at(&mut signature, start).ok()?;
        if signature != SIGNATURE {
            return None;
        }
        // What is missing of an area that was cut off reads as zeroes.
        let mut bytes = vec![0; MOST_AREA_SIZE as usize];
        read_up_to(file, &mut bytes, start);
        let index =
            IndexBlock::decode(&bytes, 0).or_else(|_| IndexBlock::decode(&bytes, 1)).ok()?;
        let labels = u64::from(index.nslot) * index.version.label_size();
        let area = (2 * index.size + labels).next_multiple_of(PAGE).max(LEAST_AREA_SIZE);
        Some(StrayLabels { start, file_size: start + area })
    }
}

/// Reads as much of `into` as the file has; less after a failure.
fn read_up_to(file: &File, into: &mut [u8], start: u64) {
    let mut length = 0;
    while length < into.len() {
        match file.read_at(&mut into[length..], start + length as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => length += count,
        }
    }
}

/// Offset of the last page of a file of `size` bytes that is not in a hole.
fn last_stored(file: &File, size: u64) -> Option<u64> {
    let has_stored_from = |page: u64| {
        // The position of the file is of no importance: everything reads at offsets.
        match lseek(file, (page * PAGE).cast_signed(), Whence::SeekData) {
            Ok(_) => true,
            Err(errno) => errno != Errno::ENXIO,
        }
    };
    if !has_stored_from(0) {
        return None;
    }
    let (mut stored, mut hole) = (0, size.div_ceil(PAGE));
    while hole - stored > 1 {
        let middle = stored + (hole - stored) / 2;
        if has_stored_from(middle) { stored = middle } else { hole = middle }
    }
    Some(stored * PAGE)
}
