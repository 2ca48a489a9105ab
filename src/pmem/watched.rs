//! The table of memory that belongs to other processes and may become inaccessible, for the `SIGBUS`
//! handler.
//!
//! The table has no locks, because a signal handler reads it. A slot is taken before its range is
//! accessed, and released before the range is unmapped, so that the handler never mistakes other memory
//! for it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use libc::c_void;

/// Most ranges of the process.
const SLOTS: usize = 8192;

/// A range of addresses, in the table.
struct Slot {
    /// The slot has an owner, which may not have filled it in yet.
    is_taken: AtomicBool,
    /// First address; zero: there is no range.
    start: AtomicUsize,
    /// Address after the last.
    end: AtomicUsize,
    /// Page size of the memory that the range maps, in bytes.
    page: AtomicUsize,
    /// A page did not answer, and was replaced.
    is_broken: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        is_taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        is_broken: AtomicBool::new(false),
    }
}; SLOTS];

/// Slots from this number on have never been taken.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Number of pages that have been replaced. The owner of a range examines it only if this number has changed.
static REPLACED: AtomicU64 = AtomicU64::new(0);

/// Returns how many pages of all watched ranges have been replaced so far.
#[must_use]
pub(super) fn replaced() -> u64 {
    REPLACED.load(Ordering::Acquire)
}

/// A range that is watched, until dropped.
#[derive(Debug)]
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches `length` bytes at `start`, of memory in pages of `page` bytes. Returns `None` if as many
    /// ranges are watched as there can be.
    pub(super) fn new(start: *const u8, length: usize, page: usize) -> Option<Watch> {
        let free = |slot: &Slot| !slot.is_taken.swap(true, Ordering::AcqRel);
        let number = TABLE.iter().position(free)?;
        USED.fetch_max(number + 1, Ordering::AcqRel);
        let slot = &TABLE[number];
        slot.end.store(start.addr() + length, Ordering::Relaxed);
        slot.page.store(page, Ordering::Relaxed);
        slot.is_broken.store(false, Ordering::Relaxed);
        slot.start.store(start.addr(), Ordering::Release);
        Some(Watch { slot: number })
    }

    /// Returns whether a page of the range did not answer.
    pub(super) fn is_broken(&self) -> bool {
        TABLE[self.slot].is_broken.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let slot = &TABLE[self.slot];
        slot.start.store(0, Ordering::Release);
        slot.is_taken.store(false, Ordering::Release);
    }
}

/// Puts a page of zeroes in the place of the one at `address`, if that is in a watched range. Returns
/// whether it has. For the handler of `SIGBUS`: takes no lock, allocates nothing, and leaves `errno`.
pub(super) fn replace_page(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire);
    let holds = |slot: &&Slot| {
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && (start..slot.end.load(Ordering::Relaxed)).contains(&address)
    };
    let Some(slot) = TABLE[..used].iter().find(holds) else { return false };
    let page = slot.page.load(Ordering::Relaxed);
    let is_replaced = map_zeroes(address - address % page, page);
    if is_replaced {
        slot.is_broken.store(true, Ordering::Release);
        REPLACED.fetch_add(1, Ordering::AcqRel);
    }
    is_replaced
}

fn map_zeroes(start: usize, length: usize) -> bool {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let place = std::ptr::without_provenance_mut::<c_void>(start);
    // SAFETY: `errno` is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the page is in a range that is watched, and whose owner keeps it mapped while it
    // is accessed; the page that was there does not answer, so that nothing is lost with it.
    let mapped = unsafe { libc::mmap(place, length, access, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::sigbus;
    use super::*;

    const SIZE: usize = 4 * 4096;

    fn map(file: &File) -> *mut u8 {
        sigbus::install().unwrap();
        file.set_len(SIZE as u64).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), SIZE, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(mapped, libc::MAP_FAILED);
        mapped.cast()
    }

    fn unmap(start: *mut u8) {
        // SAFETY: this test's own mapping, which is not used any more.
        assert_eq!(unsafe { libc::munmap(start.cast(), SIZE) }, 0);
    }

    #[test]
    fn a_page_that_does_not_answer_reads_as_zeroes_and_breaks_its_range() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let (start, neighbour) = (map(&file), map(&other));
        let watch = Watch::new(start, SIZE, 4096).unwrap();
        let watched_too = Watch::new(neighbour, SIZE, 4096).unwrap();
        let before = replaced();
        // SAFETY: inside the mapping, which nothing else accesses.
        unsafe { start.write_volatile(7) };
        assert!(!watch.is_broken());
        file.set_len(4096).unwrap();
        // SAFETY: as above; the page does not answer, and is replaced.
        unsafe {
            assert_eq!(start.add(2 * 4096 + 5).read_volatile(), 0);
            start.add(3 * 4096).write_volatile(1);
            assert_eq!(start.add(3 * 4096).read_volatile(), 1);
            assert_eq!(start.read_volatile(), 7);
        }
        assert!(watch.is_broken() && !watched_too.is_broken());
        assert!(replaced() >= before + 2);
        drop((watch, watched_too));
        unmap(start);
        unmap(neighbour);
    }

    #[test]
    fn a_slot_that_is_given_back_is_as_new() {
        let file = tempfile::tempfile().unwrap();
        let start = map(&file);
        for _ in 0..2 * SLOTS {
            let watch = Watch::new(start, SIZE, 4096).unwrap();
            assert!(!watch.is_broken());
            TABLE[watch.slot].is_broken.store(true, Ordering::Relaxed);
        }
        unmap(start);
        assert!(!replace_page(start.addr()));
    }
}
