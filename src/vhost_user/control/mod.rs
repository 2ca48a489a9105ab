//! The control socket: the administrator's way to a daemon that runs.
//!
//! Whoever can connect may ask; the socket's permissions are what there is against that. A connection is
//! one request and one answer, each a line of JSON ([`Request`], [`Answer`]), and ends then.

mod client;
mod protocol;
mod server;

pub use client::{ClientError, request};
pub use protocol::{Answer, Request};
pub use server::Control;
