//! The queue core, one for all devices: requests off a ring, through the device's handler, and back.
//!
//! ```text
//! thread ── wakes at a kick ──> worker ── pop ──> Handler::run ── complete ──> publish ── sleep
//!                                  │  available      │ block, pmem    completions
//!                                  └── polling       └── flusher
//! ```
//!
//! * [`ring`] is the ring as the session sets it up; the session and the worker share it by a lock;
//! * [`thread`] sleeps until the guest kicks, and lets the [`worker`] go on, one batch after another;
//! * a batch is popped off the available ring ([`available`]), carried out by the device's [`Handler`],
//!   and completed ([`completions`], the one place where the used index is published);
//! * [`polling`] decides how long an empty ring is looked at before the thread sleeps;
//! * [`flusher`] carries out flushes in parallel to the batches;
//! * [`gate`] lets the administrator stop the queues, or limit their rate ([`limiter`]);
//! * [`counters`] and [`histogram`] are what is counted meanwhile.

mod available;
mod completions;
mod counters;
mod flusher;
mod gate;
mod histogram;
mod limiter;
mod polling;
mod ring;
mod serve;
mod thread;
mod wake_signal;
mod worker;

pub(super) use completions::{Completion, Completions, Reply, Told};
pub(super) use counters::{Counter, Operation, Outcome, QueueCounters, SyncCounters};
pub(super) use flusher::{Flush, Flusher};
pub(super) use gate::Gate;
pub(super) use limiter::Limiter;
pub use limiter::{BucketConfig, RateLimit};
pub(super) use ring::RingState;
pub use ring::{Memory, Ring, RingPlaces};
pub(super) use serve::{Serve, lock};
pub(super) use thread::{Queue, QueueThread};
pub(super) use worker::{BATCH_REQUESTS, Handler, Progress, Requests, Worker};
