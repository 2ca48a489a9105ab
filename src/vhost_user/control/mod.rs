//! The control socket, by which the administrator changes a running daemon.
//! Every process that can connect may send requests; the permissions of the socket restrict that. A
//! client receives an answer to each request, in order. Requests and answers are lines of JSON
//! ([`Request`], [`Answer`]).

mod client;
mod connection;
mod protocol;
mod server;

pub use client::{ClientError, request};
pub use protocol::{Answer, Request};
pub use server::{BoundControl, Control};
