//! The synchronisation primitives of the write-back state, which tests can replace: see `btt::engine::sync`.

pub(super) use std::sync::PoisonError;
pub(super) use std::sync::atomic::Ordering;

#[cfg(not(feature = "loom"))]
pub(super) use std::sync::{
    MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(not(any(feature = "crash-tests", feature = "loom")))]
pub(super) use std::sync::Mutex;

#[cfg(all(feature = "crash-tests", not(feature = "loom")))]
pub(super) use super::simulated::turns::Mutex;

#[cfg(feature = "loom")]
pub(super) use loom::sync::{Mutex, MutexGuard, atomic::AtomicU64};

/// A flag whose stores have their place in the order of all changes of it.
///
/// loom 0.7 lets a store come between a `swap` and the change whose value that `swap` has read, which the
/// memory model rules out ("RMW atomicity" in its `rt/atomic.rs` is without rules). A `swap` is then taken
/// for newer than a store that was made after it. A store that is a `swap` itself has its place behind all
/// changes that were made before; every order that the memory model allows is still explored, since loom
/// tries every order in which the changes are made, and loads may return older values.
#[cfg(feature = "loom")]
#[derive(Debug)]
pub(super) struct AtomicBool(loom::sync::atomic::AtomicBool);

#[cfg(feature = "loom")]
impl AtomicBool {
    pub(super) fn new(value: bool) -> AtomicBool {
        AtomicBool(loom::sync::atomic::AtomicBool::new(value))
    }

    pub(super) fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    pub(super) fn store(&self, value: bool, order: Ordering) {
        self.0.swap(value, order);
    }

    pub(super) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}
