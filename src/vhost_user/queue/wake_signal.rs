//! The signal that interrupts a blocked thread.
//!
//! A frontend can make its event descriptors blocking, and fill them up. A thread that writes to one then
//! waits until the frontend reads it, or until it is interrupted.

use std::sync::OnceLock;
use std::thread::JoinHandle;

use libc::{c_int, c_void, siginfo_t};
use log::error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// Does nothing: it is enough that a system call returns.
extern "C" fn ignore(_signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {}

/// Makes the signal interrupt system calls, once for the process.
pub(super) fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if let Err(error) = register_signal_handler(SIGRTMIN(), ignore) {
            error!("threads cannot be interrupted in what they wait for: {error}");
        }
    });
}

/// Interrupts a thread that has not been joined.
pub(super) fn interrupt(thread: &JoinHandle<()>) {
    if let Err(error) = thread.kill(SIGRTMIN()) {
        error!("a thread cannot be interrupted: {error}");
    }
}
