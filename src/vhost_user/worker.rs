//! A queue's worker: requests off the ring, through the engine, and back.
//!
//! Requests are carried out one after another and completed in order, so that whoever takes over a
//! ring at its used index, a new process after a crash above all, repeats exactly what was not
//! completed. Up to [`TURN_REQUESTS`] that wait in the ring share a turn: one lock, one look at guest
//! memory, and the fences of their writes.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::Level;
use vhost_user_backend::VringState;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace};

use super::guest_log::GuestLog;
use super::ring::{Memory, Ring};
use crate::virtio::block::{Chain, Device, DiskBatch, DiskQueue, Executor, Kind, RequestError};
use crate::virtio::{GuestRam, store_byte};

/// Most requests of a turn; the connection can get at the ring in between.
const TURN_REQUESTS: usize = 64;

/// Guest memory as it was at some moment.
type Snapshot = <Memory as GuestAddressSpace>::T;

/// How many requests are offered in `ring`, and guest memory with all that they refer to.
///
/// In this order: a frontend adds memory while rings are running, and a guest may use it as soon as
/// it is there. A request that is offered after the look at the ring is left for the next one.
pub(super) fn look(
    ring: &virtio_queue::Queue,
    memory: &Memory,
) -> Result<(usize, Snapshot), virtio_queue::Error> {
    let index = ring.avail_idx(&*memory.memory(), Ordering::Acquire)?;
    let offered = index - Wrapping(ring.next_avail());
    Ok((offered.0.into(), memory.memory()))
}

/// A request that was taken off the ring.
#[derive(Debug)]
struct Taken {
    /// Index of its first descriptor.
    head: u16,
    /// Where its status byte goes.
    status: Option<GuestAddress>,
    /// Whether it changes sectors.
    writes: bool,
    /// How many bytes were filled for it.
    result: Result<u32, RequestError>,
}

/// The worker of one queue.
#[derive(Debug)]
pub(super) struct Worker<Q> {
    queue: Q,
    executor: Executor,
    chain: Chain,
    taken: Vec<Taken>,
    log: GuestLog,
}

impl<Q: DiskQueue> Worker<Q> {
    pub(super) fn new(log: GuestLog, queue: Q, device: Arc<Device>) -> Worker<Q> {
        Worker {
            queue,
            executor: Executor::new(device),
            chain: Chain::default(),
            taken: Vec::with_capacity(TURN_REQUESTS),
            log,
        }
    }

    /// Carries out what waits in `ring`, until nothing does or the ring is stopped. Writes are
    /// durable when they complete if `must_sync` says so by then: a guest that keeps its rings full
    /// can change that, and is to be heard.
    pub(super) fn serve(&mut self, ring: &Ring, memory: &Memory, must_sync: &impl Fn() -> bool) {
        loop {
            let mut state = ring.turn();
            if !state.is_enabled() || !state.get_queue().ready() {
                return;
            }
            match self.turn(&mut state, memory, must_sync) {
                Ok(true) => {}
                Ok(false) => return,
                // The guest's ring is broken; it has to set it up anew.
                Err(error) => return self.log.line(Level::Warn, &format_args!("ring: {error}")),
            }
        }
    }

    /// Carries out a turn. Whether there may be more.
    fn turn(
        &mut self,
        state: &mut VringState<Memory>,
        memory: &Memory,
        must_sync: &impl Fn() -> bool,
    ) -> Result<bool, virtio_queue::Error> {
        let queue = state.get_queue_mut();
        queue.disable_notification(&*memory.memory())?;
        let memory = &*self.execute(queue, memory, must_sync)?;
        if self.taken.is_empty() {
            return queue.enable_notification(memory);
        }
        self.complete(queue, memory)?;
        if queue.needs_notification(memory)?
            && let Err(error) = state.signal_used_queue()
        {
            self.log.line(Level::Warn, &format_args!("cannot notify the guest: {error}"));
        }
        Ok(true)
    }

    /// Takes requests off the ring and carries them out. Returns guest memory as they found it.
    fn execute(
        &mut self,
        ring: &mut virtio_queue::Queue,
        memory: &Memory,
        must_sync: &impl Fn() -> bool,
    ) -> Result<Snapshot, virtio_queue::Error> {
        self.taken.clear();
        let mut batch = self.queue.batch();
        let (offered, snapshot) = look(ring, memory)?;
        let memory = &*snapshot;
        for mut descriptors in ring.iter(memory)?.take(offered.min(TURN_REQUESTS)) {
            let tag = self.taken.len();
            self.chain.take(&mut descriptors);
            let request = self.chain.request(memory);
            let writes = request
                .as_ref()
                .is_ok_and(|request| matches!(request.kind, Kind::Out | Kind::WriteZeroes));
            let result = request
                .and_then(|request| self.executor.execute(&mut batch, memory, &request, tag));
            let (head, status) = (descriptors.head_index(), self.chain.status());
            self.taken.push(Taken { head, status, writes, result });
        }
        batch.commit();
        for (tag, error) in batch.take_failures() {
            self.taken[tag].result = Err(error.into());
        }
        if self.taken.iter().any(|taken| taken.writes) && must_sync() {
            let synced = batch.sync();
            drop(batch);
            self.write_through(synced);
        }
        Ok(snapshot)
    }

    /// Fails the writes of the turn if they could not be made durable.
    fn write_through(&mut self, synced: Result<(), crate::pmem::MediaError>) {
        let Err(error) = synced else { return };
        for taken in self.taken.iter_mut().filter(|taken| taken.writes && taken.result.is_ok()) {
            taken.result = Err(error.into());
        }
    }

    /// Tells the guest what became of its requests.
    fn complete(
        &mut self,
        ring: &mut virtio_queue::Queue,
        memory: &GuestRam,
    ) -> Result<(), virtio_queue::Error> {
        for taken in &self.taken {
            if let Err(error) = &taken.result {
                let level = if error.is_the_guests() { Level::Warn } else { Level::Error };
                self.log.line(level, error);
            }
            let filled = taken.result.as_ref().map_or(0, |filled| *filled);
            let status = taken.result.as_ref().map_or_else(RequestError::status, |_| 0);
            let stored = taken.status.map(|address| store_byte(memory, address, status));
            let length = match stored {
                Some(Ok(())) => filled + 1,
                Some(Err(error)) => {
                    self.log.line(Level::Warn, &format_args!("status byte: {error}"));
                    0
                }
                None => {
                    self.log.line(Level::Warn, &"a request without a status byte");
                    0
                }
            };
            // The ring would log this without measure.
            if taken.head < ring.size() {
                ring.add_used(memory, taken.head, length)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
