//! A disk at the end of a socket: virtio-blk.

mod cache_mode;
mod config;
mod device;
mod handler;

pub use config::DiskConfig;
#[cfg(feature = "power-fail")]
pub(super) use config::OpenDisk;
pub use device::BlockDevice;
