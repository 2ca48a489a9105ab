//! Preloaded into a daemon: counts its calls of fdatasync, and lets some of them fail.
//!
//! Built by `tests/common/syncs.rs` as a dynamic library of its own, with the standard library alone.
//! `SYNCS_LOG` names a file that gets one byte for each call; `SYNCS_FAIL` one with a byte for each of
//! the next calls, the last byte for the next: the error number with which it fails, or 0.

use std::ffi::{c_char, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::raw::c_long;
use std::sync::{Mutex, PoisonError};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}

/// `RTLD_NEXT`: the definition after this library's.
const NEXT: c_long = -1;

static LOCK: Mutex<()> = Mutex::new(());

/// The error number of this call, if it is to fail.
fn failure() -> Option<c_int> {
    let path = std::env::var_os("SYNCS_FAIL")?;
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let left = file.metadata().ok()?.len().checked_sub(1)?;
    let mut errno = [0];
    file.read_exact_at(&mut errno, left).ok()?;
    file.set_len(left).ok()?;
    (errno[0] != 0).then_some(errno[0].into())
}

fn count() {
    let log = std::env::var_os("SYNCS_LOG");
    let log: Option<File> = log.and_then(|path| OpenOptions::new().append(true).open(path).ok());
    if let Some(mut log) = log {
        let _ = log.write_all(b".");
    }
}

/// As fdatasync(2), unless it is to fail.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    let failure = {
        let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        count();
        failure()
    };
    // SAFETY: the C library's own function has this name and type, and errno is this thread's.
    unsafe {
        if let Some(errno) = failure {
            *__errno_location() = errno;
            return -1;
        }
        let next = dlsym(NEXT as *mut c_void, c"fdatasync".as_ptr());
        let next: extern "C" fn(c_int) -> c_int = std::mem::transmute(next);
        next(fd)
    }
}
