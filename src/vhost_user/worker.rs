//! A queue's worker: requests off the ring, through the engine, and back.
//!
//! Requests are carried out one after another and completed in order, so that whoever takes over a
//! ring at its used index, a new process after a crash above all, repeats exactly what was not
//! completed. Up to [`TURN_REQUESTS`] that wait in the ring share a turn: one lock, one look at guest
//! memory, the fences of their writes, and one move of the used index. A flush that takes time goes on
//! beside the turns; those that come after it are carried out meanwhile, and completed after it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use log::Level;
use vhost_user_backend::VringState;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestAddressSpace};
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::available::{Snapshot, look, take_heads};
use super::completions::{Completion, Completions};
use super::flusher::Flusher;
use super::guest_log::GuestLog;
use super::polling::Polling;
use super::ring::{Memory, Ring};
use crate::virtio::block::{Chain, Device, DiskBatch, DiskQueue, Executor, Kind};
use crate::virtio::{DescriptorTable, GuestRam};

/// Most requests of a turn; the connection can get at the ring in between.
const TURN_REQUESTS: usize = 64;
/// How many requests ahead of the one that is carried out the sectors are fetched: as far as a memory
/// access takes, in the smallest requests.
const LOOK_AHEAD: usize = 3;

/// What a worker asks its device while it is at work.
pub(super) trait Conditions {
    /// Whether a write has to be durable when it completes: a guest that keeps its rings full can
    /// change that, and is to be heard.
    fn must_sync(&self) -> bool;

    /// The ring starts: at index 0, or where it was stopped before.
    fn ring_starts(&self, is_resumed: bool);

    /// The guest has flushed, and has not offered that before the ring was resumed.
    fn flushed(&self);

    /// Whether no more requests are to be taken.
    fn is_stopping(&self) -> bool;
}

/// What a turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Requests were carried out, and there may be more.
    Done,
    /// Nothing waits in the ring.
    Idle,
    /// Nothing can be taken: the ring is stopped, or as many requests as it holds wait for a flush.
    Stopped,
}

/// A request of a turn that has been carried out.
struct Taken {
    completion: Completion,
    /// `None`: it was not understood.
    kind: Option<Kind>,
}

impl Taken {
    /// Returns whether the request has changed sectors.
    fn changes_sectors(&self) -> bool {
        matches!(self.kind, Some(Kind::Out | Kind::WriteZeroes | Kind::Discard))
            && self.completion.result.is_ok()
    }
}

/// How a worker hears that a flush is over.
#[derive(Debug)]
struct Wake {
    notifier: Arc<EventNotifier>,
    consumer: EventConsumer,
}

/// The worker of one queue.
pub(super) struct Worker<Q> {
    queue: Q,
    executor: Executor,
    /// Requests of the turn come first.
    chains: Vec<Chain>,
    /// What became of each.
    taken: Vec<Taken>,
    completions: Completions,
    /// The ring that the completions are for.
    ring: Option<Ring>,
    polling: Polling,
    /// The guest has been told not to kick.
    is_quiet: bool,
    /// The connection has started the ring.
    has_started: bool,
    /// How many requests are left of those that were offered before the ring was resumed.
    offered_before: usize,
    flusher: Arc<Flusher>,
    /// While there is a connection whose event loop listens to it.
    wake: Option<Wake>,
    log: GuestLog,
}

impl<Q: DiskQueue> Worker<Q> {
    pub(super) fn new(
        log: GuestLog,
        queue: Q,
        device: Arc<Device>,
        flusher: Arc<Flusher>,
    ) -> Worker<Q> {
        Worker {
            queue,
            executor: Executor::new(device),
            chains: (0..TURN_REQUESTS).map(|_| Chain::default()).collect(),
            taken: Vec::with_capacity(TURN_REQUESTS),
            completions: Completions::default(),
            ring: None,
            polling: Polling::new(Duration::ZERO),
            is_quiet: false,
            has_started: false,
            offered_before: 0,
            flusher,
            wake: None,
            log,
        }
    }

    /// Who carries flushes out.
    pub(super) fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Has flushes carried out by `flusher`, from now on.
    pub(super) fn flush_by(&mut self, flusher: Arc<Flusher>) {
        self.flusher = flusher;
    }

    /// Waits for up to `most` at an empty ring, from now on.
    pub(super) fn poll_for(&mut self, most: Duration) {
        self.polling = Polling::new(most);
    }

