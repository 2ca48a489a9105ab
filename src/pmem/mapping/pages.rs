//! The page tables of a mapping, filled ahead of its accesses.
//!
//! The first access to each page of a mapping faults, which costs more than the access. Filling the page
//! tables beforehand saves that, as far as the pages are in the page cache: whatever is not there is left
//! alone. A page of a hole would be allocated on tmpfs, and reading pages from a disk that no request asks for
//! would push others out of memory. A page that is given back to the file system in the moment between may be
//! allocated again.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::super::PAGE;
use super::super::address_space::{AddressSpace, HUGE_PAGE};

/// Bytes that one huge page maps.
const HUGE: u64 = HUGE_PAGE as u64;

/// The page tables of a mapping of the page cache. The mapping ends with the medium, and not with this.
#[derive(Debug)]
pub struct Pages {
    file: Weak<File>,
    space: Weak<AddressSpace>,
    /// Offset in the file of the mapping's first byte.
    file_offset: u64,
    size: u64,
}

/// The pages of a part of a mapping that are in the page cache, which stays mapped as long as this exists.
#[derive(Debug)]
pub struct Resident {
    space: Arc<AddressSpace>,
    range: Range<u64>,
    pages: Vec<bool>,
}

/// What came of mapping a part by a huge page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    /// It is mapped by one.
    Huge,
    /// Not now: pages of it are missing or in use, or there is no memory in one piece.
    NotNow,
    /// The kernel has none for this file.
    Refused(Errno),
}

impl Pages {
    pub(super) fn new(
        file: &Arc<File>,
        space: &Arc<AddressSpace>,
        file_offset: u64,
        size: u64,
    ) -> Pages {
        let (file, space) = (Arc::downgrade(file), Arc::downgrade(space));
        Pages { file, space, file_offset, size }
    }

    /// Returns whether the medium is still there.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.space.strong_count() > 0
    }

    /// The next part with data, from `offset` on: a huge page, or what there is of one at either end. `None`:
    /// there is no more, or the medium is gone.
    #[must_use]
    pub fn next_part(&self, offset: u64) -> Option<Range<u64>> {
        let file = self.file.upgrade()?;
        if offset >= self.size {
            return None;
        }
        let position = (self.file_offset + offset).cast_signed();
        let stored = match lseek(file.as_fd(), position, Whence::SeekData) {
            Ok(stored) => stored.cast_unsigned(),
            Err(Errno::ENXIO) => return None,
            // The file system does not tell holes from data.
            Err(_) => position.cast_unsigned(),
        };
        let start = (stored - stored % HUGE).max(self.file_offset + offset) - self.file_offset;
        let end = (stored - stored % HUGE + HUGE - self.file_offset).min(self.size);
        (start < end).then_some(start..end)
    }

    /// The pages of a part that are in memory. `None`: the medium is gone.
    #[must_use]
    pub fn resident(&self, part: Range<u64>) -> Option<Resident> {
        let space = self.space.upgrade()?;
        let pages = space.resident_pages(&part);
        Some(Resident { space, range: part, pages })
    }

    /// Returns whether a part can be mapped by a huge page: it is as long as one, and begins where one begins.
    #[must_use]
    pub fn is_huge(&self, part: &Range<u64>) -> bool {
        part.end - part.start == HUGE && (self.file_offset + part.start).is_multiple_of(HUGE)
    }
}

