//! A DAX device as persistent memory of its guest: virtio-pmem at the end of a socket.

mod config;
mod device;
mod handler;

pub use config::PmemConfig;
