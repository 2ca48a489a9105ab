//! Devices that stand still for a while: for a copy, or to be given more sectors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::VhostDevice;

/// Keeps a device from its rings, until dropped.
pub(super) struct Pause {
    device: Arc<dyn VhostDevice>,
}

impl Pause {
    /// Lets `device` take nothing off its rings any more, and waits until what it has taken does not use the
    /// medium any more.
    pub(super) fn begin(device: Arc<dyn VhostDevice>) -> Pause {
        device.gate().close();
        for queue in 0..device.queues() {
            device.worker(queue).wait_until_idle();
        }
        Pause { device }
    }
}

/// What an administrator has a device do.
#[derive(Default)]
pub(super) enum Standstill {
    /// It serves its guest.
    #[default]
    Runs,
    /// It is about to stand still: what it has in hand is completed, and made durable.
    Begins,
    /// It stands still.
    Stands(Quiesced),
}

impl Standstill {
    /// Returns whether it serves its guest.
    pub(super) fn runs(&self) -> bool {
        matches!(self, Standstill::Runs)
    }

    /// The pause, if it stands still; it serves its guest from then on.
    pub(super) fn take(&mut self) -> Option<Quiesced> {
        self.take_if(|_| true)
    }

    /// The same, if `is_over` says so.
    pub(super) fn take_if(&mut self, is_over: impl FnOnce(&Quiesced) -> bool) -> Option<Quiesced> {
        match std::mem::take(self) {
            Standstill::Stands(quiesced) if is_over(&quiesced) => Some(quiesced),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// A pause that an administrator has asked for. It has an end, since the administrator may never come back.
pub(super) struct Quiesced {
    pub pause: Pause,
    /// How long it was to last at most.
    pub limit: Duration,
    /// When that is over.
    pub until: Instant,
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.device.gate().open();
        for queue in 0..self.device.queues() {
            self.device.worker(queue).wake();
        }
    }
}
