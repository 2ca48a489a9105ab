//! The device at the end of a socket: the vhost-user protocol, rings and their workers.
//!
//! Built on the crates `vhost` and `vhost-user-backend`. What they leave to be minded, and where it
//! is minded here:
//!
//! * an error returned to their event loop ends a worker for good: `backend` returns none for
//!   anything that a guest or a frontend can do, and `ring` swallows the one that the loop itself
//!   would stumble over;
//! * their `serve` binds the socket anew at each connection: `server` keeps one listener;
//! * they accept on a listening socket only: `relay` serves a connected one;
//! * they do not say when a device starts: `windows` maps when the first of its rings runs;
//! * one request, one lock, one memory guard and one move of the used index is too slow: `worker` takes
//!   them per batch, and reads and writes the rings by `available` and `completions`.

#![forbid(unsafe_code)]

mod announce;
mod available;
mod backend;
mod cache_mode;
mod completions;
pub mod control;
mod devices;
mod disk;
mod error;
#[cfg(feature = "power-fail")]
mod failing_disk;
mod flusher;
mod guest_log;
#[cfg(feature = "power-fail")]
mod injection;
#[cfg(feature = "mutants")]
pub mod mutant;
mod pmem;
mod polling;
mod protocol;
mod relay;
mod ring;
mod server;
mod socket;
mod stop;
mod windows;
mod worker;

pub use backend::Backend;
pub use devices::{DeviceConfig, Devices};
pub use disk::DiskConfig;
pub use error::Error;
#[cfg(feature = "power-fail")]
pub use injection::Injection;
pub use pmem::PmemConfig;
pub use server::{AnyServer, Served, Server};
pub use socket::{Endpoint, SocketSource};
pub use stop::Stop;
pub use windows::{MOST_WINDOWS, RegionConfig, Regions, WindowConfig};

/// Most queues of a device: the crates keep them in a bit mask of 64.
pub const MOST_QUEUES: u16 = 64;
/// Largest queue (VIRTIO 1.2, 2.7).
pub const MOST_QUEUE_SIZE: u16 = 32768;
