//! Map locks: who changes a map entry holds the lock of its cache line.
//!
//! A reader needs none. A round takes all that it needs in ascending order, so that two rounds never
//! wait for each other.

use super::sync::{Mutex, MutexGuard, PoisonError};
use crate::btt::format::geometry::MAP_ENTRY_SIZE;
use crate::btt::format::units::Lba;
use crate::pmem::CACHE_LINE;

/// Number of locks per arena: enough that two queues seldom meet. A model makes them anew for each
/// interleaving, and needs no more than it has threads.
const LOCKS: usize = if cfg!(feature = "loom") { 4 } else { 256 };
/// Map entries that share a lock: those of one cache line.
pub(super) const ENTRIES: u32 = (CACHE_LINE / MAP_ENTRY_SIZE) as u32;

/// A lock on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Lock(Mutex<()>);

/// The map locks of an arena.
#[derive(Debug)]
pub(super) struct MapLocks {
    locks: Box<[Lock]>,
}

/// Which lock of which arena guards an entry, in the order in which a round takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LockKey {
    pub arena: usize,
    lock: usize,
}

impl LockKey {
    pub(super) fn of(arena: usize, lba: Lba) -> LockKey {
        LockKey { arena, lock: (lba.0 / ENTRIES) as usize % LOCKS }
    }
}

/// A held lock.
pub(super) type MapGuard<'a> = MutexGuard<'a, ()>;

impl MapLocks {
    pub(super) fn new() -> Self {
        MapLocks { locks: (0..LOCKS).map(|_| Lock(Mutex::new(()))).collect() }
    }

    pub(super) fn lock(&self, key: LockKey) -> MapGuard<'_> {
        // A panic elsewhere leaves no map entry half-written: the lock guards no data of its own.
        self.locks[key.lock].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_of_a_cache_line_share_a_lock(arena in 0..9usize, lba in 0..1u32 << 30) {
            let key = LockKey::of(arena, Lba(lba));
            prop_assert!(key.lock < LOCKS);
            let line = lba / ENTRIES;
            for other in line * ENTRIES..(line + 1) * ENTRIES {
                prop_assert_eq!(LockKey::of(arena, Lba(other)), key);
            }
            prop_assert_ne!(LockKey::of(arena, Lba((line + 1) * ENTRIES)), key);
            // The order in which they are taken is one of all arenas.
            prop_assert!(key < LockKey::of(arena + 1, Lba(0)));
        }
    }
}
