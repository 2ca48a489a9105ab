//! The worker of a queue: requests off its ring, through its device, and back.
//!
//! Requests are carried out one after another and completed in order, so that whatever takes over a ring
//! at its used index, a new process after a crash above all, repeats exactly what was not completed. Up
//! to [`BATCH_REQUESTS`] that wait in the ring are a batch: one lock, one look at guest memory, the fences
//! of their writes, and one move of the used index. A flush that takes time runs in parallel to the batches;
//! requests after it are carried out meanwhile, and completed after it.
//!
//! A batch ends early when the session wants the ring, or the connection ends: what was not carried out
//! goes back to the ring.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::wakeup::Wakeup;
use log::Level;
use virtio_queue::{Error, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend};

use super::super::eventfd::Eventfd;
use super::super::guest_log::LimitedLog;
use super::available::{Snapshot, has_been_used, look, take_heads};
use super::completions::{Completions, Reply};
use super::counters::{QueueCounters, nanoseconds};
use super::gate::Gate;
use super::limiter::{Admission, Limits, Turnstile};
use super::polling::Polling;
use super::ring::{Memory, Ring, RingState};
use crate::pmem::{GuestRegion, broken_pages};
use crate::virtio::{DescriptorTable, GuestRam};

/// Most requests of a batch.
pub(in crate::vhost_user) const BATCH_REQUESTS: usize = 64;

/// Longest wait for requests that are about to come: little of what a sync takes.
const GATHERED_FOR: Duration = Duration::from_micros(100);

/// The requests of a batch.
pub(in crate::vhost_user) struct Requests<'a> {
    /// Guest memory as they find it.
    pub memory: &'a GuestRam,
    /// The ring's descriptors.
    pub table: DescriptorTable<'a>,
    /// Index of the first descriptor of each request.
    pub heads: &'a [u16],
    /// Wakes the worker when a flush is over; `None`: no thread sleeps for it.
    pub wake: Option<&'a Arc<Wakeup>>,
    interrupt: Interrupt<'a>,
    /// `None`: there are none.
    limits: Option<&'a Limits>,
    counters: &'a QueueCounters,
}

/// Says when a batch is to end early.
#[derive(Clone, Copy)]
pub(in crate::vhost_user) struct Interrupt<'a> {
    ring: &'a Ring,
    stop: &'a AtomicBool,
}

impl Interrupt<'_> {
    /// Returns whether the batch is to end.
    pub(in crate::vhost_user) fn is_due(self) -> bool {
        self.ring.is_wanted() || self.stop.load(Ordering::Relaxed)
    }
}

impl<'a> Requests<'a> {
    /// Says when the batch is to end early.
    pub(in crate::vhost_user) fn interrupt(&self) -> Interrupt<'a> {
        self.interrupt
    }

    /// Returns whether there are rate limits.
    pub(in crate::vhost_user) fn is_limited(&self) -> bool {
        self.limits.is_some()
    }

    /// Charges a request that was carried out, and has moved `bytes`, to the rate limits. Returns whether the
    /// batch may go on.
    pub(in crate::vhost_user) fn charge(&self, bytes: u64) -> bool {
        self.limits.is_none_or(|limits| limits.charge(bytes))
    }

    /// What is counted of the queue.
    pub(in crate::vhost_user) fn counters(&self) -> &QueueCounters {
        self.counters
    }
}

/// What a device does with the requests of one queue.
pub(in crate::vhost_user) trait Handler: Send {
    /// What it tells the guest of a request.
    type Reply: Reply;

    /// The ring starts: at index 0, or where it was stopped before. `offered` requests wait in it.
    fn ring_starts(&mut self, is_resumed: bool, offered: usize) {
        let _ = (is_resumed, offered);
    }

