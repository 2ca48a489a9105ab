//! Sectors that lie on the medium as they are: each can tear. The control experiment of the power
//! failures that a BTT survives.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::btt::{Error, Tag};
use crate::pmem::{CACHE_LINE, Durability, Intent, MediaError, PersistentMemory};
use crate::virtio::block::{Disk, DiskBatch, DiskQueue};
use crate::virtio::{SyncError, Syncs};

/// A sector's worth of zeroes.
static ZEROES: [u8; 4096] = [0; 4096];

/// The bytes of a medium, as sectors.
#[derive(Debug)]
pub struct Raw<M> {
    medium: M,
    sector_size: u32,
}

/// A queue of a [`Raw`].
#[derive(Debug)]
pub struct RawQueue<M> {
    raw: Arc<Raw<M>>,
    /// Writes since the last commit.
    staged: Vec<Tag>,
    failures: Vec<(Tag, Error)>,
}

/// A batch of a [`RawQueue`].
#[derive(Debug)]
pub struct RawBatch<'q, M> {
    raw: &'q Raw<M>,
    staged: &'q mut Vec<Tag>,
    failures: &'q mut Vec<(Tag, Error)>,
}

impl<M: PersistentMemory> Raw<M> {
    /// The bytes of `medium` as sectors of 512 or 4096 bytes, and `queues` queues to them.
    pub fn open(medium: M, sector_size: u32, queues: usize) -> (Arc<Raw<M>>, Vec<RawQueue<M>>) {
        let raw = Arc::new(Raw { medium, sector_size });
        let queue = |_| RawQueue { raw: raw.clone(), staged: Vec::new(), failures: Vec::new() };
        let queues = (0..queues).map(queue).collect();
        (raw, queues)
    }

    fn place(&self, sector: u64, offset: usize) -> u64 {
        sector * u64::from(self.sector_size) + offset as u64
    }
}

impl<M: PersistentMemory> Disk for Raw<M> {
    fn sectors(&self) -> u64 {
        self.medium.size() / u64::from(self.sector_size)
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn durability(&self) -> Durability {
        self.medium.durability()
    }
}

impl<M: PersistentMemory> Syncs for Raw<M> {
    fn sync(&self) -> Result<(), SyncError> {
        Ok(self.medium.sync()?)
    }

    fn sync_takes_time(&self) -> bool {
        self.medium.sync_takes_time()
    }
}

impl<M: PersistentMemory + 'static> DiskQueue for RawQueue<M> {
    type Batch<'q>
        = RawBatch<'q, M>
    where
        M: 'q;

    fn batch(&mut self) -> RawBatch<'_, M> {
        self.staged.clear();
        self.failures.clear();
        RawBatch { raw: &self.raw, staged: &mut self.staged, failures: &mut self.failures }
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        self.raw.clone()
    }
}

impl<M: PersistentMemory> DiskBatch for RawBatch<'_, M> {
    fn sector_size(&self) -> u32 {
        self.raw.sector_size
    }

    fn prepare(&self, first: u64) {
        self.raw.medium.prefetch(self.raw.place(first, 0), CACHE_LINE, Intent::Load);
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        self.read_part(first, 0, into)
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        Ok(self.raw.medium.read(self.raw.place(sector, offset), into)?)
    }

    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error> {
        self.write_part(first, 0, from, tag)
    }

    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        self.raw.medium.write(self.raw.place(sector, offset), from)?;
        self.staged.push(tag);
        Ok(())
    }

    fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error> {
        let zeroes = &ZEROES[..self.raw.sector_size as usize];
        for sector in first..first + count {
            self.raw.medium.write_bytes(self.raw.place(sector, 0), zeroes)?;
        }
        self.staged.push(tag);
        Ok(())
    }

    fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        if let Err(error) = self.raw.medium.fence() {
            self.failures.extend(self.staged.iter().map(|tag| (*tag, error.into())));
        }
        self.staged.clear();
    }

    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        self.failures.drain(..)
    }

    fn sync(&self) -> Result<(), MediaError> {
        self.raw.medium.sync()
    }
}
