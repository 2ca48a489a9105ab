//! Mutants: errors that tests must notice, one at a time, in the code itself.
//!
//! Each module lists its mutants in its `mutant.rs`. They exist with the feature `mutants` only, which
//! those tests need; without it, `mutant!` is `false`. Mutants that only drop or reorder operations on
//! the medium are in the tests.

/// Tests whether the current thread runs a mutant of a room: `mutant!(btt::NoMapLocks)`.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($room:ident::$name:ident) => {
        $crate::$room::mutant::is_active($crate::$room::mutant::Mutant::$name)
    };
}

/// No mutant is ever run.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($room:ident::$name:ident) => {
        false
    };
}

/// Declares the mutants of a room, in groups by the tests that must notice them.
#[cfg(feature = "mutants")]
macro_rules! mutants {
    ($($(#[$group_doc:meta])* $group:ident: { $($(#[$doc:meta])* $name:ident,)* })*) => {
        /// An error that this room can be made to have.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($($(#[$doc])* $name,)*)*
        }

        impl Mutant {
            $($(#[$group_doc])* pub const $group: &[Mutant] = &[$(Mutant::$name,)*];)*
        }

        thread_local! {
            static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
        }

        /// Makes the current thread run `mutant` from now on, or none.
        pub fn activate(mutant: Option<Mutant>) {
            ACTIVE.set(mutant);
        }

        /// Returns whether the current thread runs `mutant`.
        pub(super) fn is_active(mutant: Mutant) -> bool {
            ACTIVE.get() == Some(mutant)
        }
    };
}
