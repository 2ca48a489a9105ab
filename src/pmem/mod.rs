//! Persistent memory: the only way to the bytes of an NVDIMM file.
//!
//! Everything above this room is generic over [`PersistentMemory`], so the same engine code runs on
//! a [`Mapping`] of a real file and on the simulated medium of the tests.
//!
//! # The persistence model
//!
//! * A store becomes durable after [`flush`](PersistentMemory::flush) of its range and then
//!   [`fence`](PersistentMemory::fence); until then any cache line may reach the medium, or not, at
//!   any time.
//! * A streaming [`write`](PersistentMemory::write) becomes durable after
//!   [`fence`](PersistentMemory::fence) alone.
//! * An aligned store of four or eight bytes never tears.
//! * What "durable" means for a given file is its [`Durability`].

mod address_space;
mod arenas;
mod backing;
pub mod cache_model;
mod clone_range;
mod cpu;
mod dirty;
mod durability;
mod error;
mod fletcher;
mod guest_region;
mod mapping;
mod migration_log;
mod overlay;
mod shared;
mod shared_file;
mod shared_sync;
mod sigbus;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
mod standard_streams;
mod sync;
mod watched;
mod writeback;

pub use arenas::limit_arenas;
pub use backing::{Backing, file_size};
pub use clone_range::clone_range;
pub use dirty::make_dirty;
pub use durability::{Durability, DurabilityRequest};
pub use error::{Access, Cause, MapError, MediaError};
pub use fletcher::{CHECKSUM_SIZE, fletcher64, fletcher64_without_field};
pub use guest_region::{
    GuestRegion, GuestRegionError, GuestSlice, broken_pages, load_unlogged, store_logged,
};
pub use mapping::{Collapse, Mapping, Pages, Protection, Resident};
pub use migration_log::{LogBitmap, MigrationLog, RegionLog, SliceLog};
pub use overlay::{Overlay, Saved};
pub use shared_file::{ShareFile, SharedFile, SharedFileObserver};
pub use shared_sync::SharedSync;
pub use sigbus::catch_faults;
pub use standard_streams::StandardStream;

use vm_memory::VolatileSlice;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("NVDIMMs are mapped whole: a 64-bit address space is needed");

/// Size of a CPU cache line in bytes: the unit of [`PersistentMemory::flush`], and the span within
/// which a power failure keeps the order of ordinary stores.
pub const CACHE_LINE: u64 = 64;

/// Size in bytes of the page that file systems, labels and the BTT layout align to.
pub const PAGE: u64 = 4096;

/// Orders all earlier loads and stores of this thread, of persistent memory and of any other, before all
/// later ones, for all threads: as the standard library's sequentially consistent fence.
#[inline]
pub fn full_fence() {
    cpu::full_fence();
}

/// What a cache line is fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// To be loaded.
    Load,
    /// To be loaded and stored to.
    Store,
}

/// A range of persistent memory, addressed by byte offsets from its start.
///
/// Every access is checked against the size of the range and answers with a [`MediaError`] where the
/// medium does not: poisoned memory, or a file that another process truncated, fails that access and
/// nothing else. All methods may be called from several threads at once; the order of two accesses
/// to the same bytes is the business of the caller.
pub trait PersistentMemory: Send + Sync {
    /// Size of the range in bytes.
    fn size(&self) -> u64;

    /// What a fence makes durable on this medium.
    fn durability(&self) -> Durability;

    /// Loads the little-endian word at `offset`, a multiple of four, in one access.
    ///
    /// Later loads and stores of the calling thread are not reordered before it.
    fn load_u32(&self, offset: u64) -> Result<u32, MediaError>;

    /// Loads the little-endian double word at `offset`, a multiple of eight, in one access.
    fn load_u64(&self, offset: u64) -> Result<u64, MediaError>;

    /// Stores the little-endian word at `offset`, a multiple of four, in one access.
    ///
    /// Earlier loads and stores of the calling thread are not reordered after it.
    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError>;

