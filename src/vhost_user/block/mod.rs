//! virtio-blk: a disk that is served over a socket.

mod cache_mode;
mod config;
mod device;
mod handler;

pub use config::DiskConfig;
#[cfg(feature = "power-fail")]
pub(super) use config::OpenDisk;
pub use device::BlockDevice;
