//! A [`Stage`] as a disk.

use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use vm_memory::VolatileSlice;

use super::stage::Stage;
use crate::btt::{Error, Tag};
use crate::pmem::{Access, Cause, Durability, MediaError};
use crate::virtio::block::{Disk, DiskBatch, DiskQueue};
use crate::virtio::{NothingToSync, Syncs};

/// The disk of a run. What the check writes is kept until the next run.
#[derive(Debug)]
pub struct StageDisk {
    stage: Arc<Stage>,
}

/// The queue of a [`StageDisk`].
#[derive(Debug)]
pub struct StageQueue {
    stage: Arc<Stage>,
}

/// A batch of a [`StageQueue`].
#[derive(Debug)]
pub struct StageBatch<'q> {
    stage: &'q Stage,
}

impl StageDisk {
    /// The disk of `stage`, and its queue.
    #[must_use]
    pub fn open(stage: Arc<Stage>) -> (StageDisk, Vec<StageQueue>) {
        (StageDisk { stage: stage.clone() }, vec![StageQueue { stage }])
    }
}

impl Disk for StageDisk {
    fn sectors(&self) -> u64 {
        self.stage.sectors()
    }

    fn sector_size(&self) -> u32 {
        self.stage.sector_size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn durability(&self) -> Durability {
        Durability::PageCache
    }
}

impl DiskQueue for StageQueue {
    type Batch<'q> = StageBatch<'q>;

    fn batch(&mut self) -> StageBatch<'_> {
        StageBatch { stage: &self.stage }
    }

    /// The power does not fail while a state is checked.
    fn syncs(&self) -> Arc<dyn Syncs> {
        Arc::new(NothingToSync)
    }
}

fn unreadable(error: &io::Error) -> Error {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    MediaError { access: Access::Read, offset: 0, length: 0, cause: Cause::System(errno) }.into()
}

impl StageBatch<'_> {
    fn read_bytes(&self, first: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        self.stage.read(first, &mut bytes).map_err(|error| unreadable(&error))?;
        Ok(bytes)
    }
}

impl DiskBatch for StageBatch<'_> {
    fn sector_size(&self) -> u32 {
        self.stage.sector_size()
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        into.copy_from(&self.read_bytes(first, into.len())?[..]);
        Ok(())
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let bytes = self.read_bytes(sector, self.sector_size() as usize)?;
        into.copy_from(&bytes[offset..offset + into.len()]);
        Ok(())
    }

    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, _tag: Tag) -> Result<(), Error> {
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        self.stage.write(first, &bytes);
        Ok(())
    }

    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        _tag: Tag,
    ) -> Result<(), Error> {
        let mut bytes = self.read_bytes(sector, self.sector_size() as usize)?;
        from.copy_to(&mut bytes[offset..offset + from.len()]);
        self.stage.write(sector, &bytes);
        Ok(())
    }

    fn write_zeroes(&mut self, first: u64, count: u64, _tag: Tag) -> Result<(), Error> {
        let zeroes = vec![0; self.sector_size() as usize];
        (first..first + count).for_each(|sector| self.stage.write(sector, &zeroes));
        Ok(())
    }

    fn commit(&mut self) {}

    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        std::iter::empty()
    }

    fn sync(&self) -> Result<(), MediaError> {
        Ok(())
    }
}
