//! A [`Cache`] as a disk.

use std::io;
use std::mem;
use std::sync::Arc;

use nix::errno::Errno;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::cache::{Cache, WriteNumber};
use crate::btt::{Error, NeverWritten, Tag};
use crate::pmem::{Access, Cause, Durability, MediaError};
use crate::virtio::block::{Disk, DiskBatch, DiskQueue};
use crate::virtio::{SyncError, Syncs};

/// A raw image as a disk.
#[derive(Debug)]
pub struct ImageDisk {
    cache: Arc<Cache>,
}

/// A queue of an [`ImageDisk`].
#[derive(Debug)]
pub struct ImageQueue {
    disk: Arc<ImageDisk>,
    number: u32,
    failures: Vec<(Tag, Error)>,
}

/// A batch of an [`ImageQueue`].
#[derive(Debug)]
pub struct ImageBatch<'q> {
    queue: &'q mut ImageQueue,
    /// Writes that were submitted, and the requests that they belong to.
    staged: Vec<(Tag, WriteNumber)>,
    /// Writes that complete when the batch ends: no flush of the same batch is about them, since the guest had
    /// not been told of them when it submitted that.
    committed: Vec<(Tag, WriteNumber)>,
}

impl ImageDisk {
    /// The disk of `cache`, and `queues` queues to it.
    #[must_use]
    pub fn open(cache: Arc<Cache>, queues: u16) -> (Arc<ImageDisk>, Vec<ImageQueue>) {
        let disk = Arc::new(ImageDisk { cache });
        let queue = |number| ImageQueue {
            disk: disk.clone(),
            number: u32::from(number),
            failures: Vec::new(),
        };
        let queues = (0..queues).map(queue).collect();
        (disk, queues)
    }
}

impl Disk for ImageDisk {
    fn sectors(&self) -> u64 {
        self.cache.sectors()
    }

    fn sector_size(&self) -> u32 {
        self.cache.options().sector_size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn durability(&self) -> Durability {
        if self.cache.options().is_write_through {
            Durability::Strict
        } else {
            Durability::PageCache
        }
    }
}

impl Syncs for ImageDisk {
    fn sync(&self) -> Result<(), SyncError> {
        Ok(flush(&self.cache, 0)?)
    }

    /// No: a flush is carried out at its place among the requests of its queue.
    fn sync_takes_time(&self) -> bool {
        false
    }
}

impl DiskQueue for ImageQueue {
    type Batch<'q> = ImageBatch<'q>;

    fn batch(&mut self) -> ImageBatch<'_> {
        self.failures.clear();
        ImageBatch { queue: self, staged: Vec::new(), committed: Vec::new() }
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        self.disk.clone()
    }
}

/// An error of a file as one of a medium.
fn failed(access: Access, error: &io::Error) -> MediaError {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    MediaError { access, offset: 0, length: 0, cause: Cause::System(errno) }
}

fn flush(cache: &Cache, queue: u32) -> Result<(), MediaError> {
    cache.flush(queue).map_err(|error| failed(Access::Sync, &error))
}

impl ImageBatch<'_> {
    fn cache(&self) -> &Cache {
        &self.queue.disk.cache
    }

    /// The last write, if it is of the same request.
    fn last_of(&self, tag: Tag) -> Option<WriteNumber> {
        self.staged.last().filter(|(of, _)| *of == tag).map(|(_, number)| *number)
    }

    fn stage(&mut self, tag: Tag, number: WriteNumber) {
        if self.staged.last() != Some(&(tag, number)) {
            self.staged.push((tag, number));
        }
    }

    fn write_bytes(&mut self, sector: u64, bytes: Vec<u8>, tag: Tag) {
        let (queue, last) = (self.queue.number, self.last_of(tag));
        let number = self.cache().write(sector, bytes, queue, last);
        self.stage(tag, number);
    }
}

/// Copies out of a guest's memory.
fn bytes_of(from: &VolatileSlice<'_, impl BitmapSlice>) -> Vec<u8> {
    let mut bytes = vec![0; from.len()];
    from.copy_to(&mut bytes[..]);
    bytes
}

impl DiskBatch for ImageBatch<'_> {
    fn sector_size(&self) -> u32 {
        self.cache().options().sector_size
    }

    fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        let mut bytes = vec![0; into.len()];
        let read = self.cache().read(first, &mut bytes);
        read.map_err(|error| failed(Access::Read, &error))?;
        into.copy_from(&bytes[..]);
        Ok(())
    }

    fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        let mut bytes = vec![0; self.sector_size() as usize];
        let read = self.cache().read(sector, &mut bytes);
        read.map_err(|error| failed(Access::Read, &error))?;
        into.copy_from(&bytes[offset..offset + into.len()]);
        Ok(())
    }

    fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error> {
        self.write_bytes(first, bytes_of(from), tag);
        Ok(())
    }

    fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        let mut bytes = vec![0; self.sector_size() as usize];
        let read = self.cache().read(sector, &mut bytes);
        read.map_err(|error| failed(Access::Read, &error))?;
        bytes[offset..offset + from.len()].copy_from_slice(&bytes_of(from));
        self.write_bytes(sector, bytes, tag);
        Ok(())
    }

    fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error> {
        let bytes = vec![0; (count * u64::from(self.sector_size())) as usize];
        self.write_bytes(first, bytes, tag);
        Ok(())
    }

    fn trim(
        &mut self,
        first: u64,
        count: u64,
        never_written: NeverWritten,
        tag: Tag,
    ) -> Result<(), Error> {
        if never_written == NeverWritten::Zero {
            // Not a discard: the guest asked for zeroes.
            return self.write_zeroes(first, count, tag);
        }
        let queue = self.queue.number;
        let number = self.cache().discard(first, count, queue);
        self.stage(tag, number);
        Ok(())
    }

    fn commit(&mut self) {
        let staged = mem::take(&mut self.staged);
        if !self.cache().options().is_write_through {
            self.committed.extend(staged);
            return;
        }
        // They have to be durable before the guest is told, and it is told what has failed.
        for (tag, number) in staged {
            if let Err(error) = self.cache().complete(&[number]) {
                let error = failed(Access::Write, &error).into();
                self.queue.failures.push((tag, error));
            }
        }
    }

    fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        self.queue.failures.drain(..)
    }

    fn sync(&self) -> Result<(), MediaError> {
        flush(self.cache(), self.queue.number)
    }
}

impl Drop for ImageBatch<'_> {
    fn drop(&mut self) {
        let numbers: Vec<WriteNumber> =
            self.committed.iter().chain(&self.staged).map(|(_, number)| *number).collect();
        if let Err(error) = self.cache().complete(&numbers) {
            log::warn!("the write cache is full, and cannot be written: {error}");
        }
    }
}
