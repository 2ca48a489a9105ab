//! The control socket, by which the administrator changes a running daemon.
//!
//! Every process that can connect may send requests; the permissions of the socket restrict that. A
//! client receives an answer to each request, in order. Requests and answers are lines of JSON
//! ([`Request`], [`Answer`]).

mod administration;
mod client;
mod connection;
mod protocol;
mod report;
mod server;

pub use administration::Administration;
pub use client::{ClientError, request};
pub use protocol::{Answer, MOST_QUIESCE_SECONDS, QUIESCE_SECONDS, Request, VERSION};
pub use report::{
    ArenaReport, DeviceReport, DiskReport, FrontendReport, Identity, LimitsReport, OperationReport,
    PagesReport, QueueReport, RateReport, SyncReport,
};
pub use server::{BoundControl, Control};
