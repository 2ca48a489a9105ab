//! The flush queue of a persistent memory device.
//!
//! All requests of a batch share one sync: the guest made its stores before it sent the flush, and all
//! flushes of the batch were sent before the sync begins.

use std::sync::Arc;

use log::Level;

use super::super::guest_log::LimitedLog;
use super::super::queue::{
    Completion, Completions, Flusher, Handler, Operation, Outcome, Reply, Requests, Told,
};
use crate::virtio::pmem::Request;
use crate::virtio::{GuestRam, SyncError};

/// What a guest is told of a request.
#[derive(Debug)]
pub(in crate::vhost_user) struct PmemReply {
    request: Request,
    /// What came of it, unless it waits for a flush.
    synced: Result<(), SyncError>,
}

impl Reply for PmemReply {
    fn store(self, flushed: Result<(), SyncError>, memory: &GuestRam, log: &LimitedLog) -> Told {
        let is_flush = self.request.is_flush();
        let (filled, error) = self.request.answer(memory, self.synced.and(flushed));
        let operation = if is_flush { Operation::Flush } else { Operation::Other };
        let outcome = Outcome { operation, bytes: 0, failed: error.is_some() };
        if let Some(error) = error {
            let level = if error.is_the_guests() { Level::Warn } else { Level::Error };
            log.line(level, &error);
        }
        Told { length: filled, outcome }
    }
}

/// Carries out the requests of the flush queue.
pub(in crate::vhost_user) struct PmemHandler {
    flusher: Arc<Flusher>,
}

impl PmemHandler {
    pub(super) fn new(flusher: Arc<Flusher>) -> PmemHandler {
        PmemHandler { flusher }
    }
}

impl Handler for PmemHandler {
    type Reply = PmemReply;

    fn run(&mut self, requests: &Requests<'_>, completions: &mut Completions<PmemReply>) -> usize {
        let taken = requests
            .heads
            .iter()
            .map(|head| Request::new(requests.table.chain(*head), requests.memory));
        let taken: Vec<Request> = taken.collect();
        let (mut flush, mut synced) = (None, Ok(()));
        if taken.iter().any(Request::is_flush) {
            match requests.wake {
                Some(wake) => flush = Some(self.flusher.begin(wake)),
                None => synced = self.flusher.flush_now(),
            }
        }
        let done = taken.len();
        for request in taken {
            let (head, flush) = (request.head(), flush.clone());
            completions.push(Completion { head, reply: PmemReply { request, synced }, flush });
        }
        done
    }
}
