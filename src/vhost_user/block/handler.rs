//! Runs the requests of one queue of a disk.

use std::sync::Arc;

use log::Level;
use vm_memory::GuestAddress;

use super::super::guest_log::LimitedLog;
use super::super::queue::{
    BATCH_REQUESTS, Completion, Completions, Flush, Flusher, Handler, Operation, Outcome, Reply,
    Requests, Told,
};
use super::device::Shared;
use crate::virtio::block::{
    Chain, Device, DiskBatch, DiskQueue, Done, Executor, Kind, RequestError,
};
use crate::virtio::{BadAddress, GuestRam, SyncError, store};

/// How many requests ahead of the one that is carried out the sectors are fetched: as far as a memory
/// access takes, in the smallest requests.
const LOOK_AHEAD: usize = 3;

/// What a guest is told of a request.
#[derive(Debug)]
pub(in crate::vhost_user) struct BlockReply {
    /// Where its status byte goes.
    status: Option<GuestAddress>,
    /// `None`: it was not understood.
    kind: Option<Kind>,
    result: Result<Done, Failure>,
}

/// Why a request has failed. Apart from what each request carries along, which is moved several times.
type Failure = Box<RequestError>;

impl Reply for BlockReply {
    #[inline]
    fn store(self, flushed: Result<(), SyncError>, memory: &GuestRam, log: &LimitedLog) -> Told {
        let BlockReply { status, kind, result } = self;
        let flushed = flushed.map_err(|error| Failure::new(error.into()));
        let (done, failed, value) = match result.and_then(|done| flushed.map(|()| done)) {
            Ok(done) => (done, false, 0),
            Err(error) => (Done::default(), true, report(&error, log)),
        };
        let outcome = Outcome { operation: operation(kind), bytes: done.bytes(), failed };
        let is_stored = match status.map(|address| store(memory, address, value)) {
            Some(Ok(())) => true,
            Some(Err(error)) => report_status(Some(&error), log),
            None => report_status(None, log),
        };
        Told { length: if is_stored { done.filled + 1 } else { 0 }, outcome }
    }
}

/// Logs why a request has failed. Returns what the guest is told.
#[cold]
fn report(error: &RequestError, log: &LimitedLog) -> u8 {
    let level = if error.is_the_guests() { Level::Warn } else { Level::Error };
    log.line(level, error);
    error.status()
}

/// Logs that the guest is not told: there is no room for the status byte, or it is not guest memory.
#[cold]
fn report_status(error: Option<&BadAddress>, log: &LimitedLog) -> bool {
    match error {
        Some(error) => log.line(Level::Warn, &format_args!("status byte: {error}")),
        None => log.line(Level::Warn, &"a request without a status byte"),
    }
    false
}

/// What a request is counted as.
fn operation(kind: Option<Kind>) -> Operation {
    match kind {
        Some(Kind::In) => Operation::Read,
        Some(Kind::Out) => Operation::Write,
        Some(Kind::Flush) => Operation::Flush,
        Some(Kind::Discard) => Operation::Discard,
        Some(Kind::WriteZeroes) => Operation::WriteZeroes,
        Some(Kind::GetId | Kind::Other(_)) | None => Operation::Other,
    }
}

impl BlockReply {
    fn was_interrupted(&self) -> bool {
        self.result.as_ref().is_err_and(|error| matches!(**error, RequestError::Interrupted))
    }

    /// Returns whether the request has changed sectors.
    fn changes_sectors(&self) -> bool {
        matches!(self.kind, Some(Kind::Out | Kind::WriteZeroes | Kind::Discard))
            && self.result.is_ok()
    }

    /// What a rate limit on bytes charges for the request. A discard moves none.
    fn charged(&self) -> u64 {
        let moves = matches!(self.kind, Some(Kind::In | Kind::Out | Kind::WriteZeroes));
        self.result.as_ref().ok().filter(|_| moves).map_or(0, |done| done.bytes())
    }
}

/// Carries out the requests of one queue.
pub(in crate::vhost_user) struct BlockHandler<Q> {
    queue: Q,
    requests: BlockRequests,
}

/// The requests of a batch, step by step.
struct BlockRequests {
    shared: Arc<Shared>,
    executor: Executor,
    chains: Vec<Chain>,
    flusher: Arc<Flusher>,
    /// How many requests are left of those that were offered before the ring was resumed.
    offered_before: usize,
}

impl<Q: DiskQueue> BlockHandler<Q> {
    pub(super) fn new(queue: Q, shared: Arc<Shared>, flusher: Arc<Flusher>) -> BlockHandler<Q> {
        let executor = Executor::new(shared.device.clone());
        let chains = new_chains();
        let requests = BlockRequests { shared, executor, chains, flusher, offered_before: 0 };
        BlockHandler { queue, requests }
    }

    /// The queue of the disk.
    pub(super) fn into_queue(self) -> Q {
        self.queue
    }

    /// Carries requests out by `queue` from now on, which is of the same disk.
    pub(super) fn take_over(&mut self, queue: Q, device: &Arc<Device>, flusher: Arc<Flusher>) {
        self.queue = queue;
        self.requests.executor = Executor::new(device.clone());
        self.requests.flusher = flusher;
    }

