//! The keeper: holds the connections of frontends while the process that serves them is replaced.
//!
//! A frontend that cannot reconnect loses its disk with the process at the other end of its socket. The keeper
//! is that other end: it passes messages on to the serving process, and what that answers back, remembers what
//! a frontend has set up, and sets the same up at the next process when one has ended. Requests of guests do
//! not pass through it: they are in guest memory.
//!
//! * `process` starts the serving process, again when it has ended, and is all that the main thread does;
//! * `relay` is the other thread: a loop over all sockets, in a sandbox of its own ([`sandbox::enter_relay`]);
//! * `link` is one connection of a frontend, `record` what was set up over it, `channel` its socket for requests
//!   of the device, and `wire` sends and receives messages on a socket without waiting.
//!
//! The keeper opens no file and reads nothing of a guest but the indexes of its used rings.
//!
//! [`sandbox::enter_relay`]: crate::sandbox::enter_relay

#![forbid(unsafe_code)]

mod channel;
mod link;
mod process;
mod record;
mod relay;
mod wire;

pub use process::{KeeperError, Plan, keep};
