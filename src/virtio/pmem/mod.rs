//! The persistent memory device: VIRTIO 1.2, section 5.19, with the shared memory region of 1.4.
//!
//! The guest maps the memory of the device and accesses it directly. The queue carries only flush
//! requests, which make the guest's stores durable.

mod device;
mod flush;

pub use device::{Device, REGION_ID};
pub use flush::{Request, RequestError};
