//! Write-back of a file to its storage device: which mapping has to sync it, which callers can share a
//! sync, and what is true after a sync has failed.
//!
//! The state belongs to the file and not to one mapping of it. A sync writes back the pages of every
//! mapping, and the kernel reports a failed write-back once for each open file description
//! (`errseq_t`): a second mapping of the same file, as made when a namespace grows, would neither see
//! the failure nor know that pages may be gone. All mappings of a file in this process therefore share
//! one [`Writeback`], found by the file's device and inode number.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex as StdMutex, Weak};

use nix::errno::Errno;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// The files that are mapped, by device and inode number.
static FILES: StdMutex<Vec<(FileId, Weak<Writeback>)>> = StdMutex::new(Vec::new());

/// Device and inode number of a file.
type FileId = (u64, u64);

/// The write-back state of an open file.
#[derive(Debug)]
pub(super) struct Writeback {
    /// The file has been stored to since the last sync began.
    dirty: AtomicBool,
    /// There has been a failure: as `failure`, to be read without the lock.
    has_failed: AtomicBool,
    /// Held during a sync; keeps the first failure.
    failure: Mutex<Option<Errno>>,
}

impl Writeback {
    /// A new state is dirty: an earlier process may have left pages that were not synced.
    pub(super) fn new() -> Writeback {
        Writeback {
            dirty: AtomicBool::new(true),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Returns the state that all mappings of `file` in this process share.
    pub(super) fn of(file: &File) -> io::Result<Arc<Writeback>> {
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(_, state)| state.strong_count() > 0);
        let known = files.iter().find(|(known, _)| *known == id);
        if let Some(state) = known.and_then(|(_, state)| state.upgrade()) {
            return Ok(state);
        }
        let state = Arc::new(Writeback::new());
        files.push((id, Arc::downgrade(&state)));
        Ok(state)
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

    /// Makes every store noted before the call durable; `write_back` is fdatasync of the file.
    ///
    /// Concurrent callers share: a caller that waited for the sync of another and has stored nothing
    /// since that began needs none of its own.
    ///
    /// # Errors
    ///
    /// The first failure is kept and returned by every later call: the kernel marks pages clean whose
    /// write-back failed, so a later fdatasync would report them as written.
    pub(super) fn sync(&self, write_back: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
        let failure = self.begin()?;
        if self.dirty.swap(false, Ordering::SeqCst) {
            self.write_back(failure, write_back)?;
        }
        Ok(())
    }

    /// Makes every store durable, also those of other processes that map the file, which are not recorded.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync).
    pub(super) fn sync_all(
        &self,
        write_back: impl FnMut() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let failure = self.begin()?;
        self.dirty.store(false, Ordering::SeqCst);
        self.write_back(failure, write_back)
    }

    /// Makes every store to a part of the file durable; `write_back` syncs that part. What was stored elsewhere
    /// is as before.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync). The kernel tells of a failure of any part, and does so once.
    pub(super) fn sync_part(
        &self,
        write_back: impl FnMut() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let failure = self.begin()?;
        self.write_back(failure, write_back)
    }

    /// Waits for the sync that is under way, and takes its place unless there has been a failure.
    fn begin(&self) -> Result<MutexGuard<'_, Option<Errno>>, Errno> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match *failure {
            Some(errno) => Err(errno),
            None => Ok(failure),
        }
    }

    fn write_back(
        &self,
        mut failure: MutexGuard<'_, Option<Errno>>,
        mut write_back: impl FnMut() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        loop {
            match write_back() {
                // A signal has interrupted it: nothing has failed, and nothing is durable yet.
                Err(Errno::EINTR) => {}
                Ok(()) => return Ok(()),
                Err(errno) => {
                    *failure = Some(errno);
                    self.has_failed.store(true, Ordering::Release);
                    return Err(errno);
                }
            }
        }
    }

    /// Returns whether a sync has failed.
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Returns the first failure of a sync, if there was one.
    pub(super) fn failure(&self) -> Option<Errno> {
        // A sync that is under way may hold the lock for long.
        if self.has_failed() {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
        } else {
            None
        }
    }

