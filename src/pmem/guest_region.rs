//! A region of guest memory: a mapping of a part of a file that the frontend owns.
//!
//! The frontend can truncate the file at any time, and a file system of huge pages can run out of pages.
//! An access to a missing page reads zeroes and marks the region as broken (see [`sigbus`](super)); the
//! session then has to end the connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::guest_memory::Result as GuestMemoryResult;
use vm_memory::mmap::{GuestRegionMmap, MmapRegionError};
use vm_memory::{
    ByteValued, FileOffset, GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize,
    MemoryRegionAddress, MmapRegion, VolatileArrayRef, VolatileSlice,
};

use super::migration_log::{MigrationLog, RegionLog, SliceLog};
use super::sigbus;
use super::watched::{self, Watch};

/// `f_type` of a huge page file system (`linux/magic.h`).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Why a region cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum GuestRegionError {
    /// The file ends before the region does.
    #[error(
        "{length} bytes at offset {offset:#x} of a file of {size} bytes: the region ends beyond the file"
    )]
    BeyondFile {
        /// Byte offset in the file.
        offset: u64,
        /// Bytes of the region.
        length: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// The region is empty, or does not fit into the guest's address space.
    #[error("{length} bytes at guest address {address:#x} are no region of guest memory")]
    Range {
        /// First guest-physical address.
        address: u64,
        /// Bytes of the region.
        length: u64,
    },
    /// As many regions are mapped as there can be.
    #[error("too many regions of guest memory are mapped in this process")]
    TooMany,
    /// What is known of the file cannot be found out.
    #[error("the file of a region of guest memory")]
    File(#[source] io::Error),
    /// The file cannot be mapped.
    #[error("cannot map a region of guest memory")]
    Map(#[source] MmapRegionError),
}

/// A region of guest memory.
#[derive(Debug)]
pub struct GuestRegion {
    /// Dropped first: the range is not watched any more when it is unmapped.
    watch: Watch,
    region: GuestRegionMmap<()>,
    log: RegionLog,
}

/// A part of guest memory that lies together in host memory; what is stored through it is logged.
pub type GuestSlice<'a> = VolatileSlice<'a, SliceLog<'a>>;

impl GuestRegion {
    /// Maps `length` bytes at byte `offset` of `file`, which the guest has at guest-physical `address`.
    ///
    /// # Errors
    ///
    /// The file is shorter, the addresses are none, or the kernel refuses.
    pub fn map(
        file: File,
        offset: u64,
        address: GuestAddress,
        length: u64,
    ) -> Result<GuestRegion, GuestRegionError> {
        let (watch, mapped) = map_watched(file, offset, length)?;
        GuestRegion::new(watch, mapped, address)
    }

    /// A region of memory of our own, of zeroes.
    ///
    /// # Errors
    ///
    /// As of [`map`](Self::map).
    pub fn anonymous(
        address: GuestAddress,
        length: usize,
    ) -> Result<GuestRegion, GuestRegionError> {
        let mapped = MmapRegion::new(length).map_err(GuestRegionError::Map)?;
        GuestRegion::new(watch(&mapped, super::PAGE as usize)?, mapped, address)
    }

    fn new(
        watch: Watch,
        mapped: MmapRegion,
        address: GuestAddress,
    ) -> Result<GuestRegion, GuestRegionError> {
        let range = GuestRegionError::Range { address: address.0, length: mapped.size() as u64 };
        let region = GuestRegionMmap::new(mapped, address).ok_or(range)?;
        let log = RegionLog { start: address.0, ..RegionLog::default() };
        Ok(GuestRegion { watch, region, log })
    }

    /// The region, whose stores are recorded by `log`.
    #[must_use]
    pub fn logged_by(self, log: &Arc<MigrationLog>) -> GuestRegion {
        let log = RegionLog { log: log.clone(), ..self.log };
        GuestRegion { log, ..self }
    }

    /// `length` objects at byte `offset`, if they are inside the region.
    #[inline]
    #[must_use]
    pub fn array<T: ByteValued>(
        &self,
        offset: u64,
        length: usize,
    ) -> Option<VolatileArrayRef<'_, T, SliceLog<'_>>> {
        let bytes = length.checked_mul(size_of::<T>())?;
        let slice = self.get_slice(MemoryRegionAddress(offset), bytes).ok()?;
        let (start, bitmap) = (slice.ptr_guard_mut().as_ptr(), *slice.bitmap());
        // SAFETY: the slice has as many bytes as the objects, of any alignment, and lives as long.
        Some(unsafe { VolatileArrayRef::with_bitmap(start, length, bitmap, None) })
    }

    /// Returns whether a part of the region, or of the log of its stores, did not answer: what was read of
    /// it may be zeroes that the guest never stored, and what was written to it is lost.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.watch.is_broken() || self.log.log.is_broken()
    }
}

/// Has `copy` store to `slice`, as to any memory, and records that.
pub fn store_logged<R>(slice: &GuestSlice<'_>, copy: impl FnOnce(&VolatileSlice<'_>) -> R) -> R {
    let copied = copy(&unlogged(slice));
    // If it has failed, too: it may have stored some of it.
    slice.bitmap().mark_dirty(0, slice.len());
    copied
}

