//! A disk at the end of a socket: virtio-blk.

mod cache_mode;
mod config;
mod device;
mod handler;

pub use config::{DiskConfig, MappedDisk};
pub use device::BlockDevice;
