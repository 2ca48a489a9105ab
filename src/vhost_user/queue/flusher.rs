//! The flusher: a thread that makes a disk's writes durable while its workers continue.
//!
//! A sync of a file takes as long as a thousand requests or more. All flushes that are pending when a
//! sync begins share it, because each flush covers only what was written before it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use super::super::wakeup::Wakeup;
use super::counters::SyncCounters;
use crate::sandbox::{ThreadKind, enter_thread};
use crate::virtio::{SyncError, Syncs};

/// What became of a flush, once it is known. Clones are of the same flush.
#[derive(Debug, Clone)]
pub(in crate::vhost_user) struct Flush(Arc<OnceLock<Result<(), SyncError>>>);

impl Flush {
    /// What became of it, if it is over.
    pub(in crate::vhost_user) fn result(&self) -> Option<Result<(), SyncError>> {
        self.0.get().copied()
    }

    /// Waits until it is over.
    pub(in crate::vhost_user) fn wait(&self) {
        self.0.wait();
    }
}

/// A disk, and what else its flushes are to make durable.
struct Both {
    disk: Arc<dyn Syncs>,
    others: Arc<dyn Syncs>,
}

impl Syncs for Both {
    fn sync(&self) -> Result<(), SyncError> {
        self.disk.sync()?;
        self.others.sync()
    }

    fn sync_takes_time(&self) -> bool {
        self.disk.sync_takes_time() || self.others.sync_takes_time()
    }
}

/// The thread that flushes a disk. It runs from the first flush on, until this is dropped.
pub(in crate::vhost_user) struct Flusher {
    disk: Arc<dyn Syncs>,
    counters: Arc<SyncCounters>,
    queue: Arc<Queue>,
    /// `None`: none was needed yet, or none could be started.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// Flushes that wait for the thread.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the worker that wants to know.
    waiting: Vec<(Flush, Arc<Wakeup>)>,
    is_over: bool,
}

impl Flusher {
    /// A flusher of `disk`, whose syncs `counters` count.
    pub(in crate::vhost_user) fn new(disk: Arc<dyn Syncs>, counters: Arc<SyncCounters>) -> Flusher {
        Flusher { disk, counters, queue: Arc::default(), thread: Mutex::default() }
    }

    /// A flusher of the same disk, and of `others` with it.
    pub(in crate::vhost_user) fn with(&self, others: Arc<dyn Syncs>) -> Flusher {
        let both = Both { disk: self.disk.clone(), others };
        Flusher::new(Arc::new(both), self.counters.clone())
    }

    /// Returns whether a flush would take its time: otherwise there is nothing to write, or nothing to wait for.
    pub(in crate::vhost_user) fn takes_time(&self) -> bool {
        self.disk.sync_takes_time()
    }

    /// Makes all that was written durable.
    pub(in crate::vhost_user) fn flush_now(&self) -> Result<(), SyncError> {
        self.counters.count(|| self.disk.sync())
    }

    /// Begins to make all that was written durable. The worker behind `wake` is woken when it is.
    pub(in crate::vhost_user) fn begin(&self, wake: &Arc<Wakeup>) -> Flush {
        let flush = Flush(Arc::default());
        if self.is_running() {
            self.queue.state().waiting.push((flush.clone(), wake.clone()));
            self.queue.changed.notify_one();
        } else {
            finish(&flush, self.flush_now());
        }
        flush
    }

    /// Starts the thread, unless it runs. Returns whether it does. It cannot be started while threads are
    /// short; until the next flush tries again, a worker carries out its flush itself.
    fn is_running(&self) -> bool {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (queue, disk) = (self.queue.clone(), self.disk.clone());
            let counters = self.counters.clone();
            let run = move || queue.run(&*disk, &counters);
            *thread = thread::Builder::new().name("flusher".into()).spawn(run).ok();
        }
        thread.is_some()
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue.state().is_over = true;
        self.queue.changed.notify_one();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It does not panic, and if it did, no flush would be left to be told.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out flushes, all that wait with one sync, until it is over.
    fn run(&self, disk: &dyn Syncs, counters: &SyncCounters) {
        enter_thread(ThreadKind::Flusher);
        loop {
            let idle = |state: &mut State| state.waiting.is_empty() && !state.is_over;
            let waited = self.changed.wait_while(self.state(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            let flushes = std::mem::take(&mut state.waiting);
            if flushes.is_empty() {
                return;
            }
            drop(state);
            let result = counters.count(|| disk.sync());
            for (flush, wake) in flushes {
                finish(&flush, result);
                wake.wake();
            }
        }
    }
}

fn finish(flush: &Flush, result: Result<(), SyncError>) {
    let first = flush.0.set(result);
    debug_assert!(first.is_ok(), "a flush ends once");
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::errno::Errno;

    use super::*;
    use crate::pmem::{Access, Cause, MediaError};

    /// A disk each sync of which waits for the test to let it begin and end.
    #[derive(Debug)]
    struct Slow {
        syncs: AtomicUsize,
        gate: Barrier,
    }

    impl Syncs for Slow {
        fn sync(&self) -> Result<(), SyncError> {
            self.gate.wait();
            self.gate.wait();
            self.syncs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn sync_takes_time(&self) -> bool {
            true
        }
    }

    #[test]
    fn flushes_that_wait_share_a_sync_and_not_the_one_that_has_begun() {
        let disk = Arc::new(Slow { syncs: AtomicUsize::new(0), gate: Barrier::new(2) });
        let flusher = Flusher::new(disk.clone(), Arc::default());
        let wake = Arc::new(Wakeup::new().unwrap());
        let first = flusher.begin(&wake);
        disk.gate.wait();
        // The first has begun, and may have missed what these are to make durable.
        let others = [(); 3].map(|()| flusher.begin(&wake));
        disk.gate.wait();
        first.wait();
        assert_eq!(first.result(), Some(Ok(())));
        assert!(others.iter().all(|flush| flush.result().is_none()));
        disk.gate.wait();
        disk.gate.wait();
        others.iter().for_each(Flush::wait);
        drop(flusher);
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 2);
        let mut woken = [0; 8];
        rustix::io::read(&*wake, &mut woken).unwrap();
        assert!(u64::from_ne_bytes(woken) > 0);
    }

    /// Counts its syncs, which fail if told so.
    #[derive(Debug, Default)]
    struct Counted {
        syncs: AtomicUsize,
        failure: Option<SyncError>,
    }

    impl Syncs for Counted {
        fn sync(&self) -> Result<(), SyncError> {
            self.syncs.fetch_add(1, Ordering::SeqCst);
            self.failure.map_or(Ok(()), Err)
        }

        fn sync_takes_time(&self) -> bool {
            self.failure.is_some()
        }
    }

    #[test]
    fn a_flush_is_about_the_disk_and_what_is_beside_it() {
        let cause = Cause::System(Errno::EIO);
        let error = MediaError { access: Access::Sync, offset: 0, length: 0, cause }.into();
        let disk = Arc::new(Counted::default());
        let well = Arc::new(Counted::default());
        let ill = Arc::new(Counted { failure: Some(error), ..Counted::default() });
        let flusher = Flusher::new(disk.clone(), Arc::default());
        assert_eq!(flusher.with(well.clone()).flush_now(), Ok(()));
        assert!(!flusher.with(well.clone()).takes_time());
        assert_eq!(flusher.with(ill.clone()).flush_now(), Err(error));
        assert!(flusher.with(ill.clone()).takes_time());
        let counts = [disk, well, ill].map(|one| one.syncs.load(Ordering::SeqCst));
        assert_eq!(counts, [2, 1, 1]);
    }
}
