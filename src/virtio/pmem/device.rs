//! The persistent memory device: its features and its configuration space.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use zerocopy::little_endian::U64;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

/// `VIRTIO_PMEM_F_SHMEM_REGION`: the memory is a shared memory region of the device, and not an
/// address range that the configuration space names.
const F_SHMEM_REGION: u32 = 0;

/// `VIRTIO_PMEM_SHMEM_REGION_ID`: the shared memory region that is the device's memory.
pub const REGION_ID: u8 = 0;

/// `struct virtio_pmem_config`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    start: U64,
    size: U64,
}

const _: () = assert!(size_of::<Layout>() == 16);

/// A persistent memory device, as its guest sees it.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// Bytes of its memory, and of its shared memory region.
    pub size: u64,
}

impl Device {
    /// The feature bits that the device offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << F_SHMEM_REGION
    }

    /// The bytes `offset` to `offset + size` of the configuration space; zero where nothing is
    /// defined. The address is the frontend's to choose, so none is given: a driver that does not
    /// look for the region finds that there is no memory at address 0.
    #[must_use]
    pub fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let layout = Layout { start: U64::ZERO, size: U64::new(self.size) };
        let defined = layout.as_bytes().get(offset as usize..).unwrap_or_default();
        let mut bytes = vec![0; size as usize];
        let count = defined.len().min(bytes.len());
        bytes[..count].copy_from_slice(&defined[..count]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_sixteen_bytes_and_zeroes_behind_them() {
        let device = Device { size: 0x0102_0304 };
        let whole = device.config(0, 20);
        assert_eq!(whole[..8], [0; 8]);
        assert_eq!(whole[8..], [4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(device.config(10, 2), [2, 1]);
        assert_eq!(device.config(u32::MAX, 3), [0; 3]);
    }
}
