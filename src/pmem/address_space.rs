//! A range of the process's address space with a file mapped into it, aligned for huge pages.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc::c_void;
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, mmap_anonymous, msync, munmap};

use super::{MapError, PAGE, Protection};

/// Size of a huge page (a PMD entry): an address that is congruent with its file offset modulo this
/// can be mapped by one.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// `madvise`: copy a range into huge pages (Linux 6.1, `include/uapi/asm-generic/mman-common.h`). The `libc` crate has it
/// for some of the C libraries only.
const MADV_COLLAPSE: libc::c_int = 25;

/// How often to look for a better place when another thread has taken the one that was found.
const MOST_ATTEMPTS: usize = 8;

/// A mapping, unmapped when dropped.
#[derive(Debug)]
pub(super) struct AddressSpace {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the value is an address and a length, which nothing changes; what is done to the pages by the
// methods of several threads at once, the kernel orders.
unsafe impl Send for AddressSpace {}
// SAFETY: as above.
unsafe impl Sync for AddressSpace {}

/// What is mapped, and how.
struct Wanted<'a> {
    file: &'a File,
    /// Offset in the file.
    offset: i64,
    size: NonZeroUsize,
    access: ProtFlags,
    /// Where stores go, unless it is mapped with `MAP_SYNC`.
    sharing: MapFlags,
}

impl AddressSpace {
    /// Maps the bytes `range` of `file`, with `MAP_SYNC` if `try_sync` and the kernel grants it:
    /// the second value tells.
    pub(super) fn map(
        file: &File,
        range: Range<u64>,
        protection: Protection,
        try_sync: bool,
    ) -> Result<(AddressSpace, bool), MapError> {
        let fails = MapError::system("mmap");
        let wanted = Wanted::new(file, &range, protection, MapFlags::MAP_SHARED);
        wanted.and_then(|wanted| wanted.map(try_sync)).map_err(fails)
    }

    /// Maps the bytes `range` of `file`, and keeps from the file what is stored to them.
    pub(super) fn map_private(file: &File, range: &Range<u64>) -> Result<AddressSpace, MapError> {
        // Without a reserve: only the pages that are stored to will ever need memory.
        let sharing = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let wanted = Wanted::new(file, range, Protection::ReadWrite, sharing);
        let mapped = wanted.and_then(|wanted| wanted.map(false));
        mapped.map(|(space, _)| space).map_err(MapError::system("mmap"))
    }

    /// Returns whether the page at `address`, which is inside the mapping, is in the page cache. The
    /// answer is out of date as soon as it is given.
    #[allow(clippy::unused_self, reason = "the page is mapped as long as the mapping is borrowed")]
    pub(super) fn is_resident(&self, address: *const u8) -> bool {
        let page = PAGE as usize;
        let offset = address.addr() - self.start.as_ptr().addr();
        let start = self.at((offset - offset % page) as u64);
        let mut resident = 0u8;
        // SAFETY: the page is mapped, and one byte is written for it.
        let called = unsafe { libc::mincore(start.cast(), page, &raw mut resident) };
        // Where the kernel does not say, the page may be.
        called != 0 || resident & 1 != 0
    }

    /// Which of the pages of `range` are in the page cache, one after another; none if the kernel does not say.
    /// The range begins on a page, and ends in the mapping. The answer is out of date as soon as it is given.
    pub(super) fn resident_pages(&self, range: &Range<u64>) -> Vec<bool> {
        let length = (range.end.min(self.length as u64)).saturating_sub(range.start) as usize;
        let mut resident = vec![0u8; length.div_ceil(PAGE as usize)];
        // SAFETY: the pages are mapped, and the vector has a byte for each.
        let called =
            unsafe { libc::mincore(self.at(range.start).cast(), length, resident.as_mut_ptr()) };
        if called != 0 {
            return Vec::new();
        }
        resident.into_iter().map(|byte| byte & 1 != 0).collect()
    }

    /// Gives `advice` of whole pages inside the mapping, which changes how they are mapped, and not what they
    /// hold.
    fn advise(&self, range: &Range<u64>, advice: libc::c_int) -> Result<(), Errno> {
        let length = range.end.min(self.length as u64).saturating_sub(range.start) as usize;
        // SAFETY: the callers give advice that leaves the contents of pages as they are, and the range is
        // inside the mapping.
        let called = unsafe { libc::madvise(self.at(range.start).cast(), length, advice) };
        Errno::result(called).map(drop)
    }

    /// Fills the page tables of a range for reading, as if each of its pages had been read.
    pub(super) fn populate(&self, range: &Range<u64>) -> Result<(), Errno> {
        self.advise(range, libc::MADV_POPULATE_READ)
    }

    /// Has a range, which is a multiple of a huge page, mapped by huge pages, into which its pages are copied.
    pub(super) fn collapse(&self, range: &Range<u64>) -> Result<(), Errno> {
        self.advise(range, MADV_COLLAPSE)
    }

    /// Says that pages are not accessed in their order: the kernel reads nothing ahead, and keeps single pages.
    pub(super) fn expect_random_access(&self) -> Result<(), Errno> {
        self.advise(&(0..self.length as u64), libc::MADV_RANDOM)
    }

    /// Begins to read the pages that hold `length` bytes at `address`, which are inside the mapping. Only a hint.
    pub(super) fn fetch(&self, address: *mut u8, length: usize) {
        let offset = (address.addr() - self.start.as_ptr().addr()) as u64;
        let start = offset - offset % PAGE;
        let _ = self.advise(&(start..offset + length as u64), libc::MADV_WILLNEED);
    }

