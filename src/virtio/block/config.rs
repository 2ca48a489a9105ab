//! The configuration space.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::VIRTIO_SECTOR;
use super::device::Device;

/// Most bytes that one `DISCARD` or `WRITE_ZEROES` segment may cover: few enough that the requests
/// after it do not wait for long, whatever number of segments a request has.
const MOST_CLEARED_BYTES: u64 = 64 << 20;

/// Segments of a `DISCARD` or `WRITE_ZEROES` request.
pub(super) const MOST_CLEARED_SEGMENTS: u32 = 64;

/// Descriptors of a request in addition to those of its data: the header and the status byte.
const DESCRIPTORS_BESIDE_DATA: u16 = 2;
/// Bytes of a page of most guests.
const GUEST_PAGE: u32 = 4096;

/// Queue size that QEMU chooses unless told otherwise. A driver that has no indirect descriptors
/// must not believe that more segments fit.
const USUAL_QUEUE_SIZE: u16 = 128;

/// `struct virtio_blk_config` of VIRTIO 1.2, section 5.2.4, up to the write-zeroes fields.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

/// Bytes of the configuration space that mean something.
pub const CONFIG_SIZE: usize = size_of::<Layout>();

const _: () = assert!(CONFIG_SIZE == 60);

/// The one field that a driver may write.
const WRITEBACK_OFFSET: usize = std::mem::offset_of!(Layout, writeback);

/// The configuration space of a device.
#[derive(Debug)]
pub struct Config;

impl Config {
    /// The bytes `offset` to `offset + size`; zero where nothing is defined.
    #[must_use]
    pub fn read(device: &Device, writeback: bool, offset: u32, size: u32) -> Vec<u8> {
        let layout = Layout::new(device, writeback);
        let defined = layout.as_bytes().get(offset as usize..).unwrap_or_default();
        let mut bytes = vec![0; size as usize];
        let count = defined.len().min(bytes.len());
        bytes[..count].copy_from_slice(&defined[..count]);
        bytes
    }

    /// What a driver sets the `writeback` byte to by writing `bytes` at `offset`; `None`: the write does
    /// not cover the byte, or its value is neither 0 nor 1.
    ///
    /// `OpenVMM` writes the four bytes that the field is in.
    #[must_use]
    pub fn written_writeback(offset: u32, bytes: &[u8]) -> Option<bool> {
        let index = WRITEBACK_OFFSET.checked_sub(offset as usize)?;
        match bytes.get(index)? {
            byte @ (0 | 1) => Some(*byte == 1),
            _ => None,
        }
    }

    /// Most virtio sectors of a `DISCARD` or `WRITE_ZEROES` segment, whole sectors of the device.
    pub(super) fn most_cleared_sectors() -> u32 {
        (MOST_CLEARED_BYTES / VIRTIO_SECTOR) as u32
    }
}

/// Most segments of a request. A guest with pages of 4096 bytes cuts a long request where it has so many: that
/// must be a multiple of what is to be all or nothing.
fn most_segments(device: &Device) -> u16 {
    let most = device.queue_size.min(USUAL_QUEUE_SIZE).saturating_sub(DESCRIPTORS_BESIDE_DATA);
    let unit = u16::try_from(device.atomic_size / GUEST_PAGE).unwrap_or(u16::MAX).max(1);
    let fitted = most - most % unit;
    if fitted == 0 { most.max(1) } else { fitted }
}

impl Layout {
    fn new(device: &Device, writeback: bool) -> Layout {
        let if_discards = |value| U32::new(if device.discards { value } else { 0 });
        let if_zeroes = |value| U32::new(if device.writes_zeroes() { value } else { 0 });
        let sectors = Config::most_cleared_sectors();
        let logical_blocks = (device.sector_size / device.logical_block_size).max(1) as u16;
        let cleared_block = device.sector_size.max(device.logical_block_size);
        Layout {
            capacity: U64::new(device.size() / VIRTIO_SECTOR),
            size_max: U32::ZERO,
            seg_max: U32::new(most_segments(device).into()),
            cylinders: U16::ZERO,
            heads: 0,
            sectors: 0,
            blk_size: U32::new(device.logical_block_size),
            // The physical block is a sector: guests make worse use of a larger one (docs/atomic.md).
            physical_block_exp: logical_blocks.ilog2() as u8,
            alignment_offset: 0,
            min_io_size: U16::new(logical_blocks),
            opt_io_size: U32::new(device.preferred_size / device.logical_block_size),
            writeback: u8::from(writeback),
            unused0: 0,
            num_queues: U16::new(device.queues),
            max_discard_sectors: if_discards(sectors),
            max_discard_seg: if_discards(MOST_CLEARED_SEGMENTS),
            discard_sector_alignment: if_discards(cleared_block / VIRTIO_SECTOR as u32),
            max_write_zeroes_sectors: if_zeroes(sectors),
            max_write_zeroes_seg: if_zeroes(MOST_CLEARED_SEGMENTS),
            write_zeroes_may_unmap: u8::from(device.discards),
            unused1: [0; 3],
        }
    }
}
