//! A ring, shared by the thread of its queue and by the session that sets it up.
//!
//! The session comes first: a queue that takes the lock again and again, under load, would keep it
//! waiting, since a mutex knows no order. And the batch that is under way ends early for it
//! ([`Ring::is_wanted`]).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryAtomic};

use super::super::eventfd::Eventfd;
use crate::virtio::GuestRam;

/// Guest memory that the frontend can exchange.
pub type Memory = GuestMemoryAtomic<GuestRam>;

/// How often the lock is tried by a thread that waits for it until a deadline.
const LOCK_INTERVAL: Duration = Duration::from_millis(1);

/// A ring.
#[derive(Debug)]
pub struct Ring {
    state: Mutex<RingState>,
    /// Number of threads that want the lock before the queue does.
    wanted: AtomicUsize,
}

/// What is known of a ring.
#[derive(Debug)]
pub(crate) struct RingState {
    /// Size, addresses and indexes.
    pub(in crate::vhost_user) queue: Queue,
    /// The guest writes to it when it has offered requests.
    pub(in crate::vhost_user) kick: Option<Arc<Eventfd>>,
    /// Is written to when requests were completed.
    pub(in crate::vhost_user) call: Option<Arc<Eventfd>>,
    /// Is written to when the ring is broken.
    pub(in crate::vhost_user) error: Option<Arc<Eventfd>>,
    /// The frontend has enabled it.
    pub(in crate::vhost_user) is_enabled: bool,
    /// It was found broken, and is not looked at before it is set up anew.
    pub(in crate::vhost_user) is_broken: bool,
}

/// Where the parts of a ring are, in guest-physical addresses.
#[derive(Debug, Clone, Copy)]
pub struct RingPlaces {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

impl RingState {
    /// Returns whether requests of the ring are carried out.
    pub(in crate::vhost_user) fn is_running(&self) -> bool {
        self.is_enabled && self.queue.ready() && !self.is_broken
    }

    /// Sets the addresses of the ring's parts.
    pub(in crate::vhost_user) fn set_places(&mut self, places: RingPlaces) -> Result<(), Error> {
        self.queue.try_set_desc_table_address(GuestAddress(places.descriptors))?;
        self.queue.try_set_avail_ring_address(GuestAddress(places.available))?;
        self.queue.try_set_used_ring_address(GuestAddress(places.used))
    }

    /// Reads how far completions have come, from the used ring. VIRTIO has no message for it: a ring that
    /// starts goes on where the last device has left it, or at zero.
    pub(in crate::vhost_user) fn load_used_index(&mut self, memory: &Memory) -> Result<(), Error> {
        let used = self.queue.used_idx(&*memory.memory(), Ordering::Acquire)?;
        self.queue.set_next_used(used.0);
        Ok(())
    }
}

/// Says that a thread wants the lock of a ring, for as long as it lives.
struct Wanted<'a>(&'a AtomicUsize);

impl<'a> Wanted<'a> {
    fn new(count: &'a AtomicUsize) -> Wanted<'a> {
        count.fetch_add(1, Ordering::Acquire);
        Wanted(count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Ring {
    /// A ring of up to `size` descriptors, that is not set up yet.
    pub fn new(size: u16) -> Result<Ring, Error> {
        let state = RingState {
            queue: Queue::new(size)?,
            kick: None,
            call: None,
            error: None,
            is_enabled: false,
            is_broken: false,
        };
        Ok(Ring { state: Mutex::new(state), wanted: AtomicUsize::new(0) })
    }

    /// Sets up and starts a ring of `size` descriptors at `places`, at index 0, for a guest in the same
    /// process: its owner looks after requests and completions itself.
    pub fn start(&self, size: u16, places: RingPlaces, event_index: bool) -> Result<(), Error> {
        let mut state = self.lock();
        state.queue.set_size(size);
        state.set_places(places)?;
        state.queue.set_event_idx(event_index);
        state.queue.set_ready(true);
        state.is_enabled = true;
        Ok(())
    }

    /// Index of the next request that is taken.
    pub fn next_available(&self) -> u16 {
        self.lock().queue.next_avail()
    }

    /// Returns whether the frontend has started the ring, and not stopped it.
    pub(in crate::vhost_user) fn is_ready(&self) -> bool {
        self.lock().queue.ready()
    }

    /// Locks the ring before its queue does.
    pub(in crate::vhost_user) fn lock(&self) -> MutexGuard<'_, RingState> {
        let _wanted = Wanted::new(&self.wanted);
        self.state()
    }

    /// Locks the ring before its queue does, if that is possible until `deadline`.
    pub(in crate::vhost_user) fn lock_until(
        &self,
        deadline: Instant,
    ) -> Option<MutexGuard<'_, RingState>> {
        let _wanted = Wanted::new(&self.wanted);
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    /// Locks the ring for its queue, after every other thread that wants it.
    pub(in crate::vhost_user) fn lock_for_worker(&self) -> MutexGuard<'_, RingState> {
        while self.is_wanted() {
            thread::yield_now();
        }
        self.state()
    }

    /// Returns whether another thread than the queue's wants the lock: a batch that is under way is to end.
    pub(in crate::vhost_user) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    fn state(&self) -> MutexGuard<'_, RingState> {
        // Each change of a field is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
