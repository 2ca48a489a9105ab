//! Completions: requests that have been carried out, on their way back to the guest, in order.
//!
//! The used index moves once for all that are done, after their sectors are committed and their status
//! bytes are stored: whoever takes over the ring at its used index repeats what the guest has not been
//! told of. Behind a flush that is still under way, completions wait.

use std::collections::VecDeque;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use log::Level;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use super::available::{AVAILABLE_ELEMENT, AVAILABLE_HEADER, not_there};
use super::flusher::Flush;
use super::guest_log::GuestLog;
use crate::virtio::block::RequestError;
use crate::virtio::{GuestArray, GuestRam, store};

/// The used ring (VIRTIO 1.2, 2.7.8): bytes before its elements, and where its index is.
const USED_HEADER: u64 = 4;
const USED_INDEX: u64 = 2;

/// A request that has been carried out, but for its flush.
#[derive(Debug)]
pub(super) struct Completion {
    /// Index of its first descriptor.
    pub head: u16,
    /// Where its status byte goes.
    pub status: Option<GuestAddress>,
    /// How many bytes were filled for it.
    pub result: Result<u32, RequestError>,
    /// What it waits for.
    pub flush: Option<Flush>,
}

impl Completion {
    /// Whether it can be told.
    fn is_done(&self) -> bool {
        let is_over = self.flush.as_ref().is_none_or(|flush| flush.result().is_some());
        is_over || mutant!(vhost_user::ToldBeforeFlushed)
    }

    /// Stores the status byte. Returns how many bytes the guest can find in its buffers.
    fn tell(self, memory: &GuestRam, log: &mut GuestLog) -> u32 {
        let flushed = self.flush.and_then(|flush| flush.result()).unwrap_or(Ok(()));
        let result = self.result.and_then(|filled| flushed.map(|()| filled).map_err(Into::into));
        if let Err(error) = &result {
            let level = if error.is_the_guests() { Level::Warn } else { Level::Error };
            log.line(level, error);
        }
        let filled = result.as_ref().map_or(0, |filled| *filled);
        let status = result.as_ref().map_or_else(RequestError::status, |_| 0);
        match self.status.map(|address| store(memory, address, status)) {
            Some(Ok(())) => return filled + 1,
            Some(Err(error)) => log.line(Level::Warn, &format_args!("status byte: {error}")),
            None => log.line(Level::Warn, &"a request without a status byte"),
        }
        0
    }
}

/// The completions of a queue that the guest has not been told of.
#[derive(Debug, Default)]
pub(super) struct Completions(VecDeque<Completion>);

impl Completions {
    pub(super) fn push(&mut self, completion: Completion) {
        self.0.push_back(completion);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is one that can be told.
    pub(super) fn has_ready(&self) -> bool {
        self.0.front().is_some_and(Completion::is_done)
    }

    /// Takes out the first, if it can be told.
    fn take_ready(&mut self) -> Option<Completion> {
        if mutant!(vhost_user::ToldOutOfOrder) {
            let ready = self.0.iter().position(Completion::is_done)?;
            return self.0.remove(ready);
        }
        if self.has_ready() { self.0.pop_front() } else { None }
    }

    /// Waits until all of them can be told.
    pub(super) fn wait(&self) {
        self.0.iter().filter_map(|completion| completion.flush.as_ref()).for_each(Flush::wait);
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Tells the guest of all that are done, up to the first that is not. Whether it wants to be
    /// interrupted for that.
    pub(super) fn publish(
        &mut self,
        ring: &mut Queue,
        memory: &GuestRam,
        log: &mut GuestLog,
    ) -> Result<bool, Error> {
        let size = ring.size();
        let elements = at(ring.used_ring(), USED_HEADER)?;
        let elements = GuestArray::<u64>::new(memory, elements, size.into());
        let before = Wrapping(ring.next_used());
        let mut next = before;
        while let Some(completion) = self.take_ready() {
            let head = completion.head;
            let length = completion.tell(memory, log);
            // The guest named a descriptor that is not there: there is no element for it.
            if head < size {
                let element = u64::from(length) << 32 | u64::from(head);
                elements.store((next.0 % size).into(), element.to_le()).map_err(not_there)?;
                next += 1;
            }
        }
        if next == before {
            return Ok(false);
        }
        let index = at(ring.used_ring(), USED_INDEX)?;
        memory.store(next.0.to_le(), index, Ordering::Release).map_err(Error::GuestMemory)?;
        ring.set_next_used(next.0);
        wants_interrupt(ring, memory, before, next)
    }
}

fn at(start: u64, offset: u64) -> Result<GuestAddress, Error> {
    GuestAddress(start).checked_add(offset).ok_or(Error::AddressOverflow)
}

/// Whether the guest wants to be interrupted once the used index has moved from `before` to `next`
/// (VIRTIO 1.2, 2.7.7).
pub(super) fn wants_interrupt(
    ring: &Queue,
    memory: &GuestRam,
    before: Wrapping<u16>,
    next: Wrapping<u16>,
) -> Result<bool, Error> {
    // The guest sees the index before what it has last said is looked at, or it looks at the index
    // after saying it.
    fence(Ordering::SeqCst);
    let load = |address| -> Result<u16, Error> {
        memory.load(address, Ordering::Relaxed).map(u16::from_le).map_err(Error::GuestMemory)
    };
    if ring.event_idx_enabled() {
        let used_event = AVAILABLE_HEADER + u64::from(ring.size()) * AVAILABLE_ELEMENT;
        let event = Wrapping(load(at(ring.avail_ring(), used_event)?)?);
        Ok(next - event - Wrapping(1) < next - before)
    } else {
        let flags = load(GuestAddress(ring.avail_ring()))?;
        Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}
