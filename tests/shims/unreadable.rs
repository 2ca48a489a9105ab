//! Preloaded into a program: some bytes of the files that it maps cannot be read, as on a disk that fails.
//!
//! Built by `tests/unreadable.rs` as a dynamic library of its own, with the standard library alone.
//! `UNREADABLE` is `START-END`, the range of bytes, whole pages, in files larger than 1 MiB. Loads from a
//! mapping of them get SIGBUS, and pread fails with EIO.

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::ops::Range;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
    fn __errno_location() -> *mut c_int;
    fn lseek(fd: c_int, offset: i64, from: c_int) -> i64;
}

/// `RTLD_NEXT`: the definition after this library's.
const NEXT: c_long = -1;
const MAP_FIXED: c_int = 0x10;
const SEEK_END: c_int = 2;
const EIO: c_int = 5;

type Mmap = extern "C" fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void;
type Pread = extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;

/// The part of `range` of the file `fd` that cannot be read; empty if all can.
fn unreadable(fd: c_int, range: &Range<u64>) -> Range<u64> {
    let bytes = std::env::var("UNREADABLE").unwrap_or_default();
    let bytes = bytes.split_once('-').and_then(|(start, end)| {
        Some(start.parse::<u64>().ok()?..end.parse::<u64>().ok()?)
    });
    // The program is allowed to seek where it is not allowed to ask for the size; it reads at offsets alone.
    // SAFETY: no memory is touched.
    let is_large = unsafe { lseek(fd, 0, SEEK_END) } > 1 << 20;
    match bytes.filter(|_| fd >= 0 && is_large) {
        Some(bytes) => bytes.start.max(range.start)..bytes.end.min(range.end),
        None => 0..0,
    }
}

/// As mmap(2), with pages of an empty file where bytes cannot be read.
#[unsafe(no_mangle)]
pub extern "C" fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the C library's own functions have these names and types; what is mapped over lies inside
    // what was mapped.
    unsafe {
        let next = dlsym(NEXT as *mut c_void, c"mmap".as_ptr());
        let next: Mmap = std::mem::transmute(next);
        let mapped = next(address, length, protection, flags, fd, offset);
        let start = offset.cast_unsigned();
        let hole = unreadable(fd, &(start..start + length as u64));
        if mapped.addr() != usize::MAX && !hole.is_empty() {
            let empty = memfd_create(c"empty".as_ptr(), 0);
            let at = mapped.byte_add((hole.start - start) as usize);
            let length = (hole.end - hole.start) as usize;
            next(at, length, protection, flags | MAP_FIXED, empty, 0);
        }
        mapped
    }
}

/// As pread(2), of bytes that can be read.
#[unsafe(no_mangle)]
pub extern "C" fn pread64(fd: c_int, into: *mut c_void, count: usize, offset: i64) -> isize {
    let start = offset.cast_unsigned();
    // SAFETY: as above, and errno is this thread's.
    unsafe {
        if !unreadable(fd, &(start..start + count as u64)).is_empty() {
            *__errno_location() = EIO;
            return -1;
        }
        let next = dlsym(NEXT as *mut c_void, c"pread64".as_ptr());
        let next: Pread = std::mem::transmute(next);
        next(fd, into, count, offset)
    }
}