    /// Carries out `requests`, one after another, and pushes their completions in this order: the guest is
    /// told of them once this returns. Returns how many it has carried out: all, unless it was interrupted.
    fn run(&mut self, requests: &Requests<'_>, completions: &mut Completions<Self::Reply>)
    -> usize;

    /// Returns whether a batch takes so long that it pays to wait a moment for requests that are about to come.
    fn gathers(&self) -> bool {
        false
    }

    /// The connection has ended: gives back what one guest has made large.
    fn disconnect(&mut self) {}
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vhost_user) enum Progress {
    /// There may be more to do at once.
    Busy,
    /// There is nothing to do before the guest kicks, or a flush is over.
    Asleep,
    /// A rate limit does not let it go on before this time has passed.
    Throttled(Duration),
    /// A part of guest memory does not answer.
    MemoryLost,
}

/// What a batch has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// Requests were carried out, and there may be more.
    Done,
    /// Nothing waits in the ring.
    Idle,
    /// Nothing can be taken: the ring is stopped or the device quiesced, or as many requests as the ring holds
    /// wait for a flush.
    Stopped,
    /// Requests wait, and a rate limit does not let them be taken yet.
    Throttled(Duration),
}

/// The requests of a batch, popped off their ring.
struct Popped {
    /// Guest memory with all that they refer to.
    memory: Snapshot,
    /// Index of the first in the available ring.
    first: u16,
}

/// The worker of one queue.
pub(in crate::vhost_user) struct Worker<H: Handler> {
    handler: H,
    /// Index of the first descriptor of each request of the batch.
    heads: Vec<u16>,
    completions: Completions<H::Reply>,
    /// To be notified once the ring is not locked any more.
    call: Option<Arc<Eventfd>>,
    polling: Polling,
    /// The guest has been told not to kick.
    is_quiet: bool,
    /// The connection has started the ring.
    has_started: bool,
    /// While there is a connection.
    wake: Option<Arc<Wakeup>>,
    /// Pages of guest memory that were lost when it was last looked at.
    lost_pages: u64,
    gate: Arc<Gate>,
    turnstile: Turnstile,
    counters: Arc<QueueCounters>,
    log: LimitedLog,
}

impl<H: Handler> Worker<H> {
    /// The worker of a queue whose requests `handler` carries out, as `gate` lets it.
    pub(in crate::vhost_user) fn new(log: LimitedLog, handler: H, gate: Arc<Gate>) -> Worker<H> {
        Worker {
            handler,
            heads: Vec::with_capacity(BATCH_REQUESTS),
            completions: Completions::default(),
            call: None,
            polling: Polling::new(Duration::ZERO),
            is_quiet: false,
            has_started: false,
            wake: None,
            lost_pages: broken_pages(),
            gate,
            turnstile: Turnstile::default(),
            counters: Arc::default(),
            log,
        }
    }

    /// Waits for up to `most` at an empty ring, from now on.
    pub(in crate::vhost_user) fn poll_for(&mut self, most: Duration) {
        self.polling = Polling::new(most);
    }

    /// What carries out the requests, without its worker.
    pub(in crate::vhost_user) fn into_handler(self) -> H {
        self.handler
    }

    /// What carries out the requests.
    pub(in crate::vhost_user) fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// What is counted of the queue.
    pub(in crate::vhost_user) fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    /// Has the worker's thread look at the gate again.
    pub(in crate::vhost_user) fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// Waits until the medium is not used any more for what was taken off the ring.
    pub(in crate::vhost_user) fn wait_until_idle(&self) {
        self.completions.wait();
    }

    /// Begins a connection, during which `wake` tells the worker's thread that a flush is over.
    pub(in crate::vhost_user) fn connect(&mut self, wake: Arc<Wakeup>) {
        self.wake = Some(wake);
        self.lost_pages = broken_pages();
    }

    /// Ends a connection. Returns what is to be notified.
    pub(in crate::vhost_user) fn disconnect(
        &mut self,
        ring: &Ring,
        memory: &Memory,
    ) -> Option<Arc<Eventfd>> {
        let call = self.drain(ring, memory);
        self.wake = None;
        self.has_started = false;
        self.handler.disconnect();
        call
    }

    /// Completes everything that was taken off the ring. Returns what is to be notified.
    pub(in crate::vhost_user) fn drain(
        &mut self,
        ring: &Ring,
        memory: &Memory,
    ) -> Option<Arc<Eventfd>> {
        self.completions.wait();
        if self.completions.has_ready()
            && let Err(error) = self.publish(&mut ring.lock_for_worker(), &memory.memory())
        {
            self.log.line(Level::Warn, &format_args!("ring: {error}"));
        }
        self.completions.clear();
        self.turnstile = Turnstile::default();
        self.call.take()
    }

