//! A disk of marks: what a guest writes to it is not stored, but becomes a mark of the recording.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use vm_memory::VolatileSlice;

use super::cache::Cache;
use crate::btt::{Error, NeverWritten, Tag};
use crate::pmem::{Access, Cause, Durability, MediaError};
use crate::virtio::block::{Disk, DiskBatch, DiskQueue};
use crate::virtio::{NothingToSync, Syncs};

/// Bytes of a sector, which is one mark.
const SECTOR: u32 = 512;
/// Sectors of the disk; they are all the same to it. Guests look for partitions at both ends of a disk.
const SECTORS: u64 = 2048;

/// What marks are set in.
pub trait Marks: Debug + Send + Sync {
    /// Sets a mark.
    ///
    /// # Errors
    ///
    /// It cannot be set.
    fn set(&self, text: &str) -> io::Result<()>;

    /// Reads the disk at byte `offset`.
    fn read(&self, offset: u64, into: &mut [u8]);
}

impl Marks for Cache {
    fn set(&self, text: &str) -> io::Result<()> {
        self.mark(text)
    }

    /// Zeroes: marks are not stored.
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }
}

/// The disk.
#[derive(Debug)]
pub struct MarkDisk;

/// The queue of a [`MarkDisk`].
#[derive(Debug)]
pub struct MarkQueue {
    marks: Arc<dyn Marks>,
}

/// A batch of a [`MarkQueue`].
#[derive(Debug)]
pub struct MarkBatch<'q> {
    marks: &'q dyn Marks,
}

impl MarkDisk {
    /// The disk whose marks are set in `marks`, and its queue.
    #[must_use]
    pub fn open(marks: Arc<dyn Marks>) -> (MarkDisk, Vec<MarkQueue>) {
        (MarkDisk, vec![MarkQueue { marks }])
    }
}

impl Disk for MarkDisk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn sector_size(&self) -> u32 {
        SECTOR
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn durability(&self) -> Durability {
        Durability::Strict
    }
}

impl DiskQueue for MarkQueue {
    type Batch<'q> = MarkBatch<'q>;

    fn batch(&mut self) -> MarkBatch<'_> {
        MarkBatch { marks: &*self.marks }
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        Arc::new(NothingToSync)
    }
}

impl MarkBatch<'_> {
    fn read_at(&self, offset: u64, into: &VolatileSlice<'_>) {
        let mut bytes = vec![0; into.len()];
        self.marks.read(offset, &mut bytes);
        into.copy_from(&bytes[..]);
    }

    /// Sets a mark with the text in a sector, up to the first zero byte, without blanks around it.
    fn mark(&self, sector: &[u8]) -> Result<(), Error> {
        let text = sector.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let fails = |error: io::Error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            MediaError { access: Access::Write, offset: 0, length: 0, cause: Cause::System(errno) }
        };
        match text.trim() {
            "" => Ok(()),
            text => Ok(self.marks.set(text).map_err(fails)?),
        }
    }
}

impl DiskBatch for MarkBatch<'_> {
    fn sector_size(&self) -> u32 {
        SECTOR
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        self.read_at(first * u64::from(SECTOR), into);
        Ok(())
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        self.read_at(sector * u64::from(SECTOR) + offset as u64, into);
        Ok(())
    }

    fn write(&mut self, _first: u64, from: &VolatileSlice<'_>, _tag: Tag) -> Result<(), Error> {
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        bytes.chunks(SECTOR as usize).try_for_each(|sector| self.mark(sector))
    }

    fn write_part(
        &mut self,
        first: u64,
        _offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        self.write(first, from, tag)
    }

    fn write_zeroes(&mut self, _first: u64, _count: u64, _tag: Tag) -> Result<(), Error> {
        Ok(())
    }

    fn trim(
        &mut self,
        _first: u64,
        _count: u64,
        _never_written: NeverWritten,
        _tag: Tag,
    ) -> Result<(), Error> {
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
