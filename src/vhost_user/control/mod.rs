//! The control socket, by which the administrator changes a running daemon.
//!
//! Every process that can connect may send requests; the permissions of the socket restrict that. A
//! client receives an answer to each request, in order. Requests and answers are lines of JSON
//! ([`Request`], [`Answer`]).

mod administration;
mod client;
mod connection;
mod new_disk;
mod protocol;
mod report;
mod server;

pub use administration::{Administration, ControlConfig};
pub use client::{ClientError, request, request_with};
pub use new_disk::{Handed, NewDiscard, NewDisk, NewDurability};
pub use protocol::{Answer, MOST_QUIESCE_SECONDS, QUIESCE_SECONDS, Request, VERSION};
pub use report::{
    ArenaReport, DeviceReport, DiskReport, FrontendReport, Identity, LimitsReport, OperationReport,
    PagesReport, QueueReport, RateLimitError, RateReport, SyncReport,
};
pub use server::{BoundControl, Control};
