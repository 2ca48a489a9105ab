//! The synchronisation primitives of the write-back state, which tests can replace: see `btt::engine::sync`.

pub(super) use std::sync::PoisonError;
pub(super) use std::sync::atomic::Ordering;

#[cfg(not(feature = "loom"))]
pub(super) use std::sync::{MutexGuard, atomic::AtomicBool};

#[cfg(not(any(feature = "crash-tests", feature = "loom")))]
pub(super) use std::sync::Mutex;

#[cfg(all(feature = "crash-tests", not(feature = "loom")))]
pub(super) use super::simulated::turns::Mutex;

#[cfg(feature = "loom")]
pub(super) use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};
