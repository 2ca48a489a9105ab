//! The contents of a namespace as a sequence of bytes: its sectors, or its bytes in raw mode.

use std::path::{Path, PathBuf};

use vm_memory::VolatileSlice;

use super::Error;
use crate::btt::{self, Batch, NeverWritten, Queue};
use crate::namespace::{self, Atomic, NamespaceOptions};
use crate::nvdimm::{Claim, ClaimKind, NvdimmFile};
use crate::pmem::{Mapping, PersistentMemory};

/// The contents of a namespace.
pub(super) struct Contents {
    path: PathBuf,
    kind: Kind,
    /// Held while the contents are used; `None`: none was requested.
    _claim: Option<Claim>,
}

enum Kind {
    Sectors(Queue<Mapping>),
    Raw(Mapping),
}

impl Contents {
    /// The sectors of a namespace; the bytes of one in raw mode.
    pub(super) fn open(options: &NamespaceOptions, kind: ClaimKind) -> Result<Contents, Error> {
        let mapped = options.map(kind)?;
        let path = options.path.clone();
        // Only where the label says so: elsewhere, a BTT that cannot be found may be a damaged one.
        if mapped.is_raw() {
            let kind = Kind::Raw(mapped.medium);
            return Ok(Contents { path, kind, _claim: Some(mapped.claim) });
        }
        let (claim, (_, mut queues)) =
            mapped.open(kind == ClaimKind::Shared, 1, Atomic::default())?;
        Ok(Contents { path, kind: Kind::Sectors(queues.remove(0)), _claim: Some(claim) })
    }

    /// The bytes of a namespace as they are, whatever it contains, and even if a process holds it.
    pub(super) fn look(options: &NamespaceOptions) -> Result<Contents, Error> {
        let file = NvdimmFile::open(&options.path, ClaimKind::Shared, options.label_size)?;
        let selection = namespace::resolve(&file, &options.selection);
        let medium = file.map_to_look(file.select(&selection)?)?;
        Ok(Contents { path: options.path.clone(), kind: Kind::Raw(medium), _claim: None })
    }

    /// Number of bytes.
    pub(super) fn size(&self) -> u64 {
        match &self.kind {
            Kind::Sectors(queue) => queue.btt().sectors() * u64::from(queue.btt().sector_size()),
            Kind::Raw(medium) => medium.size(),
        }
    }

    /// What reads and writes start and end on multiples of, in bytes.
    pub(super) fn granule(&self) -> usize {
        match &self.kind {
            Kind::Sectors(queue) => queue.btt().sector_size() as usize,
            Kind::Raw(_) => 1,
        }
    }

    /// Bytes of a sector as a guest sees it; `None`: there are no sectors.
    pub(super) fn sector_size(&self) -> Option<u32> {
        match &self.kind {
            Kind::Sectors(queue) => Some(queue.btt().sector_size()),
            Kind::Raw(_) => None,
        }
    }

    /// What is worth telling zeroes apart by, in bytes.
    pub(super) fn block(&self) -> usize {
        match &self.kind {
            Kind::Sectors(queue) => queue.btt().sector_size() as usize,
            Kind::Raw(_) => 4096,
        }
    }

    /// Reads all of `into` from byte `position` on.
    pub(super) fn read(&mut self, position: u64, into: &mut [u8]) -> Result<(), Error> {
        let done = match &mut self.kind {
            Kind::Sectors(queue) => {
                let first = position / u64::from(queue.btt().sector_size());
                queue.batch().read(first, &VolatileSlice::from(into))
            }
            Kind::Raw(medium) => medium.read_bytes(position, into).map_err(btt::Error::from),
        };
        done.map_err(|source| error(&self.path, source))
    }

    /// Writes all of `from` to byte `position` and after.
    pub(super) fn write(&mut self, position: u64, from: &mut [u8]) -> Result<(), Error> {
        let done = match &mut self.kind {
            Kind::Sectors(queue) => {
                let first = position / u64::from(queue.btt().sector_size());
                in_batch(queue, |batch| batch.write(first, &VolatileSlice::from(from), 0))
            }
            Kind::Raw(medium) => medium.write_bytes(position, from).map_err(btt::Error::from),
        };
        done.map_err(|source| error(&self.path, source))
    }

    /// Makes `length` bytes from `position` on read as zeroes; those that do already take no space.
    pub(super) fn zero(&mut self, position: u64, length: u64) -> Result<(), Error> {
        let done = match &mut self.kind {
            Kind::Sectors(queue) => {
                let size = u64::from(queue.btt().sector_size());
                let (first, count) = (position / size, length / size);
                in_batch(queue, |batch| zero_sectors(batch, first, count))
            }
            Kind::Raw(medium) if medium.next_stored(position) >= position + length => Ok(()),
            Kind::Raw(medium) => medium.zero(position, length).map_err(btt::Error::from),
        };
        done.map_err(|source| error(&self.path, source))
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let done = match &self.kind {
            Kind::Sectors(queue) => queue.btt().sync(),
            Kind::Raw(medium) => medium.sync(),
        };
        done.map_err(|source| error(&self.path, source.into()))
    }
}

fn error(path: &Path, source: btt::Error) -> Error {
    Error::Sectors { path: path.into(), source }
}

/// Writes in a batch, and commits it.
fn in_batch(
    queue: &mut Queue<Mapping>,
    write: impl FnOnce(&mut Batch<'_, Mapping>) -> Result<(), btt::Error>,
) -> Result<(), btt::Error> {
    let mut batch = queue.batch();
    write(&mut batch)?;
    batch.commit();
    batch.take_failures().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// Makes sectors read as zeroes, without writing those that do already.
///
/// Sectors of 512 bytes are not flagged in the map, which Linux would misread.
fn zero_sectors(batch: &mut Batch<'_, Mapping>, first: u64, count: u64) -> Result<(), btt::Error> {
    if batch.btt().sector_size() == 4096 {
        return batch.trim(first, count, NeverWritten::Leave, 0);
    }
    let mut sector = [0xff; 512];
    for number in first..first + count {
        batch.read(number, &VolatileSlice::from(&mut sector[..]))?;
        if sector.iter().any(|&byte| byte != 0) {
            batch.write_zeroes(number, 1, 0)?;
        }
    }
    Ok(())
}
