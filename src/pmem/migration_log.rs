//! Records which pages of guest memory the device has written, while a migration copies them.
//!
//! The frontend shares a bitmap with a bit for each 4096 bytes of guest-physical addresses, and reads and
//! clears it while the guest runs. A bit is set after the write that it stands for: a page whose bit is
//! cleared before it is copied is either copied with the write, or has its bit set again.
//!
//! The log is the `Bitmap` of guest memory in the sense of `vm-memory`, so every store through a slice of a
//! [`GuestRegion`](super::GuestRegion) takes part. While there is no migration, a store costs one test of an
//! atomic more.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::{MmapRegion, VolatileMemory};

use super::guest_region::{GuestRegionError, map_watched};
use super::watched::Watch;

/// Bytes of guest memory that a bit stands for (vhost-user, "Migration").
const LOG_PAGE: u64 = 4096;

/// The frontend's bitmap.
#[derive(Debug)]
pub struct LogBitmap {
    /// Dropped first, as of a region of guest memory.
    watch: Watch,
    bytes: MmapRegion,
}

impl LogBitmap {
    /// Maps the bitmap of `size` bytes at byte `offset` of `file`.
    ///
    /// # Errors
    ///
    /// The file is shorter, or the kernel refuses.
    pub fn map(file: File, offset: u64, size: u64) -> Result<LogBitmap, GuestRegionError> {
        let (watch, bytes) = map_watched(file, offset, size)?;
        Ok(LogBitmap { watch, bytes })
    }

    /// Returns whether it has a bit for each page below guest-physical address `end`.
    #[must_use]
    pub fn covers(&self, end: u64) -> bool {
        end.div_ceil(LOG_PAGE).div_ceil(8) <= self.bytes.size() as u64
    }

    fn byte(&self, page: u64) -> Option<(&AtomicU8, u8)> {
        let byte = self.bytes.get_atomic_ref((page / 8) as usize).ok()?;
        Some((byte, 1 << (page % 8)))
    }

    /// Sets the bits of `length` bytes at `address`; a page beyond the bitmap has none.
    fn set(&self, address: u64, length: u64) {
        let Some(last) = length.checked_sub(1) else { return };
        for page in address / LOG_PAGE..=address.saturating_add(last) / LOG_PAGE {
            let Some((byte, bit)) = self.byte(page) else { return };
            // Even where the bit is set already: a load could see it before the store to guest memory is
            // visible, and the frontend could clear it and copy the page in between.
            byte.fetch_or(bit, Ordering::AcqRel);
        }
    }

    fn is_set(&self, address: u64) -> bool {
        let place = self.byte(address / LOG_PAGE);
        place.is_some_and(|(byte, bit)| byte.load(Ordering::Acquire) & bit != 0)
    }
}

/// The log of the guest memory of one session.
#[derive(Debug, Default)]
pub struct MigrationLog {
    /// Stores are recorded: there is a bitmap, and the frontend has asked for it.
    is_on: AtomicBool,
    /// The bits of one store are set under this lock.
    bitmap: RwLock<Option<LogBitmap>>,
}

impl MigrationLog {
    /// Records in `bitmap` from now on, once it is [switched on](Self::switch). When this returns, no bit is
    /// set in the one before any more.
    pub fn replace(&self, bitmap: LogBitmap) {
        let mut place = self.bitmap.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(bitmap);
    }

    /// Switches it on or off; without a bitmap it stays off. Returns whether it is on. Stores that are under way
    /// may not take notice: the caller waits for them.
    pub fn switch(&self, is_wanted: bool) -> bool {
        let is_on = is_wanted && self.with_bitmap(|_| ()).is_some();
        self.is_on.store(is_on, Ordering::SeqCst);
        is_on
    }

    /// Returns whether stores are recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Returns whether the bitmap has a bit for each page below guest-physical address `end`.
    #[must_use]
    pub fn covers(&self, end: u64) -> bool {
        self.with_bitmap(|bitmap| bitmap.covers(end)).unwrap_or(false)
    }

    /// Returns whether a part of the bitmap did not answer.
    #[must_use]
    pub(super) fn is_broken(&self) -> bool {
        self.with_bitmap(|bitmap| bitmap.watch.is_broken()).unwrap_or(false)
    }

    fn with_bitmap<R>(&self, act: impl FnOnce(&LogBitmap) -> R) -> Option<R> {
        self.bitmap.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    #[inline]
    fn record(&self, address: u64, length: usize) {
        if self.is_on() {
            self.record_now(address, length);
        }
    }

    #[cold]
    fn record_now(&self, address: u64, length: usize) {
        self.with_bitmap(|bitmap| bitmap.set(address, length as u64));
    }
}

/// The log, from guest-physical address `start` on.
#[derive(Debug, Default)]
pub struct RegionLog {
    pub(super) log: Arc<MigrationLog>,
    pub(super) start: u64,
}

/// As [`RegionLog`], for a slice of guest memory.
#[derive(Debug, Clone, Copy)]
pub struct SliceLog<'a> {
    log: &'a MigrationLog,
    start: u64,
}

impl<'a> WithBitmapSlice<'a> for RegionLog {
    type S = SliceLog<'a>;
}

