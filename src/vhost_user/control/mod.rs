//! The control socket: the administrator's way to a daemon that runs.
//!
//! Every process that can connect may ask; the permissions of the socket restrict that. A client sends
//! requests and receives an answer to each, in order. Either is a line of JSON ([`Request`], [`Answer`]).

mod client;
mod connection;
mod protocol;
mod server;

pub use client::{ClientError, request};
pub use protocol::{Answer, Request};
pub use server::{BoundControl, Control};
