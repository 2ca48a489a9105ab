//! A mapping of a range of a file: persistent memory of a real file.

use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use vm_memory::VolatileSlice;

mod access;
mod pages;

pub use pages::{Collapse, Pages, Resident};

use super::address_space::AddressSpace;
use super::backing::Mappable;
use super::cpu::{self, Fault, WriteBack};
use super::writeback::{Writeback, fdatasync};
use super::{
    Access, Backing, CACHE_LINE, Cause, Durability, DurabilityRequest, MapError, MediaError, PAGE,
    PersistentMemory, SharedFile, sigbus,
};

/// The shortest write that is streamed: below, the wait for the stream to drain is longer than a copy
/// through the cache takes.
const STREAMED: usize = 512;

thread_local! {
    /// True if this thread has streamed since its last fence, where a fence does not wait anyway.
    static HAS_STREAMED: Cell<bool> = const { Cell::new(false) };
}

/// The access that a mapping gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Loads only; every store fails with [`Cause::ReadOnly`].
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// A range of an NVDIMM file as [`PersistentMemory`].
#[derive(Debug)]
pub struct Mapping {
    file: Arc<File>,
    /// Keeps the range mapped.
    address_space: Arc<AddressSpace>,
    /// Address of the range's first byte.
    base: *mut u8,
    /// Offset of the range in the file.
    file_offset: u64,
    size: u64,
    protection: Protection,
    backing: Backing,
    durability: Durability,
    write_back: WriteBack,
    /// Shared by all mappings of the file.
    writeback: Arc<Writeback>,
    /// True if holes are not read through the mapping, which would give them pages of their own.
    spares_holes: bool,
    /// True if the kernel was asked to keep the file in single pages, and so reads nothing ahead.
    has_single_pages: bool,
    /// True if a read is more than a copy.
    reads_aside: bool,
    /// The first read that failed although the file system was asked, too.
    unread: OnceLock<MediaError>,
}

