//! Read tracking: which block each queue is reading, so that no writer fills it meanwhile.
//!
//! A write frees the block that its sector had before, and the lane fills that block at its next
//! turn, while a reader that looked the sector up a moment ago may still be copying from it. So a
//! reader publishes the block before it reads, and looks the sector up again; a writer waits until
//! no reader has published the block that it is about to fill. One of the two always sees the other:
//!
//! | reader | writer |
//! |---|---|
//! | publish block | map the sector to its new block |
//! | full fence | full fence |
//! | look the sector up again: changed? start over | look for the old block in the table: there? wait |
//!
//! A queue has as many slots as fit a cache line, so that sectors which are read together share the
//! reader's fence, and a writer still looks at one line for each queue.
//!
//! A compiler barrier is not enough, even on x86: a CPU lets a load pass an earlier store.

use super::sync::{AtomicU64, Ordering, full_fence, spin_loop, yield_now};
use crate::btt::format::units::Block;

/// How often a writer looks again before it lets other threads run.
const SPINS: u32 = 1000;

/// Marks a slot as in use; the arena is in bits 32 and up, the block below.
const VALID: u64 = 1 << 63;

/// Most sectors that a queue reads together. A model has no more than it takes to have several.
pub(super) const GROUP: usize = if cfg!(feature = "loom") { 2 } else { 8 };

/// A queue's slots, on a cache line of their own, and of those that are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Slots([AtomicU64; GROUP]);

/// The blocks that are being read.
#[derive(Debug)]
pub(super) struct ReadTracking {
    queues: Box<[Slots]>,
}

impl ReadTracking {
    pub(super) fn new(queues: usize) -> Self {
        let slots = |_| Slots(std::array::from_fn(|_| AtomicU64::new(0)));
        ReadTracking { queues: (0..queues).map(slots).collect() }
    }

    /// Says that `queue` is about to read `blocks`, at most [`GROUP`], before anything that it loads
    /// after this call.
    #[inline]
    pub(super) fn publish(
        &self,
        queue: usize,
        arena: usize,
        blocks: impl IntoIterator<Item = Block>,
    ) {
        // Released as by `clear`: a writer that waits for the queue's last block may see this store
        // rather than the one that cleared the slot, and then fills that block.
        let release =
            if mutant!(btt::RelaxedPublish) { Ordering::Relaxed } else { Ordering::Release };
        let slots = if mutant!(btt::FirstBlockPublished) { 1 } else { GROUP };
        for (slot, block) in self.queues[queue].0[..slots].iter().zip(blocks) {
            slot.store(tracked(arena, block), release);
        }
        if !mutant!(btt::NoReaderFence) {
            full_fence();
        }
    }

    /// Says that `queue` is done reading the `count` blocks that it has published.
    #[inline]
    pub(super) fn clear(&self, queue: usize, count: usize) {
        let release =
            if mutant!(btt::RelaxedClear) { Ordering::Relaxed } else { Ordering::Release };
        for slot in &self.queues[queue].0[..count] {
            slot.store(0, release);
        }
    }

    /// Waits until no queue reads `block`, which no map entry names. The map store that took its name
    /// away was followed by [`after_mapping`].
    pub(super) fn wait_until_unread(&self, arena: usize, block: Block) {
        let tracked = tracked(arena, block);
        for slots in &self.queues {
            let looked_at = if mutant!(btt::FirstSlotAlone) { 1 } else { GROUP };
            for slot in &slots.0[..looked_at] {
                if slot.load(Ordering::Acquire) == tracked {
                    wait_while(slot, tracked);
                }
            }
        }
    }
}

/// Waits until `slot` holds something else than `tracked`.
#[cold]
fn wait_while(slot: &AtomicU64, tracked: u64) {
    let mut spins = 0;
    while slot.load(Ordering::Acquire) == tracked {
        spins += 1;
        if spins % SPINS == 0 {
            yield_now();
        } else {
            spin_loop();
        }
    }
}

/// The writer's full fence, after its map stores and before it looks for readers.
pub(super) fn after_mapping() {
    if !mutant!(btt::NoWriterFence) {
        full_fence();
    }
}

fn tracked(arena: usize, block: Block) -> u64 {
    VALID | (arena as u64) << 32 | u64::from(block.0)
}
