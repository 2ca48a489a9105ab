//! Batches: what a queue reads and writes, one after another.

use std::cell::Cell;
use std::ops::Range;

use arrayvec::ArrayVec;
use vm_memory::VolatileSlice;

use super::btt::Btt;
use super::lane::LaneSet;
use super::map_locks::MapGuard;
use super::round::{ROUND_SECTORS, Round, Tag};
use super::sync::MutexGuard;
use crate::btt::format::error::Error;
use crate::pmem::PersistentMemory;

/// A sector's worth of zeroes.
pub(super) static ZEROES: [u8; 4096] = [0; 4096];

/// Where the data of a sector come from.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    Buffer(&'a VolatileSlice<'a>),
    Bytes(&'a [u8]),
}

/// Reads and writes of one queue, one after another.
///
/// A read is done when the call returns. A write is staged, and done with [`commit`](Self::commit),
/// or earlier, when a round is full: up to 64 sectors share the fences of a round, whatever requests
/// they belong to. A request's sectors are atomic one by one, or as groups up to
/// [`Btt::atomic_size`]. What is staged and not committed when
/// the batch is dropped is not written.
pub struct Batch<'q, M: PersistentMemory> {
    pub(super) btt: &'q Btt<M>,
    pub(super) queue: usize,
    pub(super) lanes: MutexGuard<'q, LaneSet>,
    /// Map locks held while a round is published.
    pub(super) guards: ArrayVec<MapGuard<'q>, ROUND_SECTORS>,
    pub(super) round: &'q mut Round,
    pub(super) failures: &'q mut Vec<(Tag, Error)>,
    /// A sector that is being modified in part.
    pub(super) scratch: &'q mut [u8],
    /// The sectors of the request that is being written.
    pub(super) extent: Range<u64>,
    /// A read has shown a zero flag, and begun to write it back.
    pub(super) shows_zeroes: Cell<bool>,
}

impl<'q, M: PersistentMemory> Batch<'q, M> {
    /// The BTT that is read and written.
    #[must_use]
    pub fn btt(&self) -> &'q Btt<M> {
        self.btt
    }

    /// The failed writes of the rounds committed since the last call, by the tag of their request.
    pub fn take_failures(&mut self) -> impl Iterator<Item = (Tag, Error)> {
        self.failures.drain(..)
    }

    /// How many fences writes and trims have made since the last call.
    pub fn take_fences(&mut self) -> u64 {
        self.round.take_fences()
    }

    /// Reads whole sectors from `first` on into all of `into`.
    pub fn read(&mut self, first: u64, into: &VolatileSlice<'_>) -> Result<(), Error> {
        let (count, _) = self.check_buffer(first, into.len())?;
        self.read_sectors(first, count, into)
    }

    /// Reads the bytes of `sector` from `offset` on into all of `into`; they are of one version of
    /// the sector.
    pub fn read_part(
        &mut self,
        sector: u64,
        offset: usize,
        into: &VolatileSlice<'_>,
    ) -> Result<(), Error> {
        self.check_part(sector, offset, into.len())?;
        self.read_sector(self.btt.locate(sector), offset, into)
    }

    /// Writes whole sectors from `first` on with all of `from`.
    pub fn write(&mut self, first: u64, from: &VolatileSlice<'_>, tag: Tag) -> Result<(), Error> {
        let (count, size) = self.check_buffer(first, from.len())?;
        self.check_writable()?;
        let end = first + count as u64;
        if !(self.extent.contains(&first) && end <= self.extent.end) {
            self.extent = first..end;
        }
        if count == 1 {
            return self.stage(first, Data::Buffer(from), tag);
        }
        for index in 0..count {
            let part = piece(from, index * size, size);
            self.stage(first + index as u64, Data::Buffer(&part), tag)?;
        }
        Ok(())
    }

    /// Writes the bytes of `sector` from `offset` on with all of `from`, and leaves the rest of the
    /// sector as it is: atomically, also against writers of other parts.
    pub fn write_part(
        &mut self,
        sector: u64,
        offset: usize,
        from: &VolatileSlice<'_>,
        tag: Tag,
    ) -> Result<(), Error> {
        self.check_part(sector, offset, from.len())?;
        self.check_writable()?;
        if from.len() == self.btt.sector_size() as usize {
            return self.stage(sector, Data::Buffer(from), tag);
        }
        self.modify(sector, offset, from, tag)
    }

    /// Writes zeroes to `count` sectors from `first` on.
    pub fn write_zeroes(&mut self, first: u64, count: u64, tag: Tag) -> Result<(), Error> {
        self.btt.check_range(first, count)?;
        self.check_writable()?;
        let zeroes = &ZEROES[..self.btt.sector_size() as usize];
        self.extent = 0..0;
        (first..first + count).try_for_each(|sector| self.stage(sector, Data::Bytes(zeroes), tag))
    }

    /// The number of whole sectors in a buffer, and their size.
    fn check_buffer(&self, first: u64, length: usize) -> Result<(usize, usize), Error> {
        let sector_size = self.btt.sector_size();
        let size = sector_size as usize;
        if !length.is_multiple_of(size) {
            return Err(Error::BadLength { offset: 0, length, sector_size });
        }
        self.btt.check_range(first, (length / size) as u64)?;
        Ok((length / size, size))
    }

    fn check_part(&self, sector: u64, offset: usize, length: usize) -> Result<(), Error> {
        let sector_size = self.btt.sector_size();
        self.btt.check_range(sector, 1)?;
        match offset.checked_add(length) {
            Some(end) if end <= sector_size as usize => Ok(()),
            _ => Err(Error::BadLength { offset, length, sector_size }),
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), Error> {
        if self.btt.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }
}

impl<M: PersistentMemory> Drop for Batch<'_, M> {
    fn drop(&mut self) {
        self.end_round();
    }
}

/// The `length` bytes of `buffer` at `offset`, which are inside it.
pub(super) fn piece<'a>(
    buffer: &VolatileSlice<'a>,
    offset: usize,
    length: usize,
) -> VolatileSlice<'a> {
    buffer.subslice(offset, length).expect("the length was checked to be that of whole sectors")
}