impl Bitmap for RegionLog {
    #[inline]
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.slice_at(0).mark_dirty(offset, length);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.slice_at(0).dirty_at(offset)
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> SliceLog<'_> {
        SliceLog { log: &self.log, start: self.start.wrapping_add(offset as u64) }
    }
}

impl WithBitmapSlice<'_> for SliceLog<'_> {
    type S = Self;
}

impl BitmapSlice for SliceLog<'_> {}

impl Bitmap for SliceLog<'_> {
    #[inline]
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.log.record(self.start.wrapping_add(offset as u64), length);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let address = self.start.wrapping_add(offset as u64);
        self.log.with_bitmap(|bitmap| bitmap.is_set(address)).unwrap_or(false)
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> Self {
        SliceLog { start: self.start.wrapping_add(offset as u64), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::Ordering;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryRegion, MemoryRegionAddress};

    use super::super::GuestRegion;
    use super::*;

    fn bitmap(size: u64) -> (File, LogBitmap) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let bitmap = LogBitmap::map(file.try_clone().unwrap(), 0, size).unwrap();
        (file, bitmap)
    }

    fn bits(file: &File) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// A region of eight pages from page 16 on.
    fn region(log: &Arc<MigrationLog>) -> GuestRegion {
        GuestRegion::anonymous(GuestAddress(0x1_0000), 0x8000).unwrap().logged_by(log)
    }

    #[test]
    fn each_kind_of_store_sets_the_bits_of_its_pages() {
        let log: Arc<MigrationLog> = Arc::default();
        let region = region(&log);
        let (file, bitmap) = bitmap(4096);
        log.replace(bitmap);
        assert!(log.switch(true));
        assert_eq!(bits(&file), 0);
        region.write_slice(&[1; 2], MemoryRegionAddress(0xfff)).unwrap();
        assert_eq!(bits(&file), 0b11 << 16);
        region.store(1u16, MemoryRegionAddress(0x2ffe), Ordering::Release).unwrap();
        assert_eq!(bits(&file), 0b111 << 16);
        region.array::<u64>(0x3ff8, 2).unwrap().store(1, 7);
        assert_eq!(bits(&file), 0b1_0111 << 16);
        region.write_obj(7u32, MemoryRegionAddress(0x5000)).unwrap();
        let slice = region.get_slice(MemoryRegionAddress(0x6ff0), 0x1010).unwrap();
        slice.subslice(0x10, 0x1000).unwrap().copy_from(&[1u8; 0x1000]);
        assert_eq!(bits(&file), 0b1011_0111 << 16);
        assert!(region.bitmap().dirty_at(0) && !region.bitmap().dirty_at(0x3000));
        // Loads set none.
        region.read_obj::<u64>(MemoryRegionAddress(0x3000)).unwrap();
        assert_eq!(bits(&file), 0b1011_0111 << 16);
    }

    #[test]
    fn nothing_is_recorded_before_it_is_switched_on_or_after_it_is_switched_off() {
        let log: Arc<MigrationLog> = Arc::default();
        let region = region(&log);
        let store = || region.write_obj(1u8, MemoryRegionAddress(0)).unwrap();
        assert!(!log.switch(true));
        store();
        let (first, bitmap_of_first) = bitmap(4096);
        log.replace(bitmap_of_first);
        store();
        assert!(log.switch(true));
        let (second, bitmap_of_second) = bitmap(4096);
        log.replace(bitmap_of_second);
        store();
        assert_eq!((bits(&first), bits(&second)), (0, 1 << 16));
        second.write_all_at(&[0; 8], 0).unwrap();
        assert!(!log.switch(false));
        store();
        assert_eq!((bits(&first), bits(&second)), (0, 0));
    }

    #[test]
    fn pages_beyond_the_bitmap_are_known_and_have_no_bit() {
        let (file, bitmap) = bitmap(3);
        assert!(bitmap.covers(0) && bitmap.covers(24 * 4096) && !bitmap.covers(24 * 4096 + 1));
        bitmap.set(23 * 4096, 8192);
        bitmap.set(u64::MAX - 1, 4096);
        bitmap.set(0, 0);
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0, 0, 0x80]);
    }

    #[test]
    fn a_bitmap_that_is_none_is_refused_and_one_that_shrinks_breaks_its_regions() {
        let (file, _) = bitmap(8192);
        let map = |offset, size| LogBitmap::map(file.try_clone().unwrap(), offset, size);
        for (offset, size) in [(0, 8193), (4096, 8192), (u64::MAX, 2), (0, u64::MAX)] {
            assert!(matches!(map(offset, size), Err(GuestRegionError::BeyondFile { .. })));
        }
        for (offset, size) in [(0, 0), (1, 4096)] {
            assert!(matches!(map(offset, size), Err(GuestRegionError::Map(_))), "{offset} {size}");
        }
        let log: Arc<MigrationLog> = Arc::default();
        let region = region(&log);
        log.replace(map(0, 8192).unwrap());
        log.switch(true);
        file.set_len(0).unwrap();
        assert!(!region.is_broken());
        region.write_obj(1u8, MemoryRegionAddress(0)).unwrap();
        assert!(region.is_broken());
    }
}
