//! A ring, shared by its worker and by the connection that sets it up.
//!
//! A [`VringMutex`] with two differences. A kick that was there when the event loop woke, and is gone
//! when it looks (the frontend has put a new descriptor in place), is no error. And the connection
//! comes first: a worker that takes the lock again and again, under load, would keep it waiting,
//! since the mutex knows no order.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;
use vm_memory::GuestMemoryAtomic;

use crate::virtio::GuestRam;

/// Guest memory that the frontend can exchange.
pub type Memory = GuestMemoryAtomic<GuestRam>;

/// A ring.
#[derive(Clone)]
pub struct Ring {
    ring: VringMutex<Memory>,
    /// Number of connection threads, and of others that are to come first, that want the lock.
    waiting: Arc<AtomicUsize>,
}

/// Says that the connection wants the lock, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Ring {
    /// The ring, for its worker, after whoever else wants it.
    pub(super) fn turn(&self) -> MutexGuard<'_, VringState<Memory>> {
        while self.waiting.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        self.ring.get_mut()
    }

    /// Whether the connection, or who else comes first, waits for a turn to end.
    #[cfg(test)]
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn first(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Acquire);
        Waiting(&self.waiting)
    }
}

impl<'a> VringStateGuard<'a, Memory> for Ring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Ring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Ring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, Error> {
        let ring = VringMutex::new(memory, max_queue_size)?;
        Ok(Ring { ring, waiting: Arc::default() })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Memory>> {
        let _first = self.first();
        self.ring.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Memory>> {
        let _first = self.first();
        self.ring.get_mut()
    }

    fn add_used(&self, head: u16, length: u32) -> Result<(), Error> {
        let _first = self.first();
        self.ring.add_used(head, length)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        let _first = self.first();
        self.ring.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        let _first = self.first();
        self.ring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        let _first = self.first();
        self.ring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        let _first = self.first();
        self.ring.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        let _first = self.first();
        self.ring.set_enabled(enabled);
    }

    fn set_queue_info(&self, descriptors: u64, avail: u64, used: u64) -> Result<(), Error> {
        let _first = self.first();
        self.ring.set_queue_info(descriptors, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        let _first = self.first();
        self.ring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        let _first = self.first();
        self.ring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        let _first = self.first();
        self.ring.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        let _first = self.first();
        self.ring.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        let _first = self.first();
        self.ring.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        let _first = self.first();
        self.ring.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        let _first = self.first();
        self.ring.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        let _first = self.first();
        self.ring.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.ring.read_kick() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(self.ring.get_ref().is_enabled())
            }
            read => read,
        }
    }

    fn set_call(&self, file: Option<File>) {
        let _first = self.first();
        self.ring.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        let _first = self.first();
        self.ring.set_err(file);
    }
}
