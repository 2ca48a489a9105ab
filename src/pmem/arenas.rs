//! The arenas of the C library's allocator.
//!
//! The allocator of glibc gives each new thread an arena of its own until there are eight; then it opens a file
//! in /sys to find out how many more there may be. A thread of the sandboxed daemon is killed for that. With a
//! limit that is set in advance, no file is opened. It is in this module because that takes `unsafe` code.

/// Most arenas of the process. Threads share them beyond that; requests do not allocate on their way.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 8;

/// Sets the limit. Returns whether the allocator has taken it, or has none.
#[must_use]
pub fn limit_arenas() -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a parameter of the allocator, under its own lock, and takes no pointers.
    let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) } == 1;
    #[cfg(not(target_env = "gnu"))]
    let is_set = true;
    is_set
}
