//! Executes a request.

use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};

use super::VIRTIO_SECTOR;
use super::device::Device;
use super::disk::DiskBatch;
use super::error::RequestError;
use super::request::{Chain, Kind, Request};
use super::{ranges, transfer};
use crate::btt::Tag;
use crate::virtio::memory::{GuestRam, Spans};

/// Most bytes of a read or a write. Linux asks for some megabytes at the most.
const MOST_TRANSFERRED: u64 = 1 << 30;

/// How far a request is carried out before it is asked whether something else comes first.
pub(super) const STEP: u64 = 4 << 20;

/// Asks between the steps of a long request whether something else comes first.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a> {
    is_interrupted: &'a dyn Fn() -> bool,
}

impl Steps<'_> {
    /// Ends the request if something else comes first.
    pub(super) fn go_on(self) -> Result<(), RequestError> {
        if (self.is_interrupted)() { Err(RequestError::Interrupted) } else { Ok(()) }
    }
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Bytes of the guest's buffers that were filled.
    pub filled: u32,
    /// Virtio sectors that were read, written, zeroed or discarded.
    pub sectors: u32,
}

impl Done {
    /// A request that has filled `filled` bytes of the guest's buffers and moved `bytes`, which are sectors.
    fn new(filled: u32, bytes: u64) -> Done {
        Done { filled, sectors: (bytes / VIRTIO_SECTOR) as u32 }
    }

    /// Bytes of the disk that were read, written, zeroed or discarded.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.sectors) * VIRTIO_SECTOR
    }
}

/// Carries out the requests of one queue.
#[derive(Debug)]
pub struct Executor {
    device: Arc<Device>,
    /// A sector that lies in pieces.
    scratch: Box<[u8]>,
}

impl Device {
    /// The bytes of the device from virtio sector `sector` on; all of them exist.
    pub(super) fn byte_range(&self, sector: u64, length: u64) -> Result<Range<u64>, RequestError> {
        let range = sector.checked_mul(VIRTIO_SECTOR).and_then(|start| {
            let end = start.checked_add(length)?;
            (end <= self.size()).then_some(start..end)
        });
        range.ok_or(RequestError::OutOfRange { sector, length, size: self.size() })
    }

    fn check_writable(&self) -> Result<(), RequestError> {
        if self.read_only { Err(RequestError::ReadOnly) } else { Ok(()) }
    }
}

