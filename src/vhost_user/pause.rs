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
