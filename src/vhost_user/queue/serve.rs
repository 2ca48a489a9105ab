//! One interface to the workers of all devices.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::eventfd::Eventfd;
use super::super::wakeup::Wakeup;
use super::ring::{Memory, Ring};
use super::worker::{Handler, Progress, Worker};

/// The worker of a queue, whatever its device.
pub(in crate::vhost_user) trait Serve: Sync {
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

    /// As [`Worker::wake`].
    fn wake(&self);

    /// As [`Worker::wait_until_idle`].
    fn wait_until_idle(&self);

    /// As [`Worker::drain`].
    fn drain(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>>;

    /// As [`Worker::disconnect`].
    fn disconnect(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>>;
}

/// Locks a worker, between two of its steps.
pub(in crate::vhost_user) fn lock<H: Handler>(
    worker: &Mutex<Worker<H>>,
) -> MutexGuard<'_, Worker<H>> {
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

    fn wake(&self) {
        lock(self).wake();
    }

    fn wait_until_idle(&self) {
        lock(self).wait_until_idle();
    }

    fn drain(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>> {
        lock(self).drain(ring, memory)
    }

    fn disconnect(&self, ring: &Ring, memory: &Memory) -> Option<Arc<Eventfd>> {
        lock(self).disconnect(ring, memory)
    }
}
