//! Completions: returns executed requests to the guest, in order.
//!
//! The used index moves once for all completed requests, after their effects are as durable as promised
//! and their replies are stored: a process that takes over the ring at its used index repeats exactly
//! the requests whose completion the guest has not seen. Completions that follow a pending flush wait
//! for it.
//!
//! This is the one place where the used index is published: [`Completions::publish`].

use std::collections::VecDeque;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use super::super::guest_log::LimitedLog;
use super::available::{AVAILABLE_ELEMENT, AVAILABLE_HEADER, not_there};
use super::counters::{Outcome, QueueCounters, Tally};
use super::flusher::Flush;
use crate::virtio::{GuestArray, GuestRam, SyncError};

/// The used ring (VIRTIO 1.2, 2.7.8): bytes before its elements, and where its index is.
pub(super) const USED_HEADER: u64 = 4;
const USED_INDEX: u64 = 2;

/// What a device tells its guest of a request.
pub(in crate::vhost_user) trait Reply: Send {
    /// Stores the reply in guest memory, now that `flushed` has come of what the request waited for.
    fn store(self, flushed: Result<(), SyncError>, memory: &GuestRam, log: &LimitedLog) -> Told;
}

/// What a guest was told of a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::vhost_user) struct Told {
    /// How many bytes it finds in its buffers.
    pub length: u32,
    /// What is counted of it.
    pub outcome: Outcome,
}

/// A request that has been carried out, but for its flush.
#[derive(Debug)]
pub(in crate::vhost_user) struct Completion<R> {
    /// Index of its first descriptor.
    pub head: u16,
    /// What the guest is told.
    pub reply: R,
    /// What it waits for.
    pub flush: Option<Flush>,
}

impl<R> Completion<R> {
    /// Returns whether the guest can be told of it.
    fn is_done(&self) -> bool {
        let is_over = self.flush.as_ref().is_none_or(|flush| flush.result().is_some());
        is_over || mutant!(vhost_user::ToldBeforeFlushed)
    }
}

/// A batch that has ended, and whose requests the guest has not been told of, or not of all.
#[derive(Debug)]
struct Ended {
    /// When it was popped.
    popped: Instant,
    /// How many of its completions wait.
    left: usize,
}

/// The completions of a queue that the guest has not been told of.
///
/// Those of a batch are its device's to amend until the batch [ends](Self::end), and the guest is told of none
/// before: a write may fail when those after it are carried out already.
#[derive(Debug)]
pub(in crate::vhost_user) struct Completions<R> {
    /// Those of the batches that have ended, and then those of the batch that is carried out.
    waiting: VecDeque<Completion<R>>,
    /// The batches that have ended, each with a completion at least.
    ended: VecDeque<Ended>,
    /// When the batch that is carried out was popped.
    popped: Instant,
}

impl<R> Default for Completions<R> {
    fn default() -> Completions<R> {
        let (waiting, ended) = (VecDeque::new(), VecDeque::new());
        Completions { waiting, ended, popped: Instant::now() }
    }
}

impl<R: Reply> Completions<R> {
    /// A batch was popped off the ring now: the completions that follow are of its requests. One that has not
    /// ended is forgotten.
    pub(in crate::vhost_user) fn begin(&mut self, now: Instant) {
        self.waiting.truncate(self.settled());
        self.popped = now;
    }

    /// How many completions, from the front on, are of batches that have ended.
    fn settled(&self) -> usize {
        self.ended.iter().map(|batch| batch.left).sum()
    }

    /// The next request of the batch was carried out.
    #[inline]
    pub(in crate::vhost_user) fn push(&mut self, completion: Completion<R>) {
        self.waiting.push_back(completion);
    }

    /// The replies to the requests of the batch that were carried out, in order.
    pub(in crate::vhost_user) fn of_batch(&mut self) -> impl ExactSizeIterator<Item = &mut R> {
        let settled = self.settled();
        self.waiting.range_mut(settled..).map(|completion| &mut completion.reply)
    }

    /// The batch is over: its completions are as the guest is to be told of them.
    pub(in crate::vhost_user) fn end(&mut self) {
        let left = self.waiting.len() - self.settled();
        if left > 0 {
            self.ended.push_back(Ended { popped: self.popped, left });
        }
    }

    pub(in crate::vhost_user) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether there is one that the guest can be told of.
    pub(in crate::vhost_user) fn has_ready(&self) -> bool {
        !self.ended.is_empty() && self.waiting.front().is_some_and(Completion::is_done)
    }

    /// Takes out the first of the first batch that has ended, if the guest can be told of it.
    #[inline]
    fn take_ready(&mut self) -> Option<Completion<R>> {
        if mutant!(vhost_user::ToldOutOfOrder)
            && let Some(done) = self.waiting.range(..self.settled()).position(Completion::is_done)
        {
            self.waiting.swap(0, done);
        }
        let batch = self.ended.front_mut()?;
        if batch.left == 0 || !self.waiting.front()?.is_done() {
            return None;
        }
        batch.left -= 1;
        self.waiting.pop_front()
    }

    /// Waits until the guest can be told of all of them.
    pub(in crate::vhost_user) fn wait(&self) {
        let flushes = self.waiting.iter().filter_map(|completion| completion.flush.as_ref());
        flushes.for_each(Flush::wait);
    }

    /// Forgets all of them.
    pub(in crate::vhost_user) fn clear(&mut self) {
        self.waiting.clear();
        self.ended.clear();
    }

    /// Tells the guest of all that are done, up to the first that is not. Returns whether it wants to be
    /// interrupted for that.
    pub(in crate::vhost_user) fn publish(
        &mut self,
        ring: &mut Queue,
        memory: &GuestRam,
        counters: &QueueCounters,
        log: &LimitedLog,
    ) -> Result<bool, Error> {
        // The size of a split ring is a power of two.
        let (size, mask) = (ring.size(), ring.size().wrapping_sub(1));
        let elements = at(ring.used_ring(), USED_HEADER)?;
        let elements = GuestArray::<u64>::new(memory, elements, size.into());
        let before = Wrapping(ring.next_used());
        let mut next = before;
        while let Some(popped) = self.ended.front().map(|batch| batch.popped) {
            let mut tally = Tally::default();
            while let Some(Completion { head, reply, flush }) = self.take_ready() {
                let flushed = flush.and_then(|flush| flush.result()).unwrap_or(Ok(()));
                let Told { length, outcome } = reply.store(flushed, memory, log);
                tally.add(outcome);
                // The guest named a descriptor that is not there: there is no element for it.
                if head < size {
                    let element = u64::from(length) << 32 | u64::from(head);
                    elements.store((next.0 & mask).into(), element.to_le()).map_err(not_there)?;
                    next += 1;
                }
            }
            counters.completed(&tally, popped);
            if self.ended.front().is_some_and(|batch| batch.left > 0) {
                break;
            }
            self.ended.pop_front();
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

/// Returns whether the guest wants to be interrupted once the used index has moved from `before` to `next`
/// (VIRTIO 1.2, 2.7.7).
fn wants_interrupt(
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
