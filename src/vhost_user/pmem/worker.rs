//! The flush queue's worker.
//!
//! All requests that wait share one sync: what a guest wants to be durable it has stored before it
//! asked, and all of them have asked before the sync begins.

use std::num::Wrapping;

use log::Level;
use vhost_user_backend::VringState;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::GuestAddressSpace;

use super::super::available::look;
use super::super::completions::wants_interrupt;
use super::super::guest_log::GuestLog;
use super::super::ring::{Memory, Ring};
use crate::virtio::pmem::{Request, Unsynced};

/// The worker of the flush queue.
pub(super) struct Worker {
    log: GuestLog,
}

impl Worker {
    pub(super) fn new(log: GuestLog) -> Worker {
        Worker { log }
    }

    /// Answers what waits in `ring`, until nothing does or the ring is stopped.
    pub(super) fn serve(
        &mut self,
        ring: &Ring,
        memory: &Memory,
        sync: &impl Fn() -> Result<(), Unsynced>,
    ) {
        loop {
            let mut state = ring.turn();
            if !state.is_enabled() || !state.get_queue().ready() {
                return;
            }
            match self.turn(&mut state, memory, sync) {
                Ok(true) => {}
                Ok(false) => return,
                // The guest's ring is broken; it has to set it up anew.
                Err(error) => return self.log.line(Level::Warn, &format_args!("ring: {error}")),
            }
        }
    }

    /// Answers what waits now. Whether there may be more.
    fn turn(
        &mut self,
        state: &mut VringState<Memory>,
        memory: &Memory,
        sync: &impl Fn() -> Result<(), Unsynced>,
    ) -> Result<bool, virtio_queue::Error> {
        let queue = state.get_queue_mut();
        queue.disable_notification(&*memory.memory())?;
        let (offered, snapshot) = look(queue, memory)?;
        let memory = &*snapshot;
        let chains = queue.iter(memory)?.take(offered);
        let requests: Vec<Request<'_>> = chains.map(|chain| Request::new(chain, memory)).collect();
        if requests.is_empty() {
            return queue.enable_notification(memory);
        }
        let synced = if requests.iter().any(Request::is_flush) { sync() } else { Ok(()) };
        let before = Wrapping(queue.next_used());
        for request in requests {
            let head = request.head();
            let (filled, error) = request.answer(synced);
            if let Some(error) = error {
                let level = if error.is_the_guests() { Level::Warn } else { Level::Error };
                self.log.line(level, &error);
            }
            // The ring would log this without measure.
            if head < queue.size() {
                queue.add_used(memory, head, filled)?;
            }
        }
        let next = Wrapping(queue.next_used());
        if next != before
            && wants_interrupt(queue, memory, before, next)?
            && let Err(error) = state.signal_used_queue()
        {
            self.log.line(Level::Warn, &format_args!("cannot notify the guest: {error}"));
        }
        Ok(true)
    }
}