// SAFETY: the mapping lives until the value is dropped, and every access to it goes through the
// guarded functions of `cpu`, which are for concurrent use.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the bytes `range` of `file`; its start is a multiple of 4096.
    ///
    /// Tries `MAP_SYNC` first, unless page-cache durability is asked for: the kernel grants it where
    /// flushing the CPU caches makes a store durable.
    ///
    /// # Errors
    ///
    /// The range is empty, does not start on a page or ends beyond the file; the file is neither a
    /// regular file nor device-DAX; or the kernel refuses.
    pub fn new(
        file: File,
        range: Range<u64>,
        protection: Protection,
        request: DurabilityRequest,
    ) -> Result<Mapping, MapError> {
        sigbus::install().map_err(MapError::system("sigaction"))?;
        let mappable = Mappable::of(&file)?;
        check_range(&range, mappable.size)?;

        let writeback = Writeback::of(&file);
        let writeback = writeback.map_err(|source| MapError::System { call: "fstat", source })?;
        // Device-DAX maps whole pages of its own size only: map outwards, look inwards.
        let start = range.start - range.start % mappable.granule;
        let end =
            range.end.next_multiple_of(mappable.granule).min(mappable.size.next_multiple_of(PAGE));
        let (address_space, is_sync) = AddressSpace::map(
            &file,
            start..end,
            protection,
            request != DurabilityRequest::PageCache,
        )?;
        let backing = match (is_sync, mappable.is_device) {
            (_, true) => Backing::DeviceDax,
            (true, false) => Backing::FsDax,
            (false, false) => Backing::PageCache,
        };
        // The node of a device is in a file system of memory, too, and has no holes.
        let spares_holes = protection == Protection::ReadOnly
            && backing != Backing::DeviceDax
            && keeps_files_in_memory(&file);
        Ok(Mapping {
            base: address_space.at(range.start - start),
            address_space: Arc::new(address_space),
            file_offset: range.start,
            size: range.end - range.start,
            protection,
            backing,
            durability: durability(request, backing),
            write_back: WriteBack::best(),
            writeback,
            spares_holes,
            has_single_pages: false,
            reads_aside: spares_holes,
            unread: OnceLock::new(),
            file: Arc::new(file),
        })
    }

    /// The same bytes as they are now, copied as they are stored to: nothing of that reaches the
    /// file.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn private_view(&self) -> Result<Mapping, MapError> {
        let file = self.file.try_clone();
        let file = file.map_err(|source| MapError::System { call: "dup", source })?;
        let range = self.file_offset..self.file_offset + self.size;
        let address_space = AddressSpace::map_private(&file, &range)?;
        Ok(Mapping {
            base: address_space.at(0),
            address_space: Arc::new(address_space),
            file_offset: self.file_offset,
            size: self.size,
            protection: Protection::ReadWrite,
            backing: Backing::PageCache,
            durability: Durability::PageCache,
            write_back: WriteBack::best(),
            // What is stored here never reaches the file.
            writeback: Arc::new(Writeback::new()),
            spares_holes: false,
            has_single_pages: false,
            reads_aside: false,
            unread: OnceLock::new(),
            file: Arc::new(file),
        })
    }

    /// What the mapping is backed by.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Returns the first read of a page-cache file that has failed, if any has. Its cause may pass: an I/O
    /// error of the disk or the network, or a file that was truncated.
    #[must_use]
    pub fn failed_read(&self) -> Option<MediaError> {
        self.unread.get().copied()
    }

    /// The page tables of the mapping, for another thread to fill; they do not keep it mapped. `None`: there is
    /// nothing to gain, since the medium is no page cache, or is only read.
    #[must_use]
    pub fn pages(&self) -> Option<Pages> {
        let fills = self.backing == Backing::PageCache
            && self.protection == Protection::ReadWrite
            && !self.has_single_pages;
        fills.then(|| Pages::new(&self.file, &self.address_space, self.file_offset, self.size))
    }

    /// Where stores are synced one by one: has the page cache hold the file in single pages. The kernel takes a store
    /// to a mapped folio of several pages, of up to 2 MiB, for one to all of it (`block_page_mkwrite`,
    /// `iomap_page_mkwrite`), and so writes all of it back. Folios that are there are given back, as far as others
    /// do not map them.
    pub fn keep_single_pages(&mut self) {
        if self.durability != Durability::Strict || self.protection == Protection::ReadOnly {
            return;
        }
        // Only what is clean is given back. If this fails, so does every later sync.
        if self.writeback.sync(fdatasync(&self.file)).is_ok()
            && self.address_space.expect_random_access().is_ok()
        {
            // A hint: of folios that stay, more is written back than was stored.
            let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            (self.has_single_pages, self.reads_aside) = (true, true);
        }
    }

    /// The file, for others to map parts of it as `protection` says; as the mapping can, at most.
    pub fn share_file(&self, protection: Protection) -> Result<SharedFile, MapError> {
        SharedFile::new(
            &self.file,
            self.file_offset,
            protection,
            self.backing,
            self.writeback.clone(),
        )
    }

    /// Gives all bytes back to the file system, where it takes them: they read as zeroes then. Where it does
    /// not, and on device-DAX, they stay as they are.
    ///
    /// # Errors
    ///
    /// The mapping is read-only, or the file system fails.
    pub fn discard(&self) -> Result<(), MediaError> {
        self.checked(Access::Zero, 0, self.size)?;
        let end = self.file_offset + self.size;
        let whole_pages = self.file_offset.next_multiple_of(PAGE)..end - end % PAGE;
        if self.backing == Backing::DeviceDax || whole_pages.is_empty() {
            return Ok(());
        }
        let punched = self.punch(whole_pages.start, whole_pages.end);
        self.writeback.note_store();
        punched.map(drop).map_err(|errno| MediaError {
            access: Access::Zero,
            offset: 0,
            length: self.size,
            cause: Cause::System(errno),
        })
    }

    /// Address of `length` bytes at `offset`, all inside the mapping.
    fn checked(&self, access: Access, offset: u64, length: u64) -> Result<*mut u8, MediaError> {
        let fails = |cause| Err(MediaError { access, offset, length, cause });
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return fails(Cause::OutOfBounds);
        }
        let stores = matches!(access, Access::Write | Access::Zero);
        if stores && self.protection == Protection::ReadOnly {
            return fails(Cause::ReadOnly);
        }
        // SAFETY: the offset is inside the mapping, or one past it.
        Ok(unsafe { self.base.add(offset as usize) })
    }

    /// As [`checked`](Self::checked), for a single access of `length` bytes.
    fn checked_word(
        &self,
        access: Access,
        offset: u64,
        length: u64,
    ) -> Result<*mut u8, MediaError> {
        if !offset.is_multiple_of(length) {
            return Err(MediaError { access, offset, length, cause: Cause::Misaligned });
        }
        self.checked(access, offset, length)
    }

    /// Turns a fault during an access into the error that tells whose memory it was.
    fn media_error(
        &self,
        access: Access,
        offset: u64,
        length: u64,
    ) -> impl Fn(Fault) -> MediaError {
        move |fault| {
            let cause = if self.is_ours(&fault) { Cause::Medium } else { Cause::Buffer };
            MediaError { access, offset, length, cause }
        }
    }

    /// Returns whether the `length` bytes at `offset` lie in a hole of the file.
    #[cold]
    fn is_hole(&self, offset: u64, length: u64) -> bool {
        self.next_stored(offset) >= offset + length
    }

    /// Loads a word whose page cannot be mapped, as [`read_after_fault`](Self::read_after_fault).
    #[cold]
    fn load_from_file<const N: usize>(
        &self,
        offset: u64,
        fault: Fault,
    ) -> Result<[u8; N], MediaError> {
        let mut word = [0; N];
        self.read_after_fault(offset, &VolatileSlice::from(&mut word[..]), fault)?;
        Ok(word)
    }

    /// Has several pages read from the file together, which are not in memory.
    #[cold]
    fn fetch(&self, address: *mut u8, length: usize) {
        if length > PAGE as usize {
            self.address_space.fetch(address, length);
        }
    }

    /// Reads by way of the file system what cannot be read through the mapping, after `fault`.
    ///
    /// A page of a hole needs memory of its own on tmpfs; where there is none left, the mapping faults,
    /// and read(2) still finds zeroes.
    #[cold]
    fn read_after_fault(
        &self,
        offset: u64,
        into: &VolatileSlice<'_>,
        fault: Fault,
    ) -> Result<(), MediaError> {
        if !self.is_ours(&fault) || self.backing != Backing::PageCache {
            return Err(self.media_error(Access::Read, offset, into.len() as u64)(fault));
        }
        self.read_from_file(offset, into)
    }

    /// Reads by way of the file system.
    #[cold]
    fn read_from_file(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let fails = self.media_error(Access::Read, offset, into.len() as u64);
        let mut piece = [0; PAGE as usize];
        let mut done = 0;
        while done < into.len() {
            let length = piece.len().min(into.len() - done);
            let piece = &mut piece[..length];
            let position = self.file_offset + offset + done as u64;
            self.file.read_exact_at(piece, position).map_err(|error| {
                let errno = error.raw_os_error().map(Errno::from_raw);
                let cause = errno.map_or(Cause::Medium, Cause::System);
                let length = into.len() as u64;
                let failure = MediaError { access: Access::Read, offset, length, cause };
                *self.unread.get_or_init(|| failure)
            })?;
            // SAFETY: the target lies inside the slice, which is valid for its length and for concurrent
            // use; the source is ours alone.
            unsafe { cpu::copy(into.ptr_guard_mut().as_ptr().add(done), piece.as_ptr(), length) }
                .map_err(&fails)?;
            done += length;
        }
        Ok(())
    }

    /// Returns whether a fault was in the mapping, and not in the buffer of a copy.
    fn is_ours(&self, fault: &Fault) -> bool {
        let ours = self.base.addr()..self.base.addr() + self.size as usize;
        ours.contains(&fault.address)
    }

    /// Copies `length` bytes from `source` to `offset`.
    ///
    /// # Safety
    ///
    /// `source` is valid for reads of `length` bytes; they may change meanwhile. If they are bytes of the
    /// same file, by whatever mapping, what is stored is unspecified, and nothing else.
    unsafe fn write_from(
        &self,
        offset: u64,
        source: *const u8,
        length: usize,
    ) -> Result<(), MediaError> {
        let to = self.checked(Access::Write, offset, length as u64)?;
        // SAFETY: the target is inside the mapping and writable, the source valid by contract. Bytes are
        // copied by instructions of the CPU that the compiler knows nothing of, so that no race with
        // another thread or process is undefined.
        let copied = unsafe {
            match self.durability {
                Durability::Dax => self.stream(to, source, length),
                // Past the cache as well, which need not load what is overwritten then.
                Durability::PageCache | Durability::Strict
                    if cpu::STREAMS_PAST_CACHE && length >= STREAMED =>
                {
                    HAS_STREAMED.set(true);
                    self.stream(to, source, length)
                }
                Durability::PageCache | Durability::Strict => cpu::copy(to, source, length),
            }
        };
        copied.map_err(self.media_error(Access::Write, offset, length as u64))?;
        self.writeback.note_store();
        Ok(())
    }

    /// Copies `from` to `to` as a streaming write does: whole cache lines past the cache, a broken
    /// line at either end through the cache and written back.
    ///
    /// # Safety
    ///
    /// As for [`cpu::copy`].
    unsafe fn stream(&self, to: *mut u8, from: *const u8, length: usize) -> Result<(), Fault> {
        let line = CACHE_LINE as usize;
        let head = (to.addr().next_multiple_of(line) - to.addr()).min(length);
        let lines = (length - head) / line;
        let tail = length - head - lines * line;
        // SAFETY: the three parts lie one after another inside the ranges promised by the caller;
        // `to` is aligned to a line after the head.
        unsafe {
            self.copy_and_write_back(to, from, head)?;
            cpu::stream_lines(to.add(head), from.add(head), lines)?;
            self.copy_and_write_back(to.add(length - tail), from.add(length - tail), tail)
        }
    }

    /// Copies part of one cache line through the cache and begins to write it back.
    ///
    /// # Safety
    ///
    /// As for [`cpu::copy`].
    unsafe fn copy_and_write_back(
        &self,
        to: *mut u8,
        from: *const u8,
        length: usize,
    ) -> Result<(), Fault> {
        if length == 0 {
            return Ok(());
        }
        // SAFETY: as promised by the caller.
        unsafe {
            cpu::copy(to, from, length)?;
            self.write_back.line(to)
        }
    }

    /// Begins to write back the cache lines that hold `length` bytes at `offset`, which are at `address`.
    #[inline]
    fn write_back_lines(
        &self,
        address: *mut u8,
        offset: u64,
        length: u64,
    ) -> Result<(), MediaError> {
        let into_line = offset % CACHE_LINE;
        let end = into_line + length;
        let mut line = 0;
        while line < end {
            // SAFETY: the line holds at least one byte of the range, and lines do not span pages.
            unsafe { self.write_back.line(address.sub(into_line as usize).add(line as usize)) }
                .map_err(self.media_error(Access::Flush, offset, length))?;
            line += CACHE_LINE;
        }
        Ok(())
    }

    /// Gives the whole pages of the range back to the file system. Returns whether it could.
    fn punch(&self, start: u64, end: u64) -> Result<bool, Errno> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, start.cast_signed(), (end - start).cast_signed()) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EINVAL | Errno::ENOSYS) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Writes zeroes by way of the file system, which clears poison on the way.
    fn write_zeroes(&self, mut start: u64, end: u64) -> Result<(), Errno> {
        static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
        while start < end {
            let length = (end - start).min(ZEROES.len() as u64);
            self.file
                .write_all_at(&ZEROES[..length as usize], start)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
            start += length;
        }
        Ok(())
    }

    /// Zeroes a range of the file: whole pages by punching them, the rest by writing.
    fn zero_file(&self, start: u64, end: u64) -> Result<(), Errno> {
        let first_page = start.next_multiple_of(PAGE);
        let last_page = end - end % PAGE;
        if first_page < last_page && self.punch(first_page, last_page)? {
            self.write_zeroes(start, first_page)?;
            self.write_zeroes(last_page, end)?;
        } else {
            self.write_zeroes(start, end)?;
        }
        self.writeback.note_store();
        self.writeback.sync(fdatasync(&self.file))
    }

    /// Syncs the file, unless nothing was stored to it since the last sync began.
    fn sync_file(&self) -> Result<(), MediaError> {
        cpu::drain_stores();
        self.writeback.sync(fdatasync(&self.file)).map_err(|errno| self.sync_error(errno))
    }

    fn sync_error(&self, errno: Errno) -> MediaError {
        let cause = Cause::System(errno);
        MediaError { access: Access::Sync, offset: 0, length: self.size, cause }
    }

    /// Returns whether stores are durable without a sync of the file: flushed past the CPU's caches to
    /// persistent memory.
    fn is_dax(&self) -> bool {
        self.backing != Backing::PageCache && self.durability == Durability::Dax
    }
}

/// Returns whether the file system has no other place for the pages of a file than memory: there, a page of
/// a hole that is read through a mapping is allocated for good.
fn keeps_files_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == libc::TMPFS_MAGIC)
}

fn check_range(range: &Range<u64>, size: u64) -> Result<(), MapError> {
    let Range { start, end } = *range;
    if start >= end || !start.is_multiple_of(PAGE) {
        Err(MapError::BadRange { start, end })
    } else if end > size {
        Err(MapError::BeyondEnd { start, end, size })
    } else {
        Ok(())
    }
}

fn durability(request: DurabilityRequest, backing: Backing) -> Durability {
    match (request, backing) {
        (DurabilityRequest::Dax, _)
        | (
            DurabilityRequest::Auto | DurabilityRequest::Strict,
            Backing::FsDax | Backing::DeviceDax,
        ) => Durability::Dax,
        (DurabilityRequest::Auto, Backing::PageCache) | (DurabilityRequest::PageCache, _) => {
            Durability::PageCache
        }
        (DurabilityRequest::Strict, Backing::PageCache) => Durability::Strict,
    }
}

#[cfg(test)]
mod tests;
