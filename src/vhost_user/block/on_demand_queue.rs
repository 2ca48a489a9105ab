//! The queue of a disk whose namespace is claimed only while rings run.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::btt::{self, Error, NeverWritten, Tag};
use crate::pmem::{Mapping, MediaError};
use crate::virtio::block::{DiskBatch, DiskQueue};
use crate::virtio::{NothingToSync, Syncs};

/// A queue of a BTT, whose requests fail while the namespace is not claimed.
pub(super) enum OnDemandQueue {
    /// The namespace is claimed.
    Claimed(btt::Queue<Mapping>),
    /// It is not; bytes of a sector.
    Unclaimed(u32),
}

/// Reads and writes of such a queue.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack, and is the large one in all that counts"
)]
pub(super) enum OnDemandBatch<'q> {
    Claimed(btt::Batch<'q, Mapping>),
    Unclaimed(u32),
}

impl DiskQueue for OnDemandQueue {
    type Batch<'q> = OnDemandBatch<'q>;

    fn batch(&mut self) -> OnDemandBatch<'_> {
        match self {
            OnDemandQueue::Claimed(queue) => OnDemandBatch::Claimed(DiskQueue::batch(queue)),
            OnDemandQueue::Unclaimed(sector_size) => OnDemandBatch::Unclaimed(*sector_size),
        }
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        match self {
            OnDemandQueue::Claimed(queue) => queue.syncs(),
            OnDemandQueue::Unclaimed(_) => Arc::new(NothingToSync),
        }
    }
}

/// What an operation of the BTT's batch does, and that it fails where there is none.
macro_rules! if_claimed {
    ($batch:expr, $claimed:ident => $operation:expr) => {
        match $batch {
            OnDemandBatch::Claimed($claimed) => $operation,
            OnDemandBatch::Unclaimed(_) => Err(Error::NotHeld),
        }
    };
}

impl DiskBatch for OnDemandBatch<'_> {
    fn sector_size(&self) -> u32 {
        match self {
            OnDemandBatch::Claimed(batch) => DiskBatch::sector_size(batch),
            OnDemandBatch::Unclaimed(sector_size) => *sector_size,
        }
    }

    fn announce(&self, first: u64) {
        if let OnDemandBatch::Claimed(batch) = self {
            batch.announce(first);
        }
    }

    fn prepare(&self, first: u64) {
        if let OnDemandBatch::Claimed(batch) = self {
            batch.prepare(first);
        }
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        if_claimed!(self, batch => batch.read(first, into))
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        if_claimed!(self, batch => batch.read_part(sector, offset, into))
    }

    fn begin_write(&mut self, first: u64, count: u64) {
        if let OnDemandBatch::Claimed(batch) = self {
            batch.begin_write(first, count);
        }
    }

    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error> {
        if_claimed!(self, batch => batch.write(first, from, tag))
    }

    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        if_claimed!(self, batch => batch.write_part(sector, offset, from, tag))
    }

    fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error> {
        if_claimed!(self, batch => batch.write_zeroes(first, count, tag))
    }

    fn trim(
        &mut self,
        first: u64,
        count: u64,
        never_written: NeverWritten,
        tag: Tag,
    ) -> Result<(), Error> {
        if_claimed!(self, batch => batch.trim(first, count, never_written, tag))
    }

    fn commit(&mut self) {
        if let OnDemandBatch::Claimed(batch) = self {
            batch.commit();
        }
    }

    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        let failures = match self {
            OnDemandBatch::Claimed(batch) => Some(DiskBatch::take_failures(batch)),
            OnDemandBatch::Unclaimed(_) => None,
        };
        failures.into_iter().flatten()
    }

    fn take_fences(&mut self) -> u64 {
        match self {
            OnDemandBatch::Claimed(batch) => batch.take_fences(),
            OnDemandBatch::Unclaimed(_) => 0,
        }
    }

    fn sync(&self) -> Result<(), MediaError> {
        match self {
            OnDemandBatch::Claimed(batch) => DiskBatch::sync(batch),
            OnDemandBatch::Unclaimed(_) => Ok(()),
        }
    }
}
