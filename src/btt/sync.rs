//! The synchronisation primitives that the concurrent protocols are written in.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
pub(super) use std::thread::yield_now;
