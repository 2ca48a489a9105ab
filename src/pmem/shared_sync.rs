//! Syncs that their callers share: group commit.
//!
//! A sync makes durable what was stored before it began. One runs at a time; all who ask for one meanwhile
//! share the next. So each caller waits for at most two, and of many callers few sync.
//!
//! Syncs are numbered. [`SharedSync::next`] is the number of the first one that covers what the calling thread
//! has stored; whether it has completed says whether that is durable.

use super::sync::{AtomicU64, Mutex, Ordering, PoisonError};

/// The syncs of one kind, of a file or of a part of it.
#[derive(Debug)]
pub struct SharedSync {
    /// Number of the last one that has begun.
    begun: AtomicU64,
    /// Number of the last one that has succeeded, to be read without the lock.
    completed: AtomicU64,
    /// Held during a sync.
    turn: Mutex<()>,
}

impl SharedSync {
    /// None has begun.
    #[must_use]
    pub fn new() -> SharedSync {
        SharedSync { begun: AtomicU64::new(0), completed: AtomicU64::new(0), turn: Mutex::new(()) }
    }

    /// Number of the next sync to begin: it covers what was stored before the call, by the calling thread, and
    /// fenced by [`full_fence`](super::full_fence).
    ///
    /// A sync write-protects the pages that it writes out, and waits for every CPU to see that. So a store that
    /// precedes this load is in the pages that a sync which begins after it writes out.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.begun.load(Ordering::SeqCst) + 1
    }

    /// Returns whether the sync of this number, or a later one, has succeeded. There is no sync 0: what needs
    /// that one is durable already.
    #[must_use]
    pub fn has_completed(&self, number: u64) -> bool {
        self.completed.load(Ordering::Acquire) >= number
    }

    /// Waits for the [next](Self::next) sync, or makes it: `sync` syncs.
    ///
    /// # Errors
    ///
    /// That of the caller's own sync. Who finds that of another failed makes his own.
    pub fn share<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        self.share_from(self.next(), sync)
    }

    /// As [`share`](Self::share), where the sync of number `wanted` is enough, or any later one.
    ///
    /// # Errors
    ///
    /// As [`share`](Self::share).
    pub fn share_from<E>(
        &self,
        wanted: u64,
        sync: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_completed(wanted) {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        sync()?;
        self.completed.store(number, Ordering::Release);
        Ok(())
    }
}

impl Default for SharedSync {
    fn default() -> SharedSync {
        SharedSync::new()
    }
}

// Its interleavings are explored in tests/loom/group_commit.rs.
#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn ok() -> Result<(), ()> {
        Ok(())
    }

    #[test]
    fn a_sync_covers_what_was_stored_before_it_began() {
        let syncs = SharedSync::new();
        assert!(syncs.has_completed(0));
        let before = syncs.next();
        assert!(!syncs.has_completed(before));
        let mut during = 0;
        syncs
            .share(|| {
                during = syncs.next();
                ok()
            })
            .unwrap();
        assert!(syncs.has_completed(before) && !syncs.has_completed(during));
        syncs.share(ok).unwrap();
        assert!(syncs.has_completed(during));
    }

    #[test]
    fn who_has_what_he_wants_makes_no_sync() {
        let syncs = SharedSync::new();
        let wanted = syncs.next();
        syncs.share(ok).unwrap();
        syncs.share_from(wanted, || Err(())).unwrap();
        assert_eq!(syncs.share(|| Err(1)), Err(1));
    }

    #[test]
    fn a_sync_that_fails_covers_nothing() {
        let syncs = SharedSync::new();
        let wanted = syncs.next();
        assert_eq!(syncs.share(|| Err(1)), Err(1));
        assert!(!syncs.has_completed(wanted));
        assert_eq!(syncs.share_from(wanted, || Err(2)), Err(2));
    }
}
