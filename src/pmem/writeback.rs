//! Syncing a page-cache file: who has to, and who can share another's sync.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

/// Whether a file has been stored to since it was last synced.
#[derive(Debug)]
pub(super) struct Writeback {
    dirty: AtomicBool,
    /// Held during a sync; keeps the first failure.
    failure: Mutex<Option<Errno>>,
}

impl Writeback {
    /// A new one is dirty: a process before us may have left pages unsynced.
    pub(super) fn new() -> Self {
        Writeback { dirty: AtomicBool::new(true), failure: Mutex::new(None) }
    }

    /// Notes a store that the calling thread has made.
    ///
    /// The flag is only written when it is clear, so that queues do not fight for its cache line. A
    /// load that still sees it set while [`sync`](Self::sync) clears it misses nothing: a sync
    /// write-protects the pages that it writes out and waits for every CPU to see that. A store
    /// either precedes the protection, and is written out, or faults on it and loads the flag after
    /// the fault, when it is clear.
    #[inline]
    pub(super) fn note_store(&self) {
        if !self.dirty.load(Ordering::Relaxed) {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Makes every store noted before the call durable.
    ///
    /// Concurrent callers share: who waited for another's sync, and has stored nothing since it
    /// began, needs none of its own. A failed sync may have dropped pages that the next one would
    /// report as written, so the first failure stays.
    pub(super) fn sync(&self, file: &File) -> Result<(), Errno> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(errno) = *failure {
            return Err(errno);
        }
        if self.dirty.swap(false, Ordering::SeqCst) {
            nix::unistd::fdatasync(file).inspect_err(|errno| *failure = Some(*errno))?;
        }
        Ok(())
    }

    /// Whether [`sync`](Self::sync) has anything to do, or to wait for, or to report.
    pub(super) fn has_to_sync(&self) -> bool {
        // While another's sync is under way, the flag is clear and nothing is durable yet.
        let failure = self.failure.try_lock();
        failure.map_or(true, |failure| failure.is_some()) || self.dirty.load(Ordering::SeqCst)
    }
}
