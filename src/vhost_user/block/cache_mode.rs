//! The cache mode that the guest relies on: whether a completed write has to be durable.
//!
//! A driver that has accepted `VIRTIO_BLK_F_CONFIG_WCE` chooses by the `writeback` byte of the
//! configuration space, and sends no flush in write-through mode. The byte is the driver's state, not
//! the connection's, but a frontend sends it once: after the connection or this process was replaced,
//! QEMU resumes the rings and says nothing of the mode. So:
//!
//! * The mode of the last connection stays in force where a ring resumes, that is, where it does not
//!   start at index 0, or has used elements that are not zero: an index wraps around to 0. A ring that
//!   starts there, with zeroes, is that of a driver that has just begun, which allocates zeroed rings
//!   (VIRTIO 1.2, 4.1.5.1.3), and has not chosen yet. It is not written through until it flushes: a guest
//!   that writes much before its first flush would be slow for no gain, because it was told of a write
//!   cache.
//! * In a new process nothing is known of a driver that resumes a ring. Its writes are written through
//!   until it chooses, or until it flushes: Linux removes flushes from requests in write-through mode
//!   (`submit_bio_noacct`), so a flush shows that the driver counts on write-back. A flush that may have
//!   been in the ring since before the driver chose shows nothing.
//!
//! The Windows driver (viostor) does not accept `CONFIG_WCE`; its mode follows from its features.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;

use super::super::guest_log::LimitedLog;

/// What is known of the cache mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A completed write is durable after the next flush.
    WriteBack,
    /// A completed write is durable.
    WriteThrough,
    /// A ring was resumed in an unknown mode; as write-through.
    Unknown,
}

/// The cache mode of a device, over its connections.
#[derive(Debug)]
pub(super) struct CacheMode {
    /// The mode of a driver that has not chosen.
    default: Mode,
    /// The mode is write-back; to be read without the lock.
    is_writeback: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// The mode in force when the last connection ended that had started a ring.
    last: Option<Mode>,
    /// A ring has started during this connection.
    has_started: bool,
    /// The driver has chosen during this connection, or a ring was resumed.
    is_settled: bool,
}

impl CacheMode {
    /// The mode of a device before its first connection: one that has a volatile write cache, or none.
    pub(super) fn new(has_write_cache: bool) -> CacheMode {
        let default = if has_write_cache { Mode::WriteBack } else { Mode::WriteThrough };
        let state = State { mode: default, last: None, has_started: false, is_settled: false };
        let is_writeback = AtomicBool::new(has_write_cache);
        CacheMode { default, is_writeback, state: Mutex::new(state) }
    }

    /// Returns the `writeback` byte of the configuration space.
    pub(super) fn is_writeback(&self) -> bool {
        self.is_writeback.load(Ordering::Relaxed)
    }

    /// The driver has chosen write-back mode, or write-through mode.
    pub(super) fn choose(&self, writeback: bool, log: &LimitedLog) {
        let (mode, name) = if writeback {
            (Mode::WriteBack, "write-back")
        } else {
            (Mode::WriteThrough, "write-through")
        };
        log.line(Level::Info, &format_args!("the guest chooses {name}"));
        let mut state = self.state();
        state.is_settled = true;
        self.set(&mut state, mode);
    }

    /// A ring starts, at index 0 or where it was stopped before.
    pub(super) fn ring_starts(&self, is_resumed: bool, log: &LimitedLog) {
        let mut state = self.state();
        state.has_started = true;
        if !is_resumed || state.is_settled {
            return;
        }
        state.is_settled = true;
        let mode = state.last.unwrap_or(Mode::Unknown);
        if mode == Mode::Unknown {
            let message = "a ring is resumed, and the guest's cache mode is not known: writes are written \
                           through until the guest flushes or chooses a mode";
            log.line(Level::Info, &message);
        }
        self.set(&mut state, mode);
    }

    /// The driver has flushed; it has offered that after the rings were resumed.
    pub(super) fn flushed(&self, log: &LimitedLog) {
        if self.is_writeback() {
            return;
        }
        let mut state = self.state();
        if state.mode == Mode::Unknown {
            log.line(Level::Info, &"the guest flushes, so it counts on write-back");
            self.set(&mut state, Mode::WriteBack);
        }
    }

    /// The connection has ended.
    pub(super) fn disconnect(&self) {
        let mut state = self.state();
        if state.has_started || state.is_settled {
            state.last = Some(state.mode);
        }
        (state.has_started, state.is_settled) = (false, false);
        self.set(&mut state, self.default);
    }

    fn set(&self, state: &mut State, mode: Mode) {
        state.mode = mode;
        self.is_writeback.store(mode == Mode::WriteBack, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> LimitedLog {
        LimitedLog::new("disk")
    }

    fn mode() -> CacheMode {
        CacheMode::new(true)
    }

    #[test]
    fn a_driver_that_begins_has_a_write_cache_until_it_chooses() {
        let mode = mode();
        mode.ring_starts(false, &log());
        assert!(mode.is_writeback());
        mode.choose(false, &log());
        assert!(!mode.is_writeback());
        // A flush is allowed in either mode, and chooses nothing.
        mode.flushed(&log());
        assert!(!mode.is_writeback());
        mode.choose(true, &log());
        assert!(mode.is_writeback());
    }

    #[test]
    fn a_choice_holds_where_the_ring_is_resumed() {
        for writeback in [false, true] {
            let mode = mode();
            mode.ring_starts(false, &log());
            mode.choose(writeback, &log());
            for _ in 0..3 {
                mode.disconnect();
                // One of several rings may not have been used yet.
                mode.ring_starts(false, &log());
                mode.ring_starts(true, &log());
                assert_eq!(mode.is_writeback(), writeback);
                mode.flushed(&log());
                assert_eq!(mode.is_writeback(), writeback);
            }
            // A connection that comes to nothing says nothing.
            mode.disconnect();
            mode.disconnect();
            mode.ring_starts(true, &log());
            assert_eq!(mode.is_writeback(), writeback);
        }
    }

    #[test]
    fn a_driver_that_begins_after_another_has_a_write_cache() {
        let mode = mode();
        mode.ring_starts(false, &log());
        mode.choose(false, &log());
        mode.disconnect();
        mode.ring_starts(false, &log());
        assert!(mode.is_writeback());
        mode.disconnect();
        mode.ring_starts(true, &log());
        assert!(mode.is_writeback());
    }

    #[test]
    fn a_new_process_writes_through_until_it_knows_better() {
        for choice in [None, Some(false), Some(true)] {
            let mode = mode();
            mode.ring_starts(true, &log());
            assert!(!mode.is_writeback());
            // What is not known stays unknown.
            mode.disconnect();
            mode.ring_starts(true, &log());
            assert!(!mode.is_writeback());
            match choice {
                Some(writeback) => mode.choose(writeback, &log()),
                None => mode.flushed(&log()),
            }
            assert_eq!(mode.is_writeback(), choice.unwrap_or(true));
            mode.disconnect();
            mode.ring_starts(true, &log());
            assert_eq!(mode.is_writeback(), choice.unwrap_or(true));
        }
    }

    #[test]
    fn a_choice_that_comes_before_the_ring_resumes_counts() {
        let mode = mode();
        mode.choose(true, &log());
        mode.ring_starts(true, &log());
        assert!(mode.is_writeback());
    }

    #[test]
    fn a_device_without_a_write_cache_says_so() {
        let mode = CacheMode::new(false);
        assert!(!mode.is_writeback());
        mode.choose(true, &log());
        assert!(mode.is_writeback());
        mode.disconnect();
        assert!(!mode.is_writeback());
    }
}