    /// Has flushes carried out by `flusher`, from now on.
    pub(super) fn flush_by(&mut self, flusher: Arc<Flusher>) {
        self.requests.flusher = flusher;
    }
}

fn new_chains() -> Vec<Chain> {
    (0..BATCH_REQUESTS).map(|_| Chain::default()).collect()
}

impl<Q: DiskQueue> Handler for BlockHandler<Q> {
    type Reply = BlockReply;

    fn ring_starts(&mut self, is_resumed: bool, offered: usize) {
        self.requests.offered_before = if is_resumed { offered } else { 0 };
        self.requests.shared.cache_mode.ring_starts(is_resumed, &self.requests.shared.log);
    }

    fn run(&mut self, requests: &Requests<'_>, completions: &mut Completions<BlockReply>) -> usize {
        let mut batch = self.queue.batch();
        self.requests.take(requests, &batch);
        let done = self.requests.execute(requests, &mut batch, completions);
        commit(&mut batch, completions);
        requests.counters().fences.add(batch.take_fences());
        drop(batch);
        self.requests.look_for_flushes(completions);
        self.requests.write_through(completions);
        done
    }

    fn gathers(&self) -> bool {
        self.requests.shared.device.syncs_writes
    }

    fn disconnect(&mut self) {
        self.requests.chains = new_chains();
        self.requests.offered_before = 0;
    }
}

impl BlockRequests {
    /// Reads the requests. Each step goes through all of them before the next: what one step of a request
    /// waits for comes into the caches while that of others is done.
    fn take<B: DiskBatch>(&mut self, requests: &Requests<'_>, batch: &B) {
        for (chain, head) in self.chains.iter_mut().zip(requests.heads) {
            chain.take(requests.table.chain(*head));
        }
        for chain in &mut self.chains[..requests.heads.len()] {
            chain.parse(requests.memory);
            self.executor.announce(batch, chain);
        }
    }

    /// Carries the requests out. Returns how many: all, unless it was interrupted.
    fn execute<B: DiskBatch>(
        &mut self,
        requests: &Requests<'_>,
        batch: &mut B,
        completions: &mut Completions<BlockReply>,
    ) -> usize {
        let count = requests.heads.len();
        for tag in 0..count {
            if let Some(ahead) = self.chains[..count].get(tag + LOOK_AHEAD) {
                self.executor.prepare(batch, ahead);
            }
            let (kind, result, flush) = self.execute_one(requests, batch, tag);
            let chain = &self.chains[tag];
            let reply = BlockReply { status: chain.status(), kind, result };
            if reply.was_interrupted() {
                return tag;
            }
            let goes_on = !requests.is_limited() || requests.charge(reply.charged());
            completions.push(Completion { head: chain.head(), reply, flush });
            if !goes_on || requests.interrupt().is_due() {
                return tag + 1;
            }
        }
        count
    }

    /// Carries out the request `tag`. Returns what it is, what became of it, and what it waits for.
    fn execute_one<B: DiskBatch>(
        &mut self,
        requests: &Requests<'_>,
        batch: &mut B,
        tag: usize,
    ) -> (Option<Kind>, Result<Done, Failure>, Option<Flush>) {
        let request = match self.chains[tag].request() {
            Ok(request) => request,
            Err(error) => return (None, Err(Failure::new(error.clone())), None),
        };
        if request.kind == Kind::Flush
            && let Some(wake) = requests.wake
            && self.flusher.takes_time()
        {
            batch.commit();
            let flush = self.flusher.begin(wake);
            return (Some(Kind::Flush), Ok(Done::default()), Some(flush));
        }
        let interrupt = requests.interrupt();
        let is_interrupted = || interrupt.is_due();
        let result = self.executor.execute(batch, requests.memory, &request, tag, &is_interrupted);
        (Some(request.kind), result.map_err(Failure::new), None)
    }

    /// Says that the guest flushes if it does so in this batch and writes are written through.
    fn look_for_flushes(&mut self, completions: &mut Completions<BlockReply>) {
        let before = self.offered_before.min(completions.of_batch().len());
        self.offered_before -= before;
        let mut offered_since = completions.of_batch().skip(before);
        if self.shared.must_sync() && offered_since.any(|reply| reply.kind == Some(Kind::Flush)) {
            self.shared.cache_mode.flushed(&self.shared.log);
        }
    }

    /// Makes the writes of the batch durable if they have to be, or fails them.
    fn write_through(&self, completions: &mut Completions<BlockReply>) {
        let must_sync = self.shared.must_sync() && !mutant!(vhost_user::WriteThroughForgotten);
        if !must_sync || !completions.of_batch().any(|reply| reply.changes_sectors()) {
            return;
        }
        let Err(error) = self.flusher.flush_now() else { return };
        for reply in completions.of_batch().filter(|reply| reply.changes_sectors()) {
            reply.result = Err(Failure::new(error.into()));
        }
    }
}

/// Completes all writes, and fails those that could not be.
fn commit<B: DiskBatch>(batch: &mut B, completions: &mut Completions<BlockReply>) {
    batch.commit();
    for (tag, error) in batch.take_failures() {
        // One that was interrupted is carried out once more.
        if let Some(reply) = completions.of_batch().nth(tag) {
            reply.result = Err(Failure::new(error.into()));
        }
    }
}
