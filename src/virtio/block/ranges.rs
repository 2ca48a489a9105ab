//! `DISCARD` and `WRITE_ZEROES`: makes ranges of sectors read as zeroes.

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
use super::execute::{STEP, Steps};
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

/// Sectors that are flagged as zero in one go: about as long as a step of a transfer takes.
const SECTORS_TRIMMED: u64 = 1 << 16;

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

/// Carries out a `DISCARD`: whole sectors read as zeroes afterwards; a hint for parts of sectors. Returns how
/// many bytes it names.
pub(super) fn discard<B: DiskBatch>(
    device: &Device,
    batch: &mut B,
    memory: &GuestRam,
    data: Spans<'_>,
    tag: Tag,
    steps: Steps<'_>,
) -> Result<u64, RequestError> {
    let (size, mut bytes) = (u64::from(device.sector_size), 0);
    for range in ranges(device, memory, Kind::Discard, data)? {
        bytes += range.end - range.start;
        let (mut first, end) = (range.start.div_ceil(size), range.end / size);
        while first < end {
            let count = (end - first).min(SECTORS_TRIMMED);
            batch.trim(first, count, NeverWritten::Leave, tag)?;
            first += count;
            steps.go_on()?;
        }
    }
    Ok(bytes)
}

/// Clears ranges of bytes for the request `tag`.
#[derive(Clone, Copy)]
pub(super) struct Clearing<'a> {
    /// The device.
    pub device: &'a Device,
    /// Between which something else may come first.
    pub steps: Steps<'a>,
    /// Names the request to the batch.
    pub tag: Tag,
}

impl Clearing<'_> {
    /// Carries out a `WRITE_ZEROES`: every byte reads as zero afterwards. `scratch` has room for a sector.
    ///
    /// By flagging whole sectors in the map where that is allowed, with or without the `UNMAP` flag: a
    /// flagged sector keeps its block, so nothing is deallocated. Returns how many bytes are zero now.
    pub(super) fn write_zeroes<B: DiskBatch>(
        self,
        batch: &mut B,
        memory: &GuestRam,
        data: Spans<'_>,
        scratch: &mut [u8],
    ) -> Result<u64, RequestError> {
        scratch.fill(0);
        let mut bytes = 0;
        for range in ranges(self.device, memory, Kind::WriteZeroes, data)? {
            bytes += range.end - range.start;
            self.zero(batch, range, scratch)?;
        }
        Ok(bytes)
    }

    /// Zeroes a range of bytes; `zeroes` holds as many as a sector.
    fn zero<B: DiskBatch>(
        self,
        batch: &mut B,
        range: Range<u64>,
        zeroes: &mut [u8],
    ) -> Result<(), RequestError> {
        let size = u64::from(self.device.sector_size);
        let mut position = range.start;
        while position < range.end {
            let (sector, offset) = (position / size, position % size);
            let whole = (range.end - position) / size;
            if offset == 0 && whole > 0 {
                position += self.zero_sectors(batch, sector, whole)? * size;
                self.steps.go_on()?;
            } else {
                let length = (range.end - position).min(size - offset);
                let zeroes = VolatileSlice::from(&mut zeroes[..length as usize]);
                batch.write_part(sector, offset as usize, &zeroes, self.tag)?;
                position += length;
            }
        }
        Ok(())
    }

    /// Zeroes up to `count` sectors from `first` on. Returns how many.
    fn zero_sectors<B: DiskBatch>(
        self,
        batch: &mut B,
        first: u64,
        count: u64,
    ) -> Result<u64, RequestError> {
        if self.device.trims {
            let count = count.min(SECTORS_TRIMMED);
            batch.trim(first, count, NeverWritten::Zero, self.tag)?;
            return Ok(count);
        }
        let count = count.min(STEP / u64::from(self.device.sector_size));
        batch.write_zeroes(first, count, self.tag)?;
        Ok(count)
    }
}
