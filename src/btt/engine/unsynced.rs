//! Map entries that are stored and not durable yet, as there are in `strict`: see [`deferred`](super::deferred).
//!
//! They are kept here until a sync has made them durable, and whoever looks a sector up looks here first. The
//! map on the medium may be wrong about such a sector: if the kernel cannot write its page back, it may drop
//! the page, and have it read again as it was.

use std::collections::HashMap;
use std::sync::Arc;

use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use crate::btt::format::map::MapEntry;
use crate::btt::format::units::Lba;
use crate::pmem::SharedSync;

/// Number of the sync that makes an entry durable which is being stored: none does.
const BEING_STORED: u64 = u64::MAX;

/// A map entry, and the number of the sync that makes it durable.
#[derive(Debug, Clone, Copy)]
struct Unsynced {
    entry: MapEntry,
    sync: u64,
}

/// The map entries of an arena that are not known to be durable.
#[derive(Debug)]
pub(super) struct UnsyncedEntries {
    /// The syncs that make them durable.
    syncs: Arc<SharedSync>,
    /// How many there are.
    count: AtomicU64,
    entries: Mutex<HashMap<Lba, Unsynced>>,
}

impl UnsyncedEntries {
    /// There are none, and `syncs` will make those durable that there are.
    pub(super) fn new(syncs: Arc<SharedSync>) -> UnsyncedEntries {
        UnsyncedEntries { syncs, count: AtomicU64::new(0), entries: Mutex::new(HashMap::new()) }
    }

    /// `entries` are about to be stored, under their map locks: readers see them from now on.
    pub(super) fn begin(&self, entries: impl IntoIterator<Item = (Lba, MapEntry)>) {
        let mut all = self.entries();
        let unsynced = |(lba, entry)| (lba, Unsynced { entry, sync: BEING_STORED });
        all.extend(entries.into_iter().map(unsynced));
        self.count.store(all.len() as u64, Ordering::Release);
    }

    /// The entries of `lbas` are stored, and durable once the sync of number `sync` has completed.
    pub(super) fn stored(&self, lbas: impl IntoIterator<Item = Lba>, sync: u64) {
        let mut all = self.entries();
        for lba in lbas {
            all.entry(lba).and_modify(|unsynced| unsynced.sync = sync);
        }
    }

    /// The entry of `lba` could not be stored.
    pub(super) fn take_back(&self, lba: Lba) {
        self.entries().remove(&lba);
    }

    /// Forgets the entries that are durable by now.
    pub(super) fn forget(&self) {
        if self.is_empty() {
            return;
        }
        let mut all = self.entries();
        all.retain(|_, unsynced| !self.syncs.has_completed(unsynced.sync));
        self.count.store(all.len() as u64, Ordering::Release);
    }

    /// The entry of `lba`, if it is not durable.
    pub(super) fn get(&self, lba: Lba) -> Option<MapEntry> {
        if self.is_empty() {
            return None;
        }
        let unsynced = *self.entries().get(&lba)?;
        // One that is durable may have been replaced by a trim.
        (!self.syncs.has_completed(unsynced.sync)).then_some(unsynced.entry)
    }

    /// Returns whether one of these entries is not durable.
    pub(super) fn has_any(&self, lbas: impl IntoIterator<Item = Lba>) -> bool {
        if self.is_empty() {
            return false;
        }
        let all = self.entries();
        let is_unsynced = |lba| {
            let unsynced = all.get(&lba);
            unsynced.is_some_and(|unsynced| !self.syncs.has_completed(unsynced.sync))
        };
        lbas.into_iter().any(is_unsynced)
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Lba, Unsynced>> {
        // Each change of it is one call: a panic elsewhere leaves it whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::btt::format::units::Block;

    #[test]
    fn an_entry_stays_until_a_sync_that_began_after_its_store_has_completed() {
        let syncs = Arc::new(SharedSync::new());
        let unsynced = UnsyncedEntries::new(syncs.clone());
        let (lba, entry) = (Lba(7), MapEntry::data(Block(9)));
        let sync = || syncs.share(|| Ok::<_, ()>(())).unwrap();
        assert_eq!(unsynced.get(lba), None);
        unsynced.begin([(lba, entry)]);
        sync();
        unsynced.forget();
        assert_eq!(unsynced.get(lba), Some(entry), "it may not be stored yet");
        unsynced.stored([lba], syncs.next());
        assert!(unsynced.has_any([Lba(1), lba]) && !unsynced.has_any([Lba(1)]));
        sync();
        assert!(!unsynced.has_any([lba]));
        assert_eq!(unsynced.get(lba), None);
        unsynced.forget();
        assert!(unsynced.is_empty());
    }
}
