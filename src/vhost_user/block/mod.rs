//! virtio-blk: a disk that is served over a socket.

mod cache_mode;
mod config;
mod device;
mod facts;
mod growth;
mod handler;
mod on_demand;
mod on_demand_queue;
mod values;

pub(super) use config::claim_name;
pub use config::{DiskConfig, MappedDisk, RateGroup};
pub use device::BlockDevice;
pub(super) use facts::DiskFacts;
pub use values::{
    MOST_POLL_US, is_atomic_size, is_logical_block_size, is_queue_count, is_queue_size,
};
