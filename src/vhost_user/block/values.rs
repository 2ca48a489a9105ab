//! The values that options of a disk may have, wherever they are given.

use crate::vhost_user::{MOST_QUEUE_SIZE, MOST_QUEUES};

/// Longest time that a worker polls an empty ring, in microseconds.
pub const MOST_POLL_US: u16 = 1000;

/// Returns whether a disk can have so many queues.
#[must_use]
pub fn is_queue_count(count: u16) -> bool {
    (1..=MOST_QUEUES).contains(&count)
}

/// Returns whether a queue can have so many descriptors.
#[must_use]
pub fn is_queue_size(size: u16) -> bool {
    (2..=MOST_QUEUE_SIZE).contains(&size) && size.is_power_of_two()
}

/// Returns whether a guest can address blocks of so many bytes.
#[must_use]
pub fn is_logical_block_size(size: u32) -> bool {
    matches!(size, 512 | 4096 | 8192 | 16384 | 32768)
}

/// Returns whether writes of so many bytes can be all or nothing on some disk: a round has up to 256 KiB with
/// sectors of 4096 bytes.
#[must_use]
pub fn is_atomic_size(size: u64) -> bool {
    (1024..=256 << 10).contains(&size) && size.is_power_of_two()
}
