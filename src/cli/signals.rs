//! Signals that must not end the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

/// Lets a write beyond the limit on the size of files (`ulimit -f`) fail with EFBIG instead of ending the
/// process, so that what was begun can be undone and the error is reported. Programs that this process
/// executes get the default action back.
///
/// # Errors
///
/// The operating system refuses.
pub fn outlive_file_size_limit() -> io::Result<()> {
    // The flag is of no use: the handler exists so that the default action is not taken.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}
