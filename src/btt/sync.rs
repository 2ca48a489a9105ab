//! The synchronisation primitives that the concurrent protocols are written in.
//!
//! The only door to them: whatever else is to stand in for the standard library's is exchanged here.
//! With the feature `loom` they are those of the crate of that name, which run a model of a few
//! threads in every order that the memory model allows (`tests/loom`), and work nowhere else.

#[cfg(not(feature = "loom"))]
mod primitives {
    pub(in crate::btt) use std::hint::spin_loop;
    pub(in crate::btt) use std::sync::atomic::{AtomicBool, AtomicU64, fence};
    pub(in crate::btt) use std::sync::{Mutex, MutexGuard};
    pub(in crate::btt) use std::thread::yield_now;
}

#[cfg(feature = "loom")]
mod primitives {
    /// Waits for another thread: a model has to be told that spinning is that.
    pub(in crate::btt) use loom::hint::spin_loop;
    pub(in crate::btt) use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
    pub(in crate::btt) use loom::sync::{Mutex, MutexGuard};
    pub(in crate::btt) use loom::thread::yield_now;
}

pub(super) use primitives::{
    AtomicBool, AtomicU64, Mutex, MutexGuard, fence, spin_loop, yield_now,
};
pub(super) use std::sync::PoisonError;
pub(super) use std::sync::atomic::Ordering;
