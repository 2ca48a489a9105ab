//! What a session asks of the device behind it.

use super::guest_log::LimitedLog;
use super::queue::Serve;
use super::windows::Windows;

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
