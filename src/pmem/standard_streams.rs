//! Records which standard streams the process was started with.
//!
//! Before `main` runs, the standard library opens `/dev/null` in place of a closed standard descriptor.
//! A file that is opened later then cannot get that number, but everything written to the descriptor is
//! lost without an error. The descriptors are therefore examined earlier, by a function that the C
//! library's start code calls. It is in this module because it needs `unsafe` code.

use std::sync::atomic::{AtomicBool, Ordering};

/// A stream that a process inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardStream {
    /// Descriptor 0.
    Input,
    /// Descriptor 1.
    Output,
}

impl StandardStream {
    /// Returns whether the stream was closed when the process started.
    #[must_use]
    pub fn was_closed(self) -> bool {
        WAS_CLOSED[self as usize].load(Ordering::Relaxed)
    }
}

/// By the number of the descriptor.
static WAS_CLOSED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

// SAFETY: the section holds pointers to functions of the C ABI, which the C library calls once each before
// `main`. This one needs nothing of the standard library's runtime: it makes system calls and stores to
// atomics.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_BEFORE_MAIN: extern "C" fn() = look;

extern "C" fn look() {
    for (number, was_closed) in (0..).zip(&WAS_CLOSED) {
        // SAFETY: F_GETFD takes no further argument and touches no memory of the process.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        was_closed.store(flags == -1, Ordering::Relaxed);
    }
}