/// Has `copy` load from `slice`, as from any memory.
pub fn load_unlogged<R>(slice: &GuestSlice<'_>, copy: impl FnOnce(&VolatileSlice<'_>) -> R) -> R {
    copy(&unlogged(slice))
}

#[inline]
fn unlogged<'a>(slice: &GuestSlice<'a>) -> VolatileSlice<'a> {
    // SAFETY: the same memory, for as long.
    unsafe { VolatileSlice::new(slice.ptr_guard_mut().as_ptr(), slice.len()) }
}

/// Maps `length` bytes at byte `offset` of a file of the frontend, and watches them.
pub(super) fn map_watched(
    file: File,
    offset: u64,
    length: u64,
) -> Result<(Watch, MmapRegion), GuestRegionError> {
    check_file(&file, offset, length)?;
    let page = page_size(&file).map_err(GuestRegionError::File)?;
    let place = FileOffset::new(file, offset);
    let mapped = MmapRegion::from_file(place, length as usize).map_err(GuestRegionError::Map)?;
    Ok((watch(&mapped, page)?, mapped))
}

fn watch(mapped: &MmapRegion, page: usize) -> Result<Watch, GuestRegionError> {
    let installed = sigbus::install();
    installed.map_err(|errno| GuestRegionError::File(errno.into()))?;
    Watch::new(mapped.as_ptr(), mapped.size(), page).ok_or(GuestRegionError::TooMany)
}

/// Returns how many pages of guest memory did not answer so far, of all guests of the process: a region
/// can only be broken if this has changed.
#[must_use]
pub fn broken_pages() -> u64 {
    watched::replaced()
}

/// Refuses a region that is longer than its file: it would fault.
fn check_file(file: &File, offset: u64, length: u64) -> Result<(), GuestRegionError> {
    let metadata = file.metadata().map_err(GuestRegionError::File)?;
    // The size of device-DAX is not in its inode.
    if metadata.file_type().is_char_device() {
        return Ok(());
    }
    let size = metadata.len();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(GuestRegionError::BeyondFile { offset, length, size }),
    }
}

/// Returns the bytes of a page of the file's memory, which is replaced as a whole.
fn page_size(file: &File) -> io::Result<usize> {
    let stat = rustix::fs::fstatfs(file)?;
    let is_huge = stat.f_type.cast_unsigned() == HUGETLBFS_MAGIC;
    Ok(if is_huge { stat.f_bsize.cast_unsigned() as usize } else { super::PAGE as usize })
}

impl GuestMemoryRegion for GuestRegion {
    type B = RegionLog;

    #[inline]
    fn len(&self) -> GuestUsize {
        self.region.len()
    }

    #[inline]
    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }

    #[inline]
    fn bitmap(&self) -> BS<'_, RegionLog> {
        self.log.slice_at(0)
    }

    #[inline]
    fn get_host_address(&self, address: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        self.region.get_host_address(address)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.region.file_offset()
    }

    #[inline]
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<GuestSlice<'_>> {
        let plain = GuestMemoryRegion::get_slice(&self.region, offset, count)?;
        let (start, bitmap) =
            (plain.ptr_guard_mut().as_ptr(), self.log.slice_at(offset.0 as usize));
        // SAFETY: the same memory as of `plain`, for as long.
        Ok(unsafe { VolatileSlice::with_bitmap(start, count, bitmap, None) })
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend, GuestRegionCollection};

    use super::*;

    fn file(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn a_region_longer_than_its_file_is_refused() {
        let map = |offset, length| GuestRegion::map(file(8192), offset, GuestAddress(0), length);
        assert!(map(0, 8192).is_ok() && map(4096, 4096).is_ok());
        for (offset, length) in [(0, 8193), (4096, 4097), (12288, 4096), (u64::MAX, 2)] {
            let refused = map(offset, length);
            assert!(matches!(refused, Err(GuestRegionError::BeyondFile { .. })), "{refused:?}");
        }
        let high = GuestRegion::map(file(8192), 0, GuestAddress(u64::MAX - 4096), 8192);
        assert!(matches!(high, Err(GuestRegionError::Range { .. })), "{high:?}");
        assert!(matches!(map(0, 0), Err(GuestRegionError::Map(_))));
    }

    #[test]
    fn memory_of_a_file_that_shrinks_reads_as_zeroes_and_is_broken() {
        let (file, other) = (file(8192), file(4096));
        let region = |file: &File, at, size| {
            let file = file.try_clone().unwrap();
            GuestRegion::map(file, 0, GuestAddress(at), size).unwrap()
        };
        let regions = vec![region(&file, 0, 8192), region(&other, 8192, 4096)];
        let memory = GuestRegionCollection::from_regions(regions).unwrap();
        memory.write_slice(&[1; 12288], GuestAddress(0)).unwrap();
        let before = broken_pages();
        file.set_len(4096).unwrap();
        let mut found = [0xee; 12288];
        memory.read_slice(&mut found, GuestAddress(0)).unwrap();
        assert!(found[..4096] == [1; 4096] && found[4096..8192] == [0; 4096]);
        assert!(found[8192..] == [1; 4096]);
        let broken: Vec<bool> = memory.iter().map(GuestRegion::is_broken).collect();
        assert_eq!(broken, [true, false]);
        assert!(broken_pages() > before);
    }
}
