//! Preloaded into a daemon: plays one that was taken over. At each call of fdatasync it does what
//! `INTRUDER` names, and reports how that went in the first byte of the file `INTRUDER_REPORT`: 1 done,
//! or 2 refused.
//!
//! Built by `tests/sandbox.rs` as a dynamic library of its own, with the standard library alone.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn getppid() -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
}

/// `RTLD_NEXT`: the definition after this library's.
const NEXT: c_long = -1;

static REPORT: OnceLock<File> = OnceLock::new();

// SAFETY: the section holds functions of the C ABI that the dynamic loader calls once each, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static OPEN_BEFORE_MAIN: extern "C" fn() = open_report;

extern "C" fn open_report() {
    let path = std::env::var_os("INTRUDER_REPORT").expect("where to report");
    let _ = REPORT.set(File::options().write(true).open(path).expect("the report"));
}

fn intrude() {
    let deed = std::env::var("INTRUDER").unwrap_or_default();
    // SAFETY: the C library's functions have these types, and the path is a C string.
    let is_done = unsafe {
        match deed.as_str() {
            "call" => getppid() > 0,
            "open" => open(c"/etc/passwd".as_ptr(), 0) >= 0,
            _ => return,
        }
    };
    if let Some(report) = REPORT.get() {
        let _ = report.write_all_at(&[if is_done { 1 } else { 2 }], 0);
    }
}

/// As fdatasync(2), after the deed.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    intrude();
    // SAFETY: the C library's own function has this name and type.
    unsafe {
        let next = dlsym(NEXT as *mut c_void, c"fdatasync".as_ptr());
        let next: extern "C" fn(c_int) -> c_int = std::mem::transmute(next);
        next(fd)
    }
}
