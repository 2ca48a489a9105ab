//! virtio-blk: a disk that is served over a socket.

mod cache_mode;
mod config;
mod device;
mod handler;

pub use config::{DiskConfig, MappedDisk};
pub use device::BlockDevice;