impl Executor {
    /// An executor for one queue of `device`.
    #[must_use]
    pub fn new(device: Arc<Device>) -> Executor {
        let scratch = vec![0; device.sector_size as usize].into_boxed_slice();
        Executor { device, scratch }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Says that the request in `chain` is to be carried out with `batch`: what that has to look up
    /// comes into the caches.
    pub fn announce<B: DiskBatch>(&self, batch: &B, chain: &Chain) {
        if let Some(first) = self.first_sector(chain, &[Kind::In, Kind::Out]) {
            batch.announce(first);
        }
    }

    /// As [`announce`](Self::announce), and soon: so does what it has to read.
    pub fn prepare<B: DiskBatch>(&self, batch: &B, chain: &Chain) {
        if let Some(first) = self.first_sector(chain, &[Kind::In]) {
            batch.prepare(first);
        }
    }

    /// The first sector of a request of one of `kinds`; it need not exist.
    fn first_sector(&self, chain: &Chain, kinds: &[Kind]) -> Option<u64> {
        let request = chain.request().ok().filter(|request| kinds.contains(&request.kind))?;
        let start = request.sector.checked_mul(VIRTIO_SECTOR)?;
        Some(start >> self.device.sector_size.trailing_zeros())
    }

    /// Carries out `request`.
    ///
    /// Writes may only be staged when this returns: they are done when the batch is committed, and
    /// those that fail then are reported by the batch under `tag`. A long request asks `is_interrupted`
    /// every few megabytes, and ends with [`RequestError::Interrupted`] if so: it may have been carried out
    /// in part, and is to be carried out again.
    pub fn execute<B: DiskBatch>(
        &mut self,
        batch: &mut B,
        memory: &GuestRam,
        request: &Request<'_>,
        tag: Tag,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Done, RequestError> {
        let device = &*self.device;
        let steps = Steps { is_interrupted };
        let mut bytes = 0;
        match request.kind {
            Kind::In => {
                let length = self.check_transfer(request.sector, request.data_in)?;
                let scratch = &mut self.scratch;
                transfer::read(batch, memory, request.sector, request.data_in, scratch, steps)?;
                return Ok(Done::new(length, length.into()));
            }
            Kind::Out => {
                bytes = self.check_transfer(request.sector, request.data_out)?.into();
                device.check_writable()?;
                let scratch = &mut self.scratch;
                let at = (request.sector, tag);
                transfer::write(batch, memory, at, request.data_out, scratch, steps)?;
            }
            Kind::Flush => {
                batch.commit();
                batch.sync()?;
            }
            Kind::GetId => {
                let filled = self.identify(memory, request.data_in)?;
                return Ok(Done::new(filled, 0));
            }
            Kind::Discard if device.discards || device.read_only => {
                device.check_writable()?;
                bytes = ranges::discard(device, batch, memory, request.data_out, tag, steps)?;
            }
            Kind::WriteZeroes if device.writes_zeroes() || device.read_only => {
                device.check_writable()?;
                let scratch = &mut self.scratch;
                let clearing = ranges::Clearing { device, steps, tag };
                bytes = clearing.write_zeroes(batch, memory, request.data_out, scratch)?;
            }
            Kind::WriteZeroes => return Err(RequestError::Unsupported(VIRTIO_BLK_T_WRITE_ZEROES)),
            Kind::Discard => return Err(RequestError::Unsupported(VIRTIO_BLK_T_DISCARD)),
            Kind::Other(kind) => return Err(RequestError::Unsupported(kind)),
        }
        Ok(Done::new(0, bytes))
    }

    /// Checks the sectors of a read or write, and returns its length in bytes.
    fn check_transfer(&self, sector: u64, data: Spans<'_>) -> Result<u32, RequestError> {
        let length = data.len();
        if !length.is_multiple_of(VIRTIO_SECTOR) {
            return Err(RequestError::Misaligned { length });
        }
        if length > MOST_TRANSFERRED {
            return Err(RequestError::TooLong { length, most: MOST_TRANSFERRED });
        }
        let block = self.device.logical_block_size;
        let is_whole = |sectors: u64| sectors.is_multiple_of(u64::from(block) / VIRTIO_SECTOR);
        if self.device.has_large_blocks() && !(is_whole(sector) && is_whole(length / VIRTIO_SECTOR))
        {
            return Err(RequestError::PartOfBlock { sector, length, block });
        }
        self.device.byte_range(sector, length)?;
        // A chain is shorter than 2³² bytes (VIRTIO 1.2, 2.7.5.2); the descriptor iterator ends
        // longer ones.
        Ok(u32::try_from(length).unwrap_or(u32::MAX))
    }

    fn identify(&self, memory: &GuestRam, mut into: Spans<'_>) -> Result<u32, RequestError> {
        let serial = self.device.serial.bytes();
        let count = into.len().min(serial.len() as u64) as usize;
        into.scatter(memory, &serial[..count])?;
        Ok(count as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::virtio::block::Serial;

    fn device(sectors: u64, sector_size: u32) -> Device {
        Device {
            sectors,
            sector_size,
            logical_block_size: sector_size,
            atomic_size: sector_size,
            preferred_size: 0,
            read_only: false,
            trims: false,
            discards: false,
            is_write_through: true,
            syncs_writes: false,
            serial: Serial::new("x").unwrap(),
            queues: 1,
            queue_size: 16,
        }
    }

    proptest! {
        #[test]
        fn a_range_is_inside_the_device_or_refused(
            sectors in prop_oneof![0..1u64 << 40, 0..100u64],
            sector_size in prop::sample::select(vec![512, 4096]),
            sector in prop_oneof![any::<u64>(), 0..1u64 << 42, 0..1000u64, u64::MAX / 512 - 9..u64::MAX / 512 + 9],
            length in prop_oneof![any::<u64>(), 0..1u64 << 42, 0..1000u64],
        ) {
            let device = device(sectors, sector_size);
            let start = u128::from(sector) * u128::from(VIRTIO_SECTOR);
            let exists = start + u128::from(length) <= u128::from(device.size());
            match device.byte_range(sector, length) {
                Ok(range) => {
                    prop_assert!(exists);
                    prop_assert_eq!(u128::from(range.start), start);
                    prop_assert_eq!(range.end - range.start, length);
                }
                Err(error) => {
                    prop_assert!(!exists);
                    prop_assert_eq!(error, RequestError::OutOfRange { sector, length, size: device.size() });
                }
            }
        }
    }
}