    /// Begins a connection. Returns the descriptor that its event loop has to listen to: once it is
    /// readable, [`woken`](Self::woken) is to be called.
    pub(super) fn connect(&mut self) -> io::Result<RawFd> {
        let flags = EventFlag::NONBLOCK | EventFlag::CLOEXEC;
        let (consumer, notifier) = new_event_consumer_and_notifier(flags)?;
        let descriptor = consumer.as_raw_fd();
        self.wake = Some(Wake { notifier: Arc::new(notifier), consumer });
        Ok(descriptor)
    }

    /// Ends a connection, whose event loop has ended.
    pub(super) fn disconnect(&mut self, memory: &Memory) {
        self.settle(memory);
        self.wake = None;
        self.ring = None;
        self.has_started = false;
        self.offered_before = 0;
    }

    /// A flush is over.
    pub(super) fn woken(&self) {
        if let Some(wake) = &self.wake {
            // There is nothing to read if it was woken for several flushes at once.
            let _ = wake.consumer.consume();
        }
    }

    /// Waits until everything that was taken off the ring is completed.
    pub(super) fn settle(&mut self, memory: &Memory) {
        self.completions.wait();
        if let Some(ring) = self.ring.clone()
            && let Err(error) = self.publish(&mut ring.turn(), &memory.memory())
        {
            self.log.line(Level::Warn, &format_args!("ring: {error}"));
        }
        self.completions.clear();
    }

    /// Carries out what waits in `ring`, and what comes soon after, until nothing does or the ring is
    /// stopped.
    pub(super) fn serve(&mut self, ring: &Ring, memory: &Memory, conditions: &impl Conditions) {
        if self.ring.is_none() {
            self.ring = Some(ring.clone());
        }
        self.is_quiet = false;
        self.polling.woken();
        while !conditions.is_stopping() {
            match self.step(ring, memory, conditions) {
                Ok(true) => {}
                Ok(false) => return,
                // The guest's ring is broken; it has to set it up anew.
                Err(error) => return self.log.line(Level::Warn, &format_args!("ring: {error}")),
            }
        }
    }

    /// Carries out a turn, or a look at an empty ring. Whether to come back at once.
    fn step(
        &mut self,
        ring: &Ring,
        memory: &Memory,
        conditions: &impl Conditions,
    ) -> Result<bool, virtio_queue::Error> {
        let turn = self.turn(&mut ring.turn(), memory, conditions)?;
        Ok(match turn {
            Turn::Done => true,
            Turn::Idle => self.polling.goes_on() || self.rest(&mut ring.turn(), memory)?,
            Turn::Stopped => false,
        })
    }

    /// Carries out a turn.
    fn turn(
        &mut self,
        state: &mut VringState<Memory>,
        memory: &Memory,
        conditions: &impl Conditions,
    ) -> Result<Turn, virtio_queue::Error> {
        if self.completions.has_ready() {
            self.publish(state, &memory.memory())?;
        }
        // As many as the ring has room for, whatever a guest says that it offers.
        let room = usize::from(state.get_queue().size()).saturating_sub(self.completions.len());
        if !state.is_enabled() || !state.get_queue().ready() || room == 0 {
            return Ok(Turn::Stopped);
        }
        let queue = state.get_queue_mut();
        if !self.has_started {
            self.start(queue, memory, conditions)?;
        }
        if self.polling.is_waiting() && look(queue, memory)?.0 == 0 {
            return Ok(Turn::Idle);
        }
        if !self.is_quiet {
            queue.disable_notification(&*memory.memory())?;
            self.is_quiet = true;
        }
        let snapshot = self.take(queue, memory, room)?;
        if self.taken.is_empty() {
            return Ok(Turn::Idle);
        }
        self.polling.found();
        self.look_for_flushes(conditions);
        self.write_through(conditions);
        self.taken.drain(..).for_each(|taken| self.completions.push(taken.completion));
        self.publish(state, &snapshot)?;
        Ok(Turn::Done)
    }

    /// Begins to serve a ring.
    fn start(
        &mut self,
        ring: &virtio_queue::Queue,
        memory: &Memory,
        conditions: &impl Conditions,
    ) -> Result<(), virtio_queue::Error> {
        let is_resumed = ring.next_avail() != 0 || ring.next_used() != 0;
        if is_resumed {
            self.offered_before = look(ring, memory)?.0;
        }
        conditions.ring_starts(is_resumed);
        self.has_started = true;
        Ok(())
    }

