//! Read tracking: which block each queue is reading, so that no writer fills it meanwhile.
//!
//! A write frees the block that its sector had before, and the lane fills that block at its next
//! turn, while a reader that looked the sector up a moment ago may still be copying from it. So a
//! reader publishes the block before it reads, and looks the sector up again; a writer waits until
//! nobody has published the block that it is about to fill. One of the two always sees the other:
//!
//! | reader | writer |
//! |---|---|
//! | publish block | map the sector to its new block |
//! | full fence | full fence |
//! | look the sector up again: changed? start over | look for the old block in the table: there? wait |
//!
//! A compiler barrier is not enough, even on x86: a CPU lets a load pass an earlier store.

use super::sync::{AtomicU64, Ordering, fence, spin_loop, yield_now};
use super::units::Block;

/// How often a writer looks again before it lets other threads run.
const SPINS: u32 = 1000;

/// Marks a slot as in use; the arena is in bits 32 and up, the block below.
const VALID: u64 = 1 << 63;

/// A queue's entry, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Slot(AtomicU64);

/// One slot per queue.
#[derive(Debug)]
pub(super) struct ReadTracking {
    slots: Box<[Slot]>,
}

impl ReadTracking {
    pub(super) fn new(queues: usize) -> Self {
        ReadTracking { slots: (0..queues).map(|_| Slot(AtomicU64::new(0))).collect() }
    }

    /// Says that `queue` is about to read `block`, before anything that it loads after this call.
    pub(super) fn publish(&self, queue: usize, arena: usize, block: Block) {
        // Released as by `clear`: a writer that waits for the queue's last block may see this store
        // rather than the one that cleared the slot, and then fills that block.
        let release = if mutant!(RelaxedPublish) { Ordering::Relaxed } else { Ordering::Release };
        self.slots[queue].0.store(tracked(arena, block), release);
        if !mutant!(NoReaderFence) {
            fence(Ordering::SeqCst);
        }
    }

    /// Says that `queue` is done reading.
    pub(super) fn clear(&self, queue: usize) {
        let release = if mutant!(RelaxedClear) { Ordering::Relaxed } else { Ordering::Release };
        self.slots[queue].0.store(0, release);
    }

    /// Waits until nobody reads `block`, which no map entry names. The map store that took its name
    /// away was followed by [`after_mapping`].
    pub(super) fn wait_until_unread(&self, arena: usize, block: Block) {
        let tracked = tracked(arena, block);
        for slot in &self.slots {
            let mut spins = 0;
            while slot.0.load(Ordering::Acquire) == tracked {
                spins += 1;
                if spins % SPINS == 0 {
                    yield_now();
                } else {
                    spin_loop();
                }
            }
        }
    }
}

/// The writer's full fence, after its map stores and before it looks for readers.
pub(super) fn after_mapping() {
    if !mutant!(NoWriterFence) {
        fence(Ordering::SeqCst);
    }
}

fn tracked(arena: usize, block: Block) -> u64 {
    VALID | (arena as u64) << 32 | u64::from(block.0)
}
