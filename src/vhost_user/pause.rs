//! Devices that stand still for a while: for a copy, or to be given more sectors.

use std::sync::Arc;

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
            device.worker(queue).settle();
        }
        Pause { device }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.device.gate().open();
        for queue in 0..self.device.queues() {
            self.device.worker(queue).wake();
        }
    }
}
