//! The synchronisation primitives that the concurrent protocols are written in.
//!
//! The only door to them, so that tests can put others in their place:
//!
//! * With the feature `crash-tests`, threads of `pmem::simulated::turns` wait by
//!   giving their turn away.
//! * With the feature `loom`, they are those of the crate of that name, which runs a model of a few
//!   threads in every order that the memory model allows. They work nowhere else.

pub(super) use std::sync::PoisonError;
pub(super) use std::sync::atomic::Ordering;

#[cfg(not(feature = "loom"))]
pub(super) use std::{
    hint::spin_loop,
    sync::MutexGuard,
    sync::atomic::{AtomicBool, AtomicU64},
};

#[cfg(not(feature = "loom"))]
pub(super) use crate::pmem::full_fence;

#[cfg(not(any(feature = "crash-tests", feature = "loom")))]
pub(super) use std::{sync::Mutex, thread::yield_now};

#[cfg(all(feature = "crash-tests", not(feature = "loom")))]
pub(super) use crate::pmem::simulated::turns::{Mutex, blocked as yield_now};

#[cfg(feature = "loom")]
pub(super) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU64},
    sync::{Mutex, MutexGuard},
    thread::yield_now,
};

#[cfg(feature = "loom")]
pub(super) fn full_fence() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}
