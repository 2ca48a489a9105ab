//! virtio-pmem: a DAX device that is served over a socket as persistent memory of a guest.

mod config;
mod device;
mod handler;

pub use config::PmemConfig;