    /// Nothing waits in the ring, and the worker is about to sleep until the guest kicks. Whether
    /// something does now.
    fn rest(
        &mut self,
        state: &mut VringState<Memory>,
        memory: &Memory,
    ) -> Result<bool, virtio_queue::Error> {
        if !state.get_queue().ready() {
            return Ok(false);
        }
        self.is_quiet = false;
        let is_there_more = state.get_queue_mut().enable_notification(&*memory.memory())?;
        if !is_there_more {
            self.polling.sleeps();
        }
        Ok(is_there_more)
    }

    /// Takes up to `most` requests off the ring and carries them out. Returns guest memory as they
    /// found it.
    fn take(
        &mut self,
        ring: &mut virtio_queue::Queue,
        memory: &Memory,
        most: usize,
    ) -> Result<Snapshot, virtio_queue::Error> {
        let mut batch = self.queue.batch();
        let (offered, snapshot) = look(ring, memory)?;
        let memory = &*snapshot;
        let table = DescriptorTable::new(memory, GuestAddress(ring.desc_table()), ring.size());
        let chains = &mut self.chains;
        let take = |number: usize, head| chains[number].take(table.chain(head));
        let count = take_heads(ring, memory, offered, most.min(TURN_REQUESTS), take)?;
        // Each step through all requests before the next: what one step of a request waits for comes
        // into the caches while that of others is done.
        for chain in &mut self.chains[..count] {
            chain.parse(memory);
            self.executor.announce(&batch, chain);
        }
        for tag in 0..count {
            if let Some(ahead) = self.chains[..count].get(tag + LOOK_AHEAD) {
                self.executor.prepare(&batch, ahead);
            }
            let chain = &self.chains[tag];
            let request = chain.request();
            let kind = request.as_ref().ok().map(|request| request.kind);
            let mut flush = None;
            let result = if kind == Some(Kind::Flush)
                && self.flusher.takes_time()
                && let Some(wake) = &self.wake
            {
                batch.commit();
                flush = Some(self.flusher.begin(&wake.notifier));
                Ok(0)
            } else {
                let execute = |it| self.executor.execute(&mut batch, memory, &it, tag);
                request.map_err(Clone::clone).and_then(execute)
            };
            let (head, status) = (chain.head(), chain.status());
            let completion = Completion { head, status, result, flush };
            self.taken.push(Taken { completion, kind });
        }
        if mutant!(vhost_user::ToldBeforeCommit) {
            self.taken.drain(..).for_each(|taken| self.completions.push(taken.completion));
            self.completions.publish(ring, memory, &mut self.log)?;
        }
        batch.commit();
        for (tag, error) in batch.take_failures() {
            self.taken[tag].completion.result = Err(error.into());
        }
        drop(batch);
        Ok(snapshot)
    }

    /// Says that the guest flushes if it does so in this turn and writes are written through.
    fn look_for_flushes(&mut self, conditions: &impl Conditions) {
        let before = self.offered_before.min(self.taken.len());
        self.offered_before -= before;
        let mut offered_since = self.taken[before..].iter();
        if conditions.must_sync() && offered_since.any(|taken| taken.kind == Some(Kind::Flush)) {
            conditions.flushed();
        }
    }

    /// Makes the writes of the turn durable if they have to be, or fails them.
    fn write_through(&mut self, conditions: &impl Conditions) {
        let must_sync = conditions.must_sync() && !mutant!(vhost_user::WriteThroughForgotten);
        if !must_sync || !self.taken.iter().any(Taken::changes_sectors) {
            return;
        }
        let Err(error) = self.flusher.flush_now() else { return };
        for taken in self.taken.iter_mut().filter(|taken| taken.changes_sectors()) {
            taken.completion.result = Err(error.into());
        }
    }

    /// Tells the guest what is done.
    fn publish(
        &mut self,
        state: &mut VringState<Memory>,
        memory: &GuestRam,
    ) -> Result<(), virtio_queue::Error> {
        let wants_interrupt =
            self.completions.publish(state.get_queue_mut(), memory, &mut self.log)?;
        if wants_interrupt && let Err(error) = state.signal_used_queue() {
            self.log.line(Level::Warn, &format_args!("cannot notify the guest: {error}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
