//! The block device: its size, features and identity.

use uuid::Uuid;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::VIRTIO_SECTOR;
use super::disk::Disk;
use crate::pmem::Durability;

/// The policy for discards, which flag sectors as zero in the map (`--discard`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// With sectors of 4096 bytes. Linux misreads the flag when a request of its own BTT driver
    /// spans sectors of 512 bytes, so there it would make the image unsafe to move.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never; zeroes are written as data.
    Off,
}

/// The identity that a guest reads: up to 20 bytes, filled up with NULs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial([u8; SERIAL_SIZE]);

const SERIAL_SIZE: usize = VIRTIO_BLK_ID_BYTES as usize;

impl Serial {
    /// The serial `text`, if it is of 1 to 20 printable ASCII characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Serial> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        let mut bytes = [0; SERIAL_SIZE];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        (printable && !text.is_empty()).then_some(Serial(bytes))
    }

    /// The first 20 hexadecimal digits of `uuid`.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Serial {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        uuid.simple().encode_lower(&mut text);
        let mut bytes = [0; SERIAL_SIZE];
        bytes.copy_from_slice(&text[..SERIAL_SIZE]);
        Serial(bytes)
    }

    /// The bytes as the guest gets them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SERIAL_SIZE] {
        &self.0
    }
}

/// What can be chosen about a device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceOptions {
    /// Refuse every change, whatever the disk allows.
    pub read_only: bool,
    /// What the guest may discard.
    pub discard: Discard,
    /// What the guest reads as the device's id.
    pub serial: Serial,
    /// Number of request queues.
    pub queues: u16,
    /// Largest number of descriptors of a queue.
    pub queue_size: u16,
}

/// A block device, as its guest sees it.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Device {
    /// Number of sectors of `sector_size` bytes.
    pub sectors: u64,
    /// Bytes of a sector: 512 or 4096.
    pub sector_size: u32,
    /// Bytes of the block that the guest addresses: part of a sector, or several that are written together.
    pub logical_block_size: u32,
    /// Bytes up to which an aligned write of a power of two is all or nothing: at least a sector.
    pub atomic_size: u32,
    /// Bytes of the writes that the guest is told to prefer; 0: it is told nothing.
    pub preferred_size: u32,
    /// Every change is refused.
    pub read_only: bool,
    /// Sectors may be flagged as zero in the map.
    pub trims: bool,
    /// `DISCARD` is offered.
    pub discards: bool,
    /// A completed write is safe without a flush.
    pub is_write_through: bool,
    /// A batch of writes takes the time of a sync of the file or more.
    pub syncs_writes: bool,
    /// What the guest reads as the device's id.
    pub serial: Serial,
    /// Number of request queues.
    pub queues: u16,
    /// Largest number of descriptors of a queue.
    pub queue_size: u16,
}

impl Device {
    /// The device that serves `disk`.
    #[must_use]
    pub fn new(disk: &impl Disk, options: &DeviceOptions) -> Device {
        let read_only = options.read_only || disk.is_read_only();
        let trims = match options.discard {
            Discard::Auto => disk.sector_size() == 4096,
            Discard::On => true,
            Discard::Off => false,
        };
        Device {
            sectors: disk.sectors(),
            sector_size: disk.sector_size(),
            logical_block_size: disk.sector_size(),
            atomic_size: disk.atomic_size(),
            preferred_size: 0,
            read_only,
            trims,
            discards: trims && !read_only,
            is_write_through: disk.durability() != Durability::PageCache,
            syncs_writes: disk.durability() == Durability::Strict,
            serial: options.serial,
            queues: options.queues,
            queue_size: options.queue_size,
        }
    }

    /// The device with logical blocks of `size` bytes. If that is part of a sector, a write of a part reads the
    /// sector and writes it as a whole, so that it does not tear either. If it is several sectors, they are all or
    /// nothing.
    #[must_use]
    pub fn with_logical_blocks(self, size: u32) -> Device {
        Device { logical_block_size: size.min(self.atomic_size), ..self }
    }

    /// Bytes of the device, whole logical blocks.
    #[must_use]
    pub fn size(&self) -> u64 {
        let bytes = self.sectors * u64::from(self.sector_size);
        bytes - bytes % u64::from(self.logical_block_size)
    }

    /// Returns whether a logical block is several sectors.
    #[must_use]
    pub fn has_large_blocks(&self) -> bool {
        self.logical_block_size > self.sector_size
    }

    /// Returns whether `WRITE_ZEROES` is offered: not where it would have to zero several sectors at once.
    #[must_use]
    pub fn writes_zeroes(&self) -> bool {
        !self.read_only && !self.has_large_blocks()
    }

    /// Virtio sectors, of 512 bytes, in a sector of the device.
    #[must_use]
    pub fn virtio_sectors_per_sector(&self) -> u32 {
        self.sector_size / VIRTIO_SECTOR as u32
    }

    /// The feature bits that the device offers.
    ///
    /// Not among them: `SIZE_MAX`, since no segment is too long; `GEOMETRY`, `LIFETIME`,
    /// `SECURE_ERASE` and `ZONED`, since there is nothing true to say.
    #[must_use]
    pub fn features(&self) -> u64 {
        let bit = |feature: u32| 1u64 << feature;
        let mut features = bit(VIRTIO_F_VERSION_1)
            | bit(VIRTIO_F_IN_ORDER)
            | bit(VIRTIO_RING_F_INDIRECT_DESC)
            | bit(VIRTIO_RING_F_EVENT_IDX)
            | bit(VIRTIO_BLK_F_SEG_MAX)
            | bit(VIRTIO_BLK_F_BLK_SIZE)
            | bit(VIRTIO_BLK_F_TOPOLOGY)
            | bit(VIRTIO_BLK_F_FLUSH)
            | bit(VIRTIO_BLK_F_CONFIG_WCE)
            | bit(VIRTIO_BLK_F_MQ);
        if self.read_only {
            features |= bit(VIRTIO_BLK_F_RO);
        }
        if self.writes_zeroes() {
            features |= bit(VIRTIO_BLK_F_WRITE_ZEROES);
        }
        if self.discards {
            features |= bit(VIRTIO_BLK_F_DISCARD);
        }
        features
    }

    /// Returns whether a write must be durable before it completes, by what the driver has accepted and by
    /// the `writeback` byte that it has set (VIRTIO 1.2, 5.2.5.2).
    #[must_use]
    pub fn must_write_through(&self, accepted: u64, writeback: bool) -> bool {
        let has = |feature: u32| accepted & 1 << feature != 0;
        if has(VIRTIO_BLK_F_CONFIG_WCE) { !writeback } else { !has(VIRTIO_BLK_F_FLUSH) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_short_printable_text() {
        assert_eq!(Serial::new("abc").unwrap().bytes()[..4], *b"abc\0");
        assert!(Serial::new("12345678901234567890").is_some());
        for bad in ["", "123456789012345678901", "new\nline", "ü"] {
            assert_eq!(Serial::new(bad), None, "{bad:?}");
        }
        let uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        assert_eq!(Serial::from_uuid(uuid).bytes(), b"00112233445566778899");
    }
}
