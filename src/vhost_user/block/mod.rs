//! virtio-blk: a disk that is served over a socket.

mod cache_mode;
mod config;
mod device;
mod facts;
mod growth;
mod handler;

#[cfg(feature = "power-fail")]
pub(super) use config::OpenDisk;
pub(super) use config::claim_name;
pub use config::{DiskConfig, RateGroup};
pub use device::BlockDevice;
pub(super) use facts::DiskFacts;
