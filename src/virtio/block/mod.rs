//! The virtio block device (VIRTIO 1.2, section 5.2) on a BTT.

mod config;
mod device;
mod disk;
mod error;
mod execute;
mod ranges;
mod request;
mod transfer;

pub use config::{CONFIG_SIZE, Config};
pub use device::{Device, DeviceOptions, Discard, Serial};
pub use disk::{Disk, DiskBatch, DiskQueue};
pub use error::RequestError;
pub use execute::{Done, Executor};
pub use request::{Chain, Kind, Request};

/// Bytes of the sector that virtio-blk counts in, whatever the device's own (VIRTIO 1.2, 5.2.4).
pub const VIRTIO_SECTOR: u64 = 512;
