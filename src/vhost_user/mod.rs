//! Devices that are served over sockets: the vhost-user protocol, rings and their workers.
//!
//! * `server` listens at a socket and serves one frontend after another: each is a `session`;
//! * `protocol` is the messages of a session; what they do to the rings is in `rings`, and what guest
//!   memory is in `memory_table`;
//! * `queue` is the queue core, one for all devices: a queue's thread lets its worker take requests off the
//!   ring, carry them out by the device's handler (`block`, `pmem`), and complete them;
//! * `windows` are the shared memory regions of a device, and `control` is the administrator's socket.

#![forbid(unsafe_code)]

mod addition;
mod announce;
mod block;
mod connection;
pub mod control;
mod device;
mod devices;
mod error;
mod eventfd;
mod exposure;
pub(crate) mod fd_passing;
mod feature_names;
mod fleet;
mod grants;
mod guest_log;
pub mod handed;
mod hold;
mod inherited;
mod limits;
mod medium;
mod memory_table;
mod migration;
#[cfg(feature = "mutants")]
pub mod mutant;
mod page_tables;
mod pause;
mod peer;
mod pmem;
mod protocol;
mod queue;
mod rings;
mod server;
mod session;
mod sharing;
mod socket;
mod stop;
mod supervisor;
mod totals;
mod wakeup;
mod windows;

pub use addition::AdditionConfig;
pub use block::{
    BlockDevice, DiskConfig, MOST_POLL_US, MappedDisk, RateGroup, is_atomic_size,
    is_logical_block_size, is_queue_count, is_queue_size,
};
pub use devices::{DeviceConfig, Devices};
pub use error::Error;
pub use grants::grants;
pub use inherited::{Inherited, PassedSockets, take_kept};
pub use limits::raise_descriptor_limit;
pub use medium::{OpenMedium, TheMapping};
pub use pmem::PmemConfig;
pub(crate) use protocol::message;
pub use queue::{BucketConfig, Memory, RateLimit, Ring, RingPlaces};
pub use server::Server;
pub use session::has_own_answer;
pub use socket::{
    Endpoint, SocketAccess, SocketName, SocketPath, SocketSource, remove_left_socket,
};
pub use stop::Stop;
pub use supervisor::Stopper;
pub use windows::{MOST_WINDOWS, RegionConfig, Regions, WindowConfig};

/// Most queues of a device.
pub const MOST_QUEUES: u16 = 64;
/// Largest queue (VIRTIO 1.2, 2.7).
pub const MOST_QUEUE_SIZE: u16 = 32768;
