//! The persistent memory device: VIRTIO 1.2, section 5.19, with the shared memory region of 1.4.
//!
//! The guest maps what the device is, and never asks for its bytes. All that goes through the queue
//! is the request to make durable what it has stored.

mod device;
mod flush;

pub use device::{Device, REGION_ID};
pub use flush::{Request, RequestError};
