//! virtio-blk: a disk that is served over a socket.

mod cache_mode;
mod config;
mod device;
mod facts;
mod growth;
mod handler;
mod lent_queue;
mod on_demand;

pub(super) use config::claim_name;
pub use config::{DiskConfig, MappedDisk, RateGroup};
pub use device::BlockDevice;
pub(super) use facts::DiskFacts;
