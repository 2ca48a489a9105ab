//! A DAX device as persistent memory of its guest: virtio-pmem at the end of a socket.

mod backend;
mod config;
mod worker;

pub use config::PmemConfig;