    /// Stores the little-endian double word at `offset`, a multiple of eight, in one access.
    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError>;

    /// Stores two double words one after another, the first at `offset`, a multiple of 16: no thread sees
    /// the second without the first, and no power failure keeps it without the first.
    fn store_u64_pair(&self, offset: u64, first: u64, second: u64) -> Result<(), MediaError> {
        self.store_u64(offset, first)?;
        self.store_u64(offset + 8, second)
    }

    /// Stores the double words of the cache line at `offset`, a multiple of 64, one after another and the first
    /// of them last: no thread sees that one without all others, and no power failure keeps it without them.
    fn store_line(&self, offset: u64, words: [u64; 8]) -> Result<(), MediaError> {
        for (word, at) in words.iter().zip((offset..).step_by(8)).skip(1) {
            self.store_u64(at, *word)?;
        }
        self.store_u64(offset, words[0])
    }

    /// Copies the bytes at `offset` into `into`, all of it.
    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError>;

    /// Copies all of `from` to the bytes at `offset`; durable after the next
    /// [`fence`](Self::fence), without a flush.
    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError>;

    /// Begins to write back the cache lines that hold `length` bytes at `offset`.
    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError>;

    /// Waits until everything that the calling thread flushed or wrote is durable in the sense of
    /// [`durability`](Self::durability), and orders it before everything that follows.
    fn fence(&self) -> Result<(), MediaError>;

    /// Makes `length` bytes at `offset` read as zeroes, durable on return; gives the space back to
    /// the file system where it can, and clears poison.
    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError>;

    /// Makes everything stored so far, by any thread, durable on the backing medium.
    fn sync(&self) -> Result<(), MediaError>;

    /// As [`sync`](Self::sync), for `length` bytes at `offset`: the rest may be left as it is.
    fn sync_range(&self, _offset: u64, _length: u64) -> Result<(), MediaError> {
        self.sync()
    }

    /// Returns whether [`sync`](Self::sync) takes the time of a system call or more. If not, everything stored so
    /// far, by any thread, and fenced, is durable.
    fn sync_takes_time(&self) -> bool {
        self.durability() == Durability::PageCache
    }

    /// The first failure of a sync of the file, by whichever mapping of it: stores of that time may be
    /// lost although they can still be read, so nothing may be stored any more that relies on them. It
    /// stays until no mapping of the file is left.
    fn sync_failure(&self) -> Option<MediaError> {
        None
    }

    /// Returns whether there is a [`sync_failure`](Self::sync_failure).
    fn sync_has_failed(&self) -> bool {
        false
    }

    /// Loads the word at `offset`, a multiple of four, and stores it there again: the page gets space on
    /// the file system, if it has none, and will be written back. The caller keeps other writers of the
    /// word away.
    ///
    /// # Errors
    ///
    /// As [`store_u32`](Self::store_u32): above all, the file system is full.
    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.load_u32(offset)
    }

    /// Returns whether the page at `offset` is in memory, so that looking at it needs no I/O.
    fn is_cached(&self, _offset: u64) -> bool {
        true
    }

    /// Begins to fetch every [`CACHE_LINE`]th byte of the `length` at `offset`: only a hint, and none where
    /// they are beyond the end.
    fn prefetch(&self, _offset: u64, _length: u64, _intent: Intent) {}

    /// Offset of the first byte at or after `offset` that may be other than zero, or the size: all
    /// before it reads as zeroes, as is known without reading it. In a sparse file, these are holes.
    fn next_stored(&self, offset: u64) -> u64 {
        offset
    }

    /// [`read`](Self::read) into ordinary memory.
    fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<(), MediaError> {
        self.read(offset, &VolatileSlice::from(into))
    }

    /// [`write`](Self::write) from ordinary memory.
    fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<(), MediaError> {
        // A volatile slice can be written through, which a shared borrow forbids: so it is one of a copy.
        self.write(offset, &VolatileSlice::from(&mut from.to_vec()[..]))
    }
}