impl Resident {
    /// Number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages.iter().filter(|resident| **resident).count() as u64 * PAGE
    }

    /// Fills the page tables for these pages, and for no others.
    ///
    /// # Errors
    ///
    /// The kernel cannot do so, as Linux before 5.14, or a page went bad.
    pub fn populate(&self) -> Result<(), Errno> {
        let mut page = 0;
        for run in self.pages.chunk_by(|one, next| one == next) {
            let start = self.range.start + page * PAGE;
            page += run.len() as u64;
            if run.first() == Some(&true) {
                self.space.populate(&(start..self.range.start + page * PAGE))?;
            }
        }
        Ok(())
    }

    /// Has the part mapped by a huge page, if no page of it is missing: the kernel would allocate those that are.
    /// The part [can be](Pages::is_huge).
    #[must_use]
    pub fn collapse(&self) -> Collapse {
        if self.bytes() < HUGE {
            return Collapse::NotNow;
        }
        match self.space.collapse(&self.range) {
            Ok(()) => Collapse::Huge,
            Err(errno @ (Errno::EINVAL | Errno::ENOSYS | Errno::EPERM)) => Collapse::Refused(errno),
            Err(_) => Collapse::NotNow,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::super::{DurabilityRequest, Mapping, Protection};
    use super::*;

    fn map(file: &File, range: Range<u64>) -> Mapping {
        let (file, request) = (file.try_clone().unwrap(), DurabilityRequest::PageCache);
        Mapping::new(file, range, Protection::ReadWrite, request).unwrap()
    }

    /// Fills all of `pages`, and returns how many bytes were there and how many are mapped by huge pages.
    fn fill(pages: &Pages) -> (u64, u64) {
        let (mut offset, mut bytes, mut huge) = (0, 0, 0);
        while let Some(part) = pages.next_part(offset) {
            let resident = pages.resident(part.clone()).unwrap();
            resident.populate().unwrap();
            bytes += resident.bytes();
            if pages.is_huge(&part) && resident.collapse() == Collapse::Huge {
                huge += HUGE;
            }
            assert!(part.end > offset);
            offset = part.end;
        }
        (bytes, huge)
    }

    /// A file of 16 MiB: 6 MiB of data from 1 MiB on, and a page at 9 MiB.
    fn make(file: &File) {
        file.set_len(16 << 20).unwrap();
        let data: Vec<u8> = (0..6 << 20).map(|at: u32| (at >> 12) as u8 % 128 + 1).collect();
        file.write_all_at(&data, 1 << 20).unwrap();
        file.write_all_at(&[7; 4096], 9 << 20).unwrap();
    }

    #[test]
    fn what_is_in_memory_is_filled_and_holes_allocate_nothing() {
        for folder in ["/dev/shm", "."] {
            let Ok(file) = tempfile::tempfile_in(folder) else { continue };
            make(&file);
            file.sync_all().unwrap();
            let before = file.metadata().unwrap().blocks();
            for start in [0, 4096, 1 << 20] {
                let mapping = map(&file, start..16 << 20);
                let (bytes, huge) = fill(&mapping.pages().unwrap());
                assert_eq!(bytes, (6 << 20) + 4096, "{folder} {start}");
                // Two whole huge pages, from 2 to 6 MiB, where the kernel has them for such files.
                assert!(huge <= 4 << 20, "{folder} {start} {huge}");
                assert_eq!(file.metadata().unwrap().blocks(), before, "{folder} {start}");
            }
            let mut page = [0; 4096];
            for (at, value) in [(0, 0), (1 << 20, 1), (3 << 20, 1), (9 << 20, 7), (12 << 20, 0)] {
                file.read_exact_at(&mut page, at).unwrap();
                assert_eq!(page[0], value, "{folder} {at}");
            }
        }
    }

    #[test]
    fn the_mapping_ends_with_the_medium() {
        let file = tempfile::tempfile().unwrap();
        make(&file);
        let mapping = map(&file, 0..16 << 20);
        let pages = mapping.pages().unwrap();
        assert!(pages.is_mapped());
        drop(mapping);
        assert!(!pages.is_mapped());
        assert_eq!(pages.next_part(0), None);
        assert!(pages.resident(0..4096).is_none());
    }

    #[test]
    fn parts_are_huge_pages_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&vec![1; 8 << 20], 0).unwrap();
        let mapping = map(&file, 4096..(7 << 20) + 512);
        let pages = mapping.pages().unwrap();
        let parts = std::iter::successors(pages.next_part(0), |part| pages.next_part(part.end));
        let (mega, page) = (1 << 20, 4096);
        let expected = [
            (0..2 * mega - page, false),
            (2 * mega - page..4 * mega - page, true),
            (4 * mega - page..6 * mega - page, true),
            (6 * mega - page..7 * mega + 512 - page, false),
        ];
        let parts: Vec<_> = parts.map(|part| (part.clone(), pages.is_huge(&part))).collect();
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_medium_that_is_only_read_is_left_alone() {
        let file = tempfile::tempfile().unwrap();
        make(&file);
        let request = DurabilityRequest::PageCache;
        let mapping = Mapping::new(file, 0..16 << 20, Protection::ReadOnly, request).unwrap();
        assert!(mapping.pages().is_none());
    }
}
