//! Whether, and how fast, the queues of a device may take requests off their rings.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::limiter::Limits;

/// What the administrator has decided of the queues of a device.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct Gate {
    /// How many want the device to stand still.
    pauses: AtomicUsize,
    limits: Limits,
}

impl Gate {
    /// True if nothing may be taken off the rings.
    pub(in crate::vhost_user) fn is_closed(&self) -> bool {
        // A worker reads it under its lock, which the thread that closes the gate takes afterwards.
        self.pauses.load(Ordering::Acquire) > 0
    }

    /// Lets nothing be taken off the rings until [`open`](Self::open) is called as often.
    pub(in crate::vhost_user) fn close(&self) {
        self.pauses.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back one [`close`](Self::close).
    pub(in crate::vhost_user) fn open(&self) {
        self.pauses.fetch_sub(1, Ordering::AcqRel);
    }

    /// The rate limits.
    pub(in crate::vhost_user) fn limits(&self) -> &Limits {
        &self.limits
    }
}
