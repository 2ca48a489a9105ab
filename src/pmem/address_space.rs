//! A piece of our address space with a file mapped into it, laid out for huge pages.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::{MapError, Protection};

/// Size of a huge page (a PMD entry): an address that is congruent with its file offset modulo this
/// can be mapped by one.
const HUGE_PAGE: usize = 2 << 20;

/// A reservation of address space, unmapped when dropped.
#[derive(Debug)]
pub(super) struct AddressSpace {
    start: NonNull<c_void>,
    length: usize,
    /// First byte of the file's mapping inside the reservation.
    mapped: NonNull<c_void>,
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
        let size = size_of(&range).map_err(&fails)?;
        let space = AddressSpace::reserve(size, range.start).map_err(&fails)?;
        let place = |sharing| space.place(file, &range, size, protection, sharing);
        let is_sync = try_sync
            && match place(MapFlags::MAP_SHARED_VALIDATE | MapFlags::MAP_SYNC) {
                Ok(()) => true,
                Err(Errno::EOPNOTSUPP | Errno::EINVAL) => false,
                Err(errno) => return Err(fails(errno)),
            };
        if !is_sync {
            place(MapFlags::MAP_SHARED).map_err(&fails)?;
        }
        Ok((space, is_sync))
    }

    /// Maps the bytes `range` of `file`, and keeps from the file what is stored to them.
    #[cfg(feature = "power-fail")]
    pub(super) fn map_private(file: &File, range: Range<u64>) -> Result<AddressSpace, MapError> {
        let fails = MapError::system("mmap");
        let size = size_of(&range).map_err(&fails)?;
        let space = AddressSpace::reserve(size, range.start).map_err(&fails)?;
        // Without a reserve: only the pages that are stored to will ever need memory.
        let sharing = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        space.place(file, &range, size, Protection::ReadWrite, sharing).map_err(&fails)?;
        Ok(space)
    }

    /// Address of the byte at `offset` of the mapping.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        self.mapped.as_ptr().cast::<u8>().wrapping_add(offset as usize)
    }

    /// Reserves room for `size` bytes that start at file offset `start`.
    fn reserve(size: NonZeroUsize, start: u64) -> Result<AddressSpace, Errno> {
        let length = size.checked_add(HUGE_PAGE).ok_or(Errno::ENOMEM)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new inaccessible mapping at an address of the kernel's choice disturbs nothing.
        let reserved = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, flags)? };
        let into_huge_page = (start % HUGE_PAGE as u64) as usize;
        let skip = into_huge_page.wrapping_sub(reserved.addr().get()) % HUGE_PAGE;
        // SAFETY: skip is less than the huge page that was added to the reservation.
        let mapped = unsafe { reserved.byte_add(skip) };
        Ok(AddressSpace { start: reserved, length: length.get(), mapped })
    }

    /// Puts the file's mapping in its place.
    fn place(
        &self,
        file: &File,
        range: &Range<u64>,
        size: NonZeroUsize,
        protection: Protection,
        sharing: MapFlags,
    ) -> Result<(), Errno> {
        let access = match protection {
            Protection::ReadOnly => ProtFlags::PROT_READ,
            Protection::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let offset = i64::try_from(range.start).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: MAP_FIXED replaces only pages of our own reservation, which nobody points to yet.
        let placed = unsafe {
            mmap(
                Some(self.mapped.addr()),
                size,
                access,
                sharing | MapFlags::MAP_FIXED,
                file,
                offset,
            )
        };
        placed.map(drop)
    }
}

/// Bytes of a mapping of `range`, which is not empty.
fn size_of(range: &Range<u64>) -> Result<NonZeroUsize, Errno> {
    let size = usize::try_from(range.end - range.start).map_err(|_| Errno::ENOMEM)?;
    NonZeroUsize::new(size).ok_or(Errno::EINVAL)
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and the value that hands out addresses into it is gone.
        // An error would mean that it is not mapped, which needs no undoing.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}
