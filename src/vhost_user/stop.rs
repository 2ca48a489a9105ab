//! Stops a server from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::wakeup::Wakeup;

/// A handle by which a server is stopped. Clones stop the same server.
#[derive(Clone)]
pub struct Stop(Arc<State>);

struct State {
    is_stopped: AtomicBool,
    /// Never cleared.
    wakeup: Wakeup,
}

impl Stop {
    /// A handle of a server that is not stopped.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn new() -> io::Result<Stop> {
        Ok(Stop(Arc::new(State { is_stopped: AtomicBool::new(false), wakeup: Wakeup::new()? })))
    }

    /// Stops the server: it accepts no more connections, ends the one it has, and returns once the
    /// requests in flight are completed.
    pub fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Release);
        self.0.wakeup.wake();
    }

    /// Returns whether the server has been told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::Acquire)
    }
}

impl AsFd for Stop {
    /// Readable once the server is to stop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wakeup.as_fd()
    }
}
