//! The interface to what the device serves: a BTT and its queues.
//!
//! As traits, so that a test can serve something else by the same device. They say what the device
//! needs; what each operation does is written at [`Btt`], [`Queue`] and [`Batch`].

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::btt::{Batch, Btt, Error, NeverWritten, Queue, Tag};
use crate::pmem::{Durability, MediaError, PersistentMemory};
use crate::virtio::{SyncError, Syncs};

/// Sectors, and what can be said of them.
pub trait Disk {
    /// Number of sectors.
    fn sectors(&self) -> u64;

    /// Bytes of a sector: 512 or 4096.
    fn sector_size(&self) -> u32;

    /// Bytes up to which an aligned write of a power of two is all or nothing: at least a sector.
    fn atomic_size(&self) -> u32 {
        self.sector_size()
    }

    /// Returns whether no sector can be written.
    fn is_read_only(&self) -> bool;

    /// What a completed write is safe from.
    fn durability(&self) -> Durability;
}

/// A way to the sectors, for one thread at a time.
pub trait DiskQueue: Send {
    /// Reads and writes, one after another.
    type Batch<'q>: DiskBatch
    where
        Self: 'q;

    /// Begins a batch.
    fn batch(&mut self) -> Self::Batch<'_>;

    /// The disk, to be synced.
    fn syncs(&self) -> Arc<dyn Syncs>;
}

/// Reads and writes of one queue, one after another.
pub trait DiskBatch {
    /// Bytes of a sector.
    fn sector_size(&self) -> u32;

    /// Sectors from `first` on, which need not exist, are about to be read or written. A disk that
    /// has nothing to look up does nothing.
    fn announce(&self, _first: u64) {}

    /// As [`announce`](Self::announce), and soon.
    fn prepare(&self, _first: u64) {}

    /// Reads whole sectors from `first` on.
    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error>;

    /// Reads bytes of `sector` from `offset` on.
    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error>;

    /// The next writes are the `count` whole sectors from `first` on, of one request.
    fn begin_write(&mut self, _first: u64, _count: u64) {}

    /// Writes whole sectors from `first` on; done with the next [`commit`](Self::commit).
    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error>;

    /// Writes bytes of `sector` from `offset` on, and leaves the others.
    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error>;

    /// Writes zeroes to `count` sectors from `first` on.
    fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error>;

    /// Makes `count` sectors from `first` on read as zeroes. A disk that knows no sectors without data writes
    /// zeroes.
    fn trim(
        &mut self,
        first: u64,
        count: u64,
        _never_written: NeverWritten,
        tag: Tag,
    ) -> Result<(), Error> {
        self.write_zeroes(first, count, tag)
    }

    /// Completes all writes.
    fn commit(&mut self);

    /// The writes that failed when they were completed, by the tag of their request.
    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)>;

    /// How many fences of the medium there were since the last call, where they are counted.
    fn take_fences(&mut self) -> u64 {
        0
    }

    /// Makes every completed write durable on the backing medium.
    fn sync(&self) -> Result<(), MediaError>;
}

impl<M: PersistentMemory> Disk for Btt<M> {
    fn sectors(&self) -> u64 {
        self.sectors()
    }

    fn sector_size(&self) -> u32 {
        self.sector_size()
    }

    fn atomic_size(&self) -> u32 {
        self.atomic_size()
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only()
    }

    fn durability(&self) -> Durability {
        self.durability()
    }
}

impl<M: PersistentMemory> Syncs for Btt<M> {
    fn sync(&self) -> Result<(), SyncError> {
        Ok(self.sync()?)
    }

    fn sync_takes_time(&self) -> bool {
        self.sync_takes_time()
    }
}

impl<M: PersistentMemory + 'static> DiskQueue for Queue<M> {
    type Batch<'q>
        = Batch<'q, M>
    where
        M: 'q;

    fn batch(&mut self) -> Batch<'_, M> {
        self.batch()
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        self.btt().clone()
    }
}

impl<M: PersistentMemory> DiskBatch for Batch<'_, M> {
    fn sector_size(&self) -> u32 {
        self.btt().sector_size()
    }

    fn announce(&self, first: u64) {
        self.announce(first);
    }

    fn prepare(&self, first: u64) {
        self.prepare(first);
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        self.read(first, into)
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        self.read_part(sector, offset, into)
    }

    fn begin_write(&mut self, first: u64, count: u64) {
        self.begin_write(first, count);
    }

    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error> {
        self.write(first, from, tag)
    }

    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        self.write_part(sector, offset, from, tag)
    }

    fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error> {
        self.write_zeroes(first, count, tag)
    }

    fn trim(
        &mut self,
        first: u64,
        count: u64,
        never_written: NeverWritten,
        tag: Tag,
    ) -> Result<(), Error> {
        self.trim(first, count, never_written, tag)
    }

    fn commit(&mut self) {
        self.commit();
    }

    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        self.take_failures()
    }

    fn take_fences(&mut self) -> u64 {
        self.take_fences()
    }

    fn sync(&self) -> Result<(), MediaError> {
        self.btt().sync()
    }
}
