//! Mutants: errors that the crash tests must notice, one at a time, in the region's own code.
//!
//! They are there with the feature `mutants` only, as those of the BTT are; without it `mutant!` is
//! `false`.

#[cfg(feature = "mutants")]
use std::cell::Cell;

/// Whether the mutant is the one that the current thread runs.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        $crate::dax::mutant::is_active($crate::dax::mutant::Mutant::$name)
    };
}

/// No mutant is ever run.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

/// Declares the mutants.
#[cfg(feature = "mutants")]
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// An error that a region can be made to have.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)*];
        }
    };
}

#[cfg(feature = "mutants")]
mutants! {
    /// A journal entry is applied before its fence.
    AppliedBeforeFence,
    /// The stores that apply an entry are not flushed.
    ApplyUnflushed,
    /// The stores that apply an entry are not fenced before the next entry.
    ApplyUnfenced,
    /// New metadata pages are not fenced before the entry that links them.
    FreshPageUnfenced,
    /// Each store of a transaction is an entry of its own.
    OneEntryEach,
    /// Nothing is written to the journal.
    NoJournal,
    /// Entries whose checksum does not match are replayed.
    TornEntryReplayed,
    /// The oldest entry is replayed instead of the newest.
    OldestReplayed,
    /// Nothing is replayed.
    NoReplay,
    /// Replayed stores are not fenced.
    ReplayUnfenced,
    /// Sequence numbers start again when the region is opened.
    SequenceRestarts,
    /// The ring starts again at its first bucket when the region is opened.
    RingRestarts,
    /// An entry that no longer fits into a bucket reaches over its end.
    EntryCrossesBucket,
    /// The checksum of a page does not follow its contents.
    ChecksumForgotten,
    /// Pages are zeroed after they were given to their owner.
    ZeroedLate,
    /// Pages are zeroed when they are freed and at no other time.
    ZeroedAtFreeOnly,
    /// Pages are zeroed while they are still their owner's.
    ZeroedBeforeFree,
    /// The superblock of a new region is written before its tables.
    SuperblockFirst,
    /// The superblock is written before its backup, in one go.
    SuperblocksUnfenced,
    /// A region that is replaced is not invalidated first.
    OldRegionLeft,
    /// The journal of a new region keeps what was there.
    JournalNotZeroed,
    /// A repair does not go through the journal.
    MendedInPlace,
    /// A repair empties the journal before it begins.
    JournalEmptied,
    /// A repair does not complete what was pending.
    PendingForgotten,
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Makes the current thread run `mutant` from now on, or none.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

#[cfg(feature = "mutants")]
pub(super) fn is_active(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}
