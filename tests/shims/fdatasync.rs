//! Preloaded into a daemon: counts its calls of fdatasync and msync, and lets some of them fail.
//!
//! Built by `tests/common/syncs.rs` as a dynamic library of its own, with the standard library alone.
//! `SYNCS_STATE` names a file of a page: the number of calls so far, in eight bytes; the number of calls
//! whose outcome is prescribed, in eight bytes; and for each of these a byte, the last byte for the next
//! call: the error number with which it fails, or 0. While the last word but one is not zero, calls wait; the last word
//! says how many do. The file is mapped before the program starts, so that
//! a call makes no system call that the program is not allowed to make.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::os::raw::c_long;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const PAGE: usize = 4096;
/// The words that say whether calls are held up, and how many are.
const HELD: usize = 510;
const WAITING: usize = 511;
/// Where the outcomes begin.
const OUTCOMES: usize = 16;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn mmap(at: *mut c_void, size: usize, protection: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
}

/// `RTLD_NEXT`: the definition after this library's.
const NEXT: c_long = -1;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;

static LOCK: Mutex<()> = Mutex::new(());

/// Where the file is mapped.
static STATE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

// SAFETY: the section holds functions of the C ABI that the dynamic loader calls once each, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static MAP_BEFORE_MAIN: extern "C" fn() = map_state;

extern "C" fn map_state() {
    let Some(path) = std::env::var_os("SYNCS_STATE") else { return };
    let file = std::fs::File::options().read(true).write(true).open(path).expect("the state");
    // SAFETY: a new mapping, of a file that has a page.
    let mapped = unsafe { mmap(ptr::null_mut(), PAGE, PROT_READ_WRITE, MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(mapped.addr(), usize::MAX, "the state cannot be mapped");
    STATE.store(mapped.cast(), Ordering::Release);
}

/// Counts a call. Returns the error number with which it is to fail, or 0.
fn count_and_fail() -> u8 {
    let state = STATE.load(Ordering::Acquire);
    if state.is_null() {
        return 0;
    }
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: inside the page, aligned, and all that use it use atomics.
    let word = |index: usize| unsafe { &*state.byte_add(index * 8).cast::<AtomicU64>() };
    word(0).fetch_add(1, Ordering::Relaxed);
    let Some(left) = word(1).load(Ordering::Acquire).checked_sub(1) else { return 0 };
    word(1).store(left, Ordering::Relaxed);
    // SAFETY: the test prescribes no more outcomes than fit into the page.
    unsafe { &*state.byte_add(OUTCOMES + left as usize).cast::<AtomicU8>() }.load(Ordering::Relaxed)
}

/// Waits while calls are held up.
fn wait_while_held() {
    let state = STATE.load(Ordering::Acquire);
    if state.is_null() {
        return;
    }
    // SAFETY: inside the page, aligned, and all that use it use atomics.
    let word = |index: usize| unsafe { &*state.byte_add(index * 8).cast::<AtomicU64>() };
    if word(HELD).load(Ordering::Acquire) == 0 {
        return;
    }
    word(WAITING).fetch_add(1, Ordering::AcqRel);
    while word(HELD).load(Ordering::Acquire) != 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    word(WAITING).fetch_sub(1, Ordering::AcqRel);
}

/// Returns whether a call fails, and lets errno say so.
fn fails() -> bool {
    wait_while_held();
    let errno = count_and_fail();
    if errno != 0 {
        // SAFETY: errno is this thread's.
        unsafe { *__errno_location() = errno.into() };
    }
    errno != 0
}

/// As msync(2), unless it is to fail.
#[unsafe(no_mangle)]
pub extern "C" fn msync(at: *mut c_void, length: usize, flags: c_int) -> c_int {
    if fails() {
        return -1;
    }
    // SAFETY: the C library's own function has this name and type.
    unsafe {
        let next = dlsym(NEXT as *mut c_void, c"msync".as_ptr());
        let next: extern "C" fn(*mut c_void, usize, c_int) -> c_int = std::mem::transmute(next);
        next(at, length, flags)
    }
}

/// As fdatasync(2), unless it is to fail.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    if fails() {
        return -1;
    }
    // SAFETY: the C library's own function has this name and type.
    unsafe {
        let next = dlsym(NEXT as *mut c_void, c"fdatasync".as_ptr());
        let next: extern "C" fn(c_int) -> c_int = std::mem::transmute(next);
        next(fd)
    }
}