    /// The guest has kicked, or the worker was woken for another reason.
    pub(in crate::vhost_user) fn woken(&mut self) {
        self.is_quiet = false;
        self.polling.woken();
    }

    /// Carries out one batch, or looks at an empty ring once. The second value is to be notified, with no
    /// lock held.
    pub(in crate::vhost_user) fn step(
        &mut self,
        ring: &Ring,
        memory: &Memory,
        stop: &AtomicBool,
    ) -> (Progress, Option<Arc<Eventfd>>) {
        let progress = match self.try_step(ring, memory, stop) {
            Ok(progress) => progress,
            Err(error) => {
                self.give_up_ring(ring, &error);
                Progress::Asleep
            }
        };
        let is_lost = self.lost_pages != broken_pages() && self.has_lost(&memory.memory());
        (if is_lost { Progress::MemoryLost } else { progress }, self.call.take())
    }

    fn try_step(
        &mut self,
        ring: &Ring,
        memory: &Memory,
        stop: &AtomicBool,
    ) -> Result<Progress, Error> {
        let interrupt = Interrupt { ring, stop };
        let batch = self.batch(&mut ring.lock_for_worker(), memory, interrupt)?;
        Ok(match batch {
            Batch::Done => Progress::Busy,
            Batch::Idle if self.polling.goes_on() => {
                self.counters.polls.add(1);
                Progress::Busy
            }
            Batch::Idle if self.sleep(&mut ring.lock_for_worker(), memory)? => Progress::Busy,
            Batch::Idle | Batch::Stopped => Progress::Asleep,
            Batch::Throttled(wait) => Progress::Throttled(wait),
        })
    }

    /// The guest's ring is broken; the guest has to set it up anew.
    fn give_up_ring(&mut self, ring: &Ring, error: &Error) {
        self.log.line(Level::Warn, &format_args!("ring: {error}"));
        let mut state = ring.lock_for_worker();
        state.is_broken = true;
        self.call.clone_from(&state.error);
    }

    /// Returns whether a part of `memory` was lost; remembers it if not.
    fn has_lost(&mut self, memory: &GuestRam) -> bool {
        let lost_pages = broken_pages();
        if memory.iter().any(GuestRegion::is_broken) {
            return true;
        }
        self.lost_pages = lost_pages;
        false
    }

    /// Carries out a batch: publishes what has become ready, pops, executes, and publishes.
    fn batch(
        &mut self,
        state: &mut RingState,
        memory: &Memory,
        interrupt: Interrupt<'_>,
    ) -> Result<Batch, Error> {
        if self.completions.has_ready() {
            self.publish(state, &memory.memory())?;
        }
        let room = self.room(state);
        if !state.is_running() || room == 0 || self.gate.is_closed() {
            return Ok(Batch::Stopped);
        }
        if !self.has_started {
            self.start(state, memory)?;
        }
        if let Some(wait) = self.throttled(state, memory)? {
            return Ok(Batch::Throttled(wait));
        }
        let Some(popped) = self.pop(state, memory, room)? else { return Ok(Batch::Idle) };
        self.execute(state, &popped, interrupt);
        self.publish(state, &popped.memory)?;
        Ok(Batch::Done)
    }

    /// How many requests can be popped: as many as the ring has room for, whatever the guest says that it
    /// offers.
    fn room(&self, state: &RingState) -> usize {
        usize::from(state.queue.size()).saturating_sub(self.completions.len())
    }

    /// How long a rate limit makes the requests wait that are offered; `None`: not at all.
    fn throttled(
        &mut self,
        state: &mut RingState,
        memory: &Memory,
    ) -> Result<Option<Duration>, Error> {
        let limits = self.gate.limits();
        let is_of_interest = limits.is_limited() || self.turnstile.is_waiting();
        if !is_of_interest || look(&state.queue, memory)?.0 == 0 {
            return Ok(None);
        }
        match self.turnstile.admit(limits, Instant::now()) {
            Admission::Wait(wait) => {
                // What the guest offers meanwhile is found without a kick.
                self.quieten(state, memory)?;
                Ok(Some(wait))
            }
            Admission::Go(waited) if waited.is_zero() => Ok(None),
            Admission::Go(waited) => {
                self.counters.throttles.add(1);
                self.counters.throttled.add(nanoseconds(waited));
                Ok(None)
            }
        }
    }

