//! What a session asks of the device behind it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::wakeup::Wakeup;

use super::eventfd::Eventfd;
use super::guest_log::LimitedLog;
use super::ring::{Memory, Ring};
use super::windows::Windows;
use super::worker::{Handler, Progress, Worker};

/// A device; it outlives the sessions that serve it, one after another.
pub(super) trait VhostDevice: Send + Sync + 'static {
    /// The log of what its guest and its frontend cause.
    fn log(&self) -> &LimitedLog;

    /// Number of queues.
    fn queues(&self) -> usize;

    /// Most descriptors of a queue, a power of two.
    fn queue_size(&self) -> u16;

    /// The feature bits that it offers to the driver.
    fn features(&self) -> u64;

    /// The driver has accepted `features`.
    fn accept_features(&self, features: u64);

    /// Protocol features that it needs, beside those that every device has.
    fn protocol_features(&self) -> u64;

    /// `size` bytes of the configuration space, from `offset` on.
    fn read_config(&self, offset: u32, size: u32) -> Vec<u8>;

    /// The driver writes `bytes` at `offset` of the configuration space.
    fn write_config(&self, offset: u32, bytes: &[u8]);

    /// The shared memory regions; there may be none.
    fn windows(&self) -> &Windows;

    /// The worker of a queue, which exists.
    fn worker(&self, queue: usize) -> &dyn Serve;

    /// The session has ended, and so have the threads of its queues.
    fn disconnect(&self);
}

/// The worker of a queue, whatever its device.
pub(super) trait Serve: Sync {
    /// As [`Worker::connect`].
    fn connect(&self, wake: Arc<Wakeup>);

    /// As [`Worker::woken`].
    fn woken(&self);

    /// As [`Worker::step`].
    fn step(
        &self,
        ring: &Ring,
        memory: &Memory,
        stop: &AtomicBool,
    ) -> (Progress, Option<Arc<Eventfd>>);

    /// As [`Worker::drain`].
    fn drain(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>>;

    /// As [`Worker::disconnect`].
    fn disconnect(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>>;
}

/// Locks a worker, between two of its steps.
pub(super) fn lock<H: Handler>(worker: &Mutex<Worker<H>>) -> MutexGuard<'_, Worker<H>> {
    // A panic while a worker is locked ends its thread; the state it leaves is that between two requests.
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Handler> Serve for Mutex<Worker<H>> {
    fn connect(&self, wake: Arc<Wakeup>) {
        lock(self).connect(wake);
    }

    fn woken(&self) {
        lock(self).woken();
    }

    fn step(
        &self,
        ring: &Ring,
        memory: &Memory,
        stop: &AtomicBool,
    ) -> (Progress, Option<Arc<Eventfd>>) {
        lock(self).step(ring, memory, stop)
    }

    fn drain(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>> {
        lock(self).drain(ring, memory)
    }

    fn disconnect(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>> {
        lock(self).disconnect(ring, memory)
    }
}
