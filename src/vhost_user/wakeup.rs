//! Wakes a thread that waits until one of several descriptors is readable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes the thread that listens to it.
#[derive(Debug)]
pub(super) struct Wakeup(OwnedFd);

impl Wakeup {
    /// A wakeup that has not been asked for.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub(super) fn new() -> io::Result<Wakeup> {
        Ok(Wakeup(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Wakes the thread.
    pub(super) fn wake(&self) {
        // It fails when it was asked for 2^64 times, and then the thread is as good as woken.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// The thread is awake.
    pub(super) fn clear(&self) {
        // There is nothing to read if nothing has asked.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wakeup {
    /// Readable once the thread is to wake up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