    /// Begins to serve a ring.
    fn start(&mut self, state: &RingState, memory: &Memory) -> Result<(), Error> {
        let ring = &state.queue;
        let is_resumed = has_been_used(ring, &memory.memory())?;
        self.handler.ring_starts(is_resumed, look(ring, memory)?.0);
        self.has_started = true;
        if is_resumed {
            // A process that was killed may have completed requests, and not have told the guest any more.
            self.call.clone_from(&state.call);
        }
        Ok(())
    }

    /// Tells the guest not to kick.
    fn quieten(&mut self, state: &mut RingState, memory: &Memory) -> Result<(), Error> {
        if !self.is_quiet {
            state.queue.disable_notification(&*memory.memory())?;
            self.is_quiet = true;
        }
        Ok(())
    }

    /// Pops up to `room` requests off the ring, into `heads`. `None`: none is offered.
    fn pop(
        &mut self,
        state: &mut RingState,
        memory: &Memory,
        room: usize,
    ) -> Result<Option<Popped>, Error> {
        // While the worker polls, the guest knows already that it need not kick.
        if self.polling.is_waiting() && look(&state.queue, memory)?.0 == 0 {
            return Ok(None);
        }
        self.quieten(state, memory)?;
        let (offered, memory) = if self.handler.gathers() {
            self.gather(state, memory)
        } else {
            look(&state.queue, memory)
        }?;
        let first = state.queue.next_avail();
        self.heads.clear();
        let most = room.min(BATCH_REQUESTS);
        take_heads(&mut state.queue, &memory, offered, most, &mut self.heads)?;
        Ok((!self.heads.is_empty()).then_some(Popped { memory, first }))
    }

    /// Looks until as many requests are offered as the last batch had: a guest that was told of several
    /// together sends as many again, one after another, and those that come too late wait for a whole batch.
    fn gather(&self, state: &RingState, memory: &Memory) -> Result<(usize, Snapshot), Error> {
        let (begun, expected) = (Instant::now(), self.heads.len());
        loop {
            let (offered, snapshot) = look(&state.queue, memory)?;
            if offered == 0 || offered >= expected || begun.elapsed() > GATHERED_FOR {
                return Ok((offered, snapshot));
            }
            // Not offered to other threads: one that takes the CPU keeps it for longer than this.
            spin_loop();
        }
    }

    /// Has what was popped carried out. What is not, because the batch is to end, goes back to the ring.
    fn execute(&mut self, state: &mut RingState, popped: &Popped, interrupt: Interrupt<'_>) {
        self.polling.found();
        self.completions.begin(Instant::now());
        let (queue, memory) = (&mut state.queue, &*popped.memory);
        let table = DescriptorTable::new(memory, GuestAddress(queue.desc_table()), queue.size());
        let (heads, wake) = (self.heads.as_slice(), self.wake.as_ref());
        let limits = Some(self.gate.limits()).filter(|limits| limits.is_limited());
        let counters = &*self.counters;
        let requests = Requests { memory, table, heads, wake, interrupt, limits, counters };
        let done = self.handler.run(&requests, &mut self.completions);
        self.completions.end();
        if done > 0 {
            counters.batch(done);
        }
        // There are 64 at most.
        queue.set_next_avail(popped.first.wrapping_add(done as u16));
    }

    /// Nothing waits in the ring, and the worker is about to sleep until the guest kicks. Returns whether
    /// something waits now.
    fn sleep(&mut self, state: &mut RingState, memory: &Memory) -> Result<bool, Error> {
        if !state.is_running() {
            return Ok(false);
        }
        self.is_quiet = false;
        let is_there_more = state.queue.enable_notification(&*memory.memory())?;
        if !is_there_more {
            self.polling.sleeps();
        }
        Ok(is_there_more)
    }

    /// Tells the guest what is done.
    fn publish(&mut self, state: &mut RingState, memory: &GuestRam) -> Result<(), Error> {
        if self.completions.publish(&mut state.queue, memory, &self.counters, &self.log)? {
            self.call = state.call.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
