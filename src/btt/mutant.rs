//! Faults that a test puts into the engine, to show that it would notice them.
//!
//! Only a build for such tests has them; in any other, [`is`] is `false` before the compiler begins.

/// A fault of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "loom"), allow(dead_code, reason = "never put in"))]
pub enum Mutant {
    /// A reader looks a sector up again before others can see which block it is about to read.
    NoReaderFence,
    /// A writer looks for readers before others can see what it has mapped.
    NoWriterFence,
    /// A reader does not look the sector up again.
    NoSecondLook,
    /// A writer does not wait for readers.
    NoWait,
    /// A round is published without its map locks.
    NoMapLocks,
    /// A round takes its map locks in the order of its sectors.
    LocksInAnyOrder,
    /// A round releases its map locks before it stores its map entries.
    UnlockBeforeMap,
    /// Sectors are trimmed without their map lock.
    NoTrimLock,
    /// Part of a sector is changed without the sector's map lock.
    NoModifyLock,
    /// A sector is marked as unreadable, whatever was written meanwhile.
    NoMarkCheck,
}

/// Whether `mutant` is in the engine.
#[cfg(not(feature = "loom"))]
#[inline]
pub(super) const fn is(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "loom")]
pub(super) use put_in::is;
#[cfg(feature = "loom")]
pub use put_in::with;

#[cfg(feature = "loom")]
mod put_in {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        /// All threads of a model are run by the one that explores it.
        static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether `mutant` is in the engine.
    pub(in crate::btt) fn is(mutant: Mutant) -> bool {
        MUTANT.get() == Some(mutant)
    }

    /// Runs `test`, on this thread, with `mutant` in the engine.
    pub fn with<T>(mutant: Mutant, test: impl FnOnce() -> T) -> T {
        struct TakeOut;
        impl Drop for TakeOut {
            fn drop(&mut self) {
                MUTANT.set(None);
            }
        }
        MUTANT.set(Some(mutant));
        let _take_out = TakeOut;
        test()
    }
}
