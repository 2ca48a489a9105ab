//! The queue of a disk whose namespace is claimed only while rings run.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::btt::{self, Error, NeverWritten, Tag};
use crate::pmem::{Mapping, MediaError};
use crate::virtio::block::{DiskBatch, DiskQueue};
use crate::virtio::{NothingToSync, Syncs};

/// A queue of a BTT that is there, or was let go. Then every request fails.
pub(super) enum LentQueue {
    /// The namespace is claimed.
    Held(btt::Queue<Mapping>),
    /// It is not; bytes of a sector.
    LetGo(u32),
}

/// Reads and writes of such a queue.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack, and is the large one in all that counts"
)]
pub(super) enum LentBatch<'q> {
    Held(btt::Batch<'q, Mapping>),
    LetGo(u32),
}

impl DiskQueue for LentQueue {
    type Batch<'q> = LentBatch<'q>;

    fn batch(&mut self) -> LentBatch<'_> {
        match self {
            LentQueue::Held(queue) => LentBatch::Held(DiskQueue::batch(queue)),
            LentQueue::LetGo(sector_size) => LentBatch::LetGo(*sector_size),
        }
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        match self {
            LentQueue::Held(queue) => queue.syncs(),
            LentQueue::LetGo(_) => Arc::new(NothingToSync),
        }
    }
}

/// What an operation of the BTT's batch does, and that it fails where there is none.
macro_rules! if_held {
    ($batch:expr, $held:ident => $operation:expr) => {
        match $batch {
            LentBatch::Held($held) => $operation,
            LentBatch::LetGo(_) => Err(Error::NotHeld),
        }
    };
}

impl DiskBatch for LentBatch<'_> {
    fn sector_size(&self) -> u32 {
        match self {
            LentBatch::Held(batch) => DiskBatch::sector_size(batch),
            LentBatch::LetGo(sector_size) => *sector_size,
        }
    }

    fn announce(&self, first: u64, count: u64) {
        if let LentBatch::Held(batch) = self {
            batch.announce(first, count);
        }
    }

    fn prepare(&self, first: u64, count: u64) {
        if let LentBatch::Held(batch) = self {
            batch.prepare(first, count);
        }
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        if_held!(self, batch => batch.read(first, into))
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        if_held!(self, batch => batch.read_part(sector, offset, into))
    }

    fn begin_write(&mut self, first: u64, count: u64) {
        if let LentBatch::Held(batch) = self {
            batch.begin_write(first, count);
        }
    }

    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error> {
        if_held!(self, batch => batch.write(first, from, tag))
    }

    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        if_held!(self, batch => batch.write_part(sector, offset, from, tag))
    }

    fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error> {
        if_held!(self, batch => batch.write_zeroes(first, count, tag))
    }

    fn trim(
        &mut self,
        first: u64,
        count: u64,
        never_written: NeverWritten,
        tag: Tag,
    ) -> Result<(), Error> {
        if_held!(self, batch => batch.trim(first, count, never_written, tag))
    }

    fn commit(&mut self) {
        if let LentBatch::Held(batch) = self {
            batch.commit();
        }
    }

    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        let failures = match self {
            LentBatch::Held(batch) => Some(DiskBatch::take_failures(batch)),
            LentBatch::LetGo(_) => None,
        };
        failures.into_iter().flatten()
    }

    fn take_fences(&mut self) -> u64 {
        match self {
            LentBatch::Held(batch) => batch.take_fences(),
            LentBatch::LetGo(_) => 0,
        }
    }

    fn sync(&self) -> Result<(), MediaError> {
        match self {
            LentBatch::Held(batch) => DiskBatch::sync(batch),
            LentBatch::LetGo(_) => Ok(()),
        }
    }
}
