//! Moves the data of a request between guest memory and sectors.
//!
//! Complete sectors that are contiguous in guest memory are moved directly, many at a time. A sector
//! whose bytes are in several pieces is assembled first. Of a sector that is requested in part, only
//! that part is moved. Each is one atomic operation of the engine.

use std::ops::Range;

use vm_memory::VolatileSlice;

use super::VIRTIO_SECTOR;
use super::disk::DiskBatch;
use super::error::RequestError;
use super::execute::{STEP, Steps};
use crate::btt::{self, Tag};
use crate::pmem::{GuestSlice, load_unlogged, store_logged};
use crate::virtio::memory::{BadAddress, GuestRam, Spans};

/// A part of a sector, or several whole ones.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// First sector of the device.
    sector: u64,
    /// Byte in it.
    offset: usize,
    /// Number of bytes; more than a sector only from its start, and then a multiple.
    length: usize,
}

/// Where a transfer has come to.
struct Cursor<'a> {
    spans: Spans<'a>,
    /// Byte on the device.
    position: u64,
    /// Binary logarithm of the bytes of a sector.
    sector_shift: u32,
}

impl<'a> Cursor<'a> {
    /// Begins at virtio sector `sector`.
    fn new(sector: u64, spans: Spans<'a>, sector_size: u32) -> Cursor<'a> {
        let sector_shift = sector_size.trailing_zeros();
        Cursor { spans, position: sector * VIRTIO_SECTOR, sector_shift }
    }

    /// Returns whether something is left.
    fn goes_on(&self) -> bool {
        !self.spans.is_empty()
    }

    /// The next part of what is left, and its guest memory if that lies together: as many whole sectors as
    /// do, or what is asked for of one sector.
    #[inline]
    fn next<'m>(&self, memory: &'m GuestRam) -> Result<(Part, Option<GuestSlice<'m>>), BadAddress> {
        let size = 1 << self.sector_shift;
        let (sector, offset) = (self.position >> self.sector_shift, self.position & (size - 1));
        let front = self.spans.front(memory)?;
        let whole = (front.len() as u64).min(STEP) & !(size - 1);
        let length =
            if offset == 0 && whole > 0 { whole } else { self.spans.len().min(size - offset) };
        let part = Part { sector, offset: offset as usize, length: length as usize };
        Ok((part, front.subslice(0, part.length).ok()))
    }

    /// The sectors that are asked for as a whole.
    fn whole_sectors(&self) -> Range<u64> {
        let (size, end) = (1 << self.sector_shift, self.position + self.spans.len());
        self.position.div_ceil(size)..end >> self.sector_shift
    }

    /// Goes on after `part`, unless something else comes first.
    fn advance_in_steps(&mut self, part: Part, steps: Steps<'_>) -> Result<(), RequestError> {
        let step = self.position / STEP;
        self.advance(part);
        if self.position / STEP != step && self.goes_on() { steps.go_on() } else { Ok(()) }
    }

    fn advance(&mut self, part: Part) {
        self.spans.advance(part.length as u64);
        self.position += part.length as u64;
    }
}

/// Writes what the guest hands over in `from`, from virtio sector `sector` on, for the request `tag`. The
/// range was checked to be inside the device; `scratch` has room for a sector.
pub(super) fn write<B: DiskBatch>(
    batch: &mut B,
    memory: &GuestRam,
    (sector, tag): (u64, Tag),
    from: Spans<'_>,
    scratch: &mut [u8],
    steps: Steps<'_>,
) -> Result<(), RequestError> {
    let mut cursor = Cursor::new(sector, from, batch.sector_size());
    let whole = cursor.whole_sectors();
    batch.begin_write(whole.start, whole.end.saturating_sub(whole.start));
    while cursor.goes_on() {
        let (part, together) = cursor.next(memory)?;
        if let Some(data) = together {
            load_unlogged(&data, |data| write_part(batch, part, data, tag))?;
        } else {
            let data = &mut scratch[..part.length];
            cursor.spans.clone().gather(memory, data)?;
            write_part(batch, part, &VolatileSlice::from(data), tag)?;
        }
        cursor.advance_in_steps(part, steps)?;
    }
    Ok(())
}

/// Reads from virtio sector `sector` on into all of the guest's `into`. The range was checked to be
/// inside the device; `scratch` has room for a sector.
pub(super) fn read<B: DiskBatch>(
    batch: &mut B,
    memory: &GuestRam,
    sector: u64,
    into: Spans<'_>,
    scratch: &mut [u8],
    steps: Steps<'_>,
) -> Result<(), RequestError> {
    let mut cursor = Cursor::new(sector, into, batch.sector_size());
    while cursor.goes_on() {
        let (part, together) = cursor.next(memory)?;
        if let Some(data) = together {
            store_logged(&data, |data| read_part(batch, part, data))?;
        } else {
            let data = &mut scratch[..part.length];
            read_part(batch, part, &VolatileSlice::from(&mut *data))?;
            cursor.spans.clone().scatter(memory, data)?;
        }
        cursor.advance_in_steps(part, steps)?;
    }
    Ok(())
}

#[inline]
fn write_part<B: DiskBatch>(
    batch: &mut B,
    part: Part,
    data: &VolatileSlice<'_>,
    tag: Tag,
) -> Result<(), btt::Error> {
    if part.length < batch.sector_size() as usize {
        batch.write_part(part.sector, part.offset, data, tag)
    } else {
        batch.write(part.sector, data, tag)
    }
}

#[inline]
fn read_part<B: DiskBatch>(
    batch: &mut B,
    part: Part,
    data: &VolatileSlice<'_>,
) -> Result<(), btt::Error> {
    if part.length < batch.sector_size() as usize {
        batch.read_part(part.sector, part.offset, data)
    } else {
        batch.read(part.sector, data)
    }
}
