//! `DISCARD` and `WRITE_ZEROES`: ranges of sectors that are to read as zeroes.

use std::ops::Range;

use arrayvec::ArrayVec;
use virtio_bindings::virtio_blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
use vm_memory::VolatileSlice;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::VIRTIO_SECTOR;
use super::config::{Config, MOST_CLEARED_SEGMENTS};
use super::device::Device;
use super::disk::DiskBatch;
use super::error::RequestError;
use super::request::Kind;
use crate::btt::{NeverWritten, Tag};
use crate::virtio::memory::{GuestRam, Spans};

/// A segment of the request's data (VIRTIO 1.2, 5.2.6, `virtio_blk_discard_write_zeroes`).
#[derive(Debug, Clone, Copy, FromBytes)]
#[repr(C)]
struct Segment {
    sector: U64,
    num_sectors: U32,
    flags: U32,
}

const SEGMENT_SIZE: usize = size_of::<Segment>();

/// The ranges of a request, in bytes on the device.
type Ranges = ArrayVec<Range<u64>, { MOST_CLEARED_SEGMENTS as usize }>;

/// The ranges that a `DISCARD` or `WRITE_ZEROES` request names, all checked.
fn ranges(
    device: &Device,
    memory: &GuestRam,
    kind: Kind,
    mut data: Spans<'_>,
) -> Result<Ranges, RequestError> {
    let (bytes, most) = (data.len(), MOST_CLEARED_SEGMENTS);
    let longest = Config::most_cleared_sectors();
    let bad_segments = RequestError::Segments { bytes, most, longest };
    if bytes == 0
        || bytes % SEGMENT_SIZE as u64 != 0
        || bytes > SEGMENT_SIZE as u64 * u64::from(most)
    {
        return Err(bad_segments);
    }
    let known_flags = match kind {
        Kind::WriteZeroes => VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
        _ => 0,
    };
    let mut ranges = Ranges::new();
    while !data.is_empty() {
        let segment: Segment = zerocopy::transmute!(data.object::<[u64; 2]>(memory)?);
        let (sector, count) = (segment.sector.get(), segment.num_sectors.get());
        if segment.flags.get() & !known_flags != 0 {
            return Err(RequestError::UnsupportedFlags(segment.flags.get()));
        }
        if count > longest {
            return Err(bad_segments);
        }
        ranges.push(device.byte_range(sector, u64::from(count) * VIRTIO_SECTOR)?);
    }
    Ok(ranges)
}

/// Carries out a `DISCARD`: whole sectors read as zeroes afterwards; a hint for parts of sectors.
pub(super) fn discard<B: DiskBatch>(
    device: &Device,
    batch: &mut B,
    memory: &GuestRam,
    data: Spans<'_>,
    tag: Tag,
) -> Result<(), RequestError> {
    let size = u64::from(device.sector_size);
    for range in ranges(device, memory, Kind::Discard, data)? {
        let (first, end) = (range.start.div_ceil(size), range.end / size);
        if first < end {
            batch.trim(first, end - first, NeverWritten::Leave, tag)?;
        }
    }
    Ok(())
}

/// Carries out a `WRITE_ZEROES`: every byte reads as zero afterwards.
///
/// By flagging whole sectors in the map where that is allowed, with or without the `UNMAP` flag: a
/// flagged sector keeps its block, so nothing is deallocated.
pub(super) fn write_zeroes<B: DiskBatch>(
    device: &Device,
    batch: &mut B,
    memory: &GuestRam,
    data: Spans<'_>,
    scratch: &mut [u8],
    tag: Tag,
) -> Result<(), RequestError> {
    scratch.fill(0);
    for range in ranges(device, memory, Kind::WriteZeroes, data)? {
        zero_range(device, batch, range, scratch, tag)?;
    }
    Ok(())
}

/// Zeroes a range of bytes; `zeroes` holds as many as a sector.
fn zero_range<B: DiskBatch>(
    device: &Device,
    batch: &mut B,
    range: Range<u64>,
    zeroes: &mut [u8],
    tag: Tag,
) -> Result<(), RequestError> {
    let size = u64::from(device.sector_size);
    let mut position = range.start;
    while position < range.end {
        let (sector, offset) = (position / size, position % size);
        let whole = (range.end - position) / size;
        if offset == 0 && whole > 0 {
            if device.trims {
                batch.trim(sector, whole, NeverWritten::Zero, tag)?;
            } else {
                batch.write_zeroes(sector, whole, tag)?;
            }
            position += whole * size;
        } else {
            let length = (range.end - position).min(size - offset);
            let zeroes = VolatileSlice::from(&mut zeroes[..length as usize]);
            batch.write_part(sector, offset as usize, &zeroes, tag)?;
            position += length;
        }
    }
    Ok(())
}