    /// Syncs the pages that hold `length` bytes at `address`, which are inside the mapping: fdatasync of a part of
    /// the file, by its open file description that is mapped (`msync` in `mm/msync.c`).
    pub(super) fn sync(&self, address: *mut u8, length: u64) -> Result<(), Errno> {
        let offset = address.addr() - self.start.as_ptr().addr();
        let into_page = offset % PAGE as usize;
        let start = self.start.as_ptr().cast::<u8>().wrapping_add(offset - into_page);
        let start = NonNull::new(start.cast()).ok_or(Errno::EINVAL)?;
        // SAFETY: the pages are mapped, and a sync changes nothing in memory.
        unsafe { msync(start, into_page + length as usize, MsFlags::MS_SYNC) }
    }

    /// Address of the byte at `offset` of the mapping.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        self.start.as_ptr().cast::<u8>().wrapping_add(offset as usize)
    }
}

impl<'a> Wanted<'a> {
    fn new(
        file: &'a File,
        range: &Range<u64>,
        protection: Protection,
        sharing: MapFlags,
    ) -> Result<Wanted<'a>, Errno> {
        let size = usize::try_from(range.end - range.start).map_err(|_| Errno::ENOMEM)?;
        let size = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(range.start).map_err(|_| Errno::EOVERFLOW)?;
        let access = match protection {
            Protection::ReadOnly => ProtFlags::PROT_READ,
            Protection::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        Ok(Wanted { file, offset, size, access, sharing })
    }

    /// Maps it where huge pages fit, or else anywhere.
    ///
    /// Never over anything, not even over a reservation of our own: a mapping that is refused, as one
    /// with `MAP_SYNC` may be, takes away what was in its place before. Another thread could put
    /// something there in that moment, and lose it to our next attempt.
    fn map(&self, mut sync: bool) -> Result<(AddressSpace, bool), Errno> {
        let mut attempts = 0;
        loop {
            let place = self.find_room()?;
            match self.map_near(place, sync) {
                Err(errno) if sync && is_refusal_of_sync(errno) => sync = false,
                Err(errno) => return Err(errno),
                Ok(space) if space.start.addr() == place => return Ok((space, sync)),
                // Another thread was faster. The mapping is removed, unless every attempt ends this way.
                Ok(space) if attempts == MOST_ATTEMPTS => return Ok((space, sync)),
                Ok(_) => attempts += 1,
            }
        }
    }

    /// An address at which huge pages fit, where nothing was mapped a moment ago.
    fn find_room(&self) -> Result<NonZeroUsize, Errno> {
        let length = self.size.checked_add(HUGE_PAGE).ok_or(Errno::ENOMEM)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new inaccessible mapping at an address of the kernel's choice disturbs nothing.
        let room = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, flags)? };
        // SAFETY: this function has made the mapping, and nothing else refers to it.
        unsafe { munmap(room, length.get())? };
        let into_huge_page = self.offset.cast_unsigned() as usize % HUGE_PAGE;
        let skip = into_huge_page.wrapping_sub(room.addr().get()) % HUGE_PAGE;
        room.addr().checked_add(skip).ok_or(Errno::ENOMEM)
    }

    /// Maps it at `place`, or where the kernel likes if something is there.
    ///
    /// The place is a hint: `MAP_FIXED_NOREPLACE` would be refused together with `MAP_SYNC`.
    fn map_near(&self, place: NonZeroUsize, sync: bool) -> Result<AddressSpace, Errno> {
        let flags =
            if sync { MapFlags::MAP_SHARED_VALIDATE | MapFlags::MAP_SYNC } else { self.sharing };
        // SAFETY: a new mapping that replaces none disturbs nothing.
        let start =
            unsafe { mmap(Some(place), self.size, self.access, flags, self.file, self.offset)? };
        Ok(AddressSpace { start, length: self.size.get() })
    }
}

/// Returns whether a mapping with `MAP_SYNC` may have failed because of it: the file is not DAX, or the kernel
/// does not know the flag.
fn is_refusal_of_sync(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EINVAL)
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the value that hands out addresses into it is gone. An
        // error would mean that it is not mapped, which needs no undoing.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Threads that map and unmap memory all the while, as any thread's allocator does, are not
    /// mapped over, and do not unmap what is not theirs.
    #[test]
    fn mapping_leaves_the_memory_of_other_threads_alone() {
        const SIZE: usize = 24 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let done = AtomicBool::new(false);
        let allocate = || {
            let size = NonZeroUsize::new(SIZE).unwrap();
            let (access, flags) =
                (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
            while !done.load(Ordering::Relaxed) {
                // SAFETY: a new mapping, which this thread alone writes and reads, and then unmaps.
                unsafe {
                    let memory = mmap_anonymous(None, size, access, flags).unwrap();
                    let last = memory.cast::<u8>().byte_add(SIZE - 1);
                    last.write_volatile(7);
                    assert_eq!(last.read_volatile(), 7);
                    munmap(memory, SIZE).unwrap();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(allocate);
            scope.spawn(allocate);
            for _ in 0..20_000 {
                let protection = Protection::ReadOnly;
                let (space, _) = AddressSpace::map(&file, 0..32 << 20, protection, true).unwrap();
                for offset in [0, (32 << 20) - 1] {
                    // SAFETY: inside the mapping, to which nothing else refers.
                    assert_eq!(unsafe { space.at(offset).read_volatile() }, 0);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn mappings_are_laid_out_for_huge_pages() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        for start in [0, 4096, 3 << 20] {
            let range = start..start + (8 << 20);
            let (space, _) = AddressSpace::map(&file, range, Protection::ReadOnly, true).unwrap();
            assert_eq!(space.at(0).addr() % HUGE_PAGE, start as usize % HUGE_PAGE);
        }
    }
}
