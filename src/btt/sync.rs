//! The synchronisation primitives that the concurrent protocols are written in.
//!
//! With the feature `crash-tests`, threads of [`turns`](crate::pmem::simulated::turns) wait by giving
//! their turn away.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(super) use std::sync::{MutexGuard, PoisonError};

#[cfg(not(feature = "crash-tests"))]
pub(super) use std::{sync::Mutex, thread::yield_now};

#[cfg(feature = "crash-tests")]
pub(super) use crate::pmem::simulated::turns::{Mutex, blocked as yield_now};