    /// Returns whether [`sync`](Self::sync) has anything to do, to wait for or to report.
    pub(super) fn has_to_sync(&self) -> bool {
        // While the sync of another caller is under way, the flag is clear and nothing is durable yet.
        let failure = self.failure.try_lock();
        failure.map_or(true, |failure| failure.is_some()) || self.dirty.load(Ordering::SeqCst)
    }
}

/// The write-back that [`Writeback::sync`] asks for, of `file`.
pub(super) fn fdatasync(file: &File) -> impl FnMut() -> Result<(), Errno> {
    move || nix::unistd::fdatasync(file)
}

// Its interleavings are explored in tests/loom/writeback.rs.
#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn mappings_of_one_file_share_its_state_as_long_as_there_is_one() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let state = Writeback::of(&file).unwrap();
        assert!(Arc::ptr_eq(&state, &Writeback::of(&file.try_clone().unwrap()).unwrap()));
        assert!(!Arc::ptr_eq(&state, &Writeback::of(&other).unwrap()));
        assert_eq!(state.sync(|| Err(Errno::EIO)), Err(Errno::EIO));
        assert_eq!(Writeback::of(&file).unwrap().failure(), Some(Errno::EIO));
        drop(state);
        assert_eq!(Writeback::of(&file).unwrap().failure(), None);
    }

    #[test]
    fn a_failed_sync_is_never_forgotten() {
        let state = Writeback::new();
        assert_eq!(state.sync(|| Err(Errno::ENOSPC)), Err(Errno::ENOSPC));
        for _ in 0..3 {
            state.note_store();
            assert!(state.has_to_sync());
            assert_eq!(state.sync(|| Ok(())), Err(Errno::ENOSPC));
            assert_eq!(state.sync_all(|| Ok(())), Err(Errno::ENOSPC));
            assert_eq!(state.sync_part(|| Ok(())), Err(Errno::ENOSPC));
            assert_eq!(state.failure(), Some(Errno::ENOSPC));
        }
    }

    #[test]
    fn a_sync_that_a_signal_interrupts_is_made_again() {
        let state = Writeback::new();
        let calls = Cell::new(0);
        let interrupted_twice = || {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(Errno::EINTR) } else { Ok(()) }
        };
        assert_eq!(state.sync(interrupted_twice), Ok(()));
        assert_eq!((calls.get(), state.failure()), (3, None));
    }

    #[test]
    fn only_what_was_stored_to_is_synced_but_for_stores_of_others() {
        let state = Writeback::new();
        let syncs = Cell::new(0);
        let count = || {
            syncs.set(syncs.get() + 1);
            Ok(())
        };
        // An earlier process may have left something.
        state.sync(count).unwrap();
        state.sync(count).unwrap();
        assert_eq!(syncs.get(), 1);
        state.note_store();
        state.sync(count).unwrap();
        assert_eq!(syncs.get(), 2);
        state.sync_all(count).unwrap();
        state.sync_all(count).unwrap();
        assert_eq!(syncs.get(), 4);
    }

    #[test]
    fn a_sync_of_a_part_leaves_the_rest_to_the_next() {
        let state = Writeback::new();
        state.sync(|| Ok(())).unwrap();
        state.note_store();
        state.sync_part(|| Ok(())).unwrap();
        assert!(state.has_to_sync());
        assert_eq!(state.sync_part(|| Err(Errno::EIO)), Err(Errno::EIO));
        assert_eq!(state.sync(|| Ok(())), Err(Errno::EIO));
    }

    /// A store that is made while the pages are written back may come too late for it.
    #[test]
    fn a_store_during_a_sync_is_left_to_the_next() {
        let state = Writeback::new();
        let during = || {
            state.note_store();
            Ok(())
        };
        state.sync(during).unwrap();
        assert!(state.has_to_sync());
        let again = Cell::new(false);
        let during = || {
            again.set(true);
            Ok(())
        };
        state.sync(during).unwrap();
        assert!(again.get());
    }
}
