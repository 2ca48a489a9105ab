//! What to do about what a repair leaves.

use crate::btt::check::kind::{Kind, Severity};

/// What can still be done about findings of a kind that are left after a repair, or would be; `forced`:
/// it was allowed to do all it can.
///
/// `None`: there is nothing to be done, for it is no fault.
#[must_use]
pub fn advice(kind: Kind, forced: bool) -> Option<&'static str> {
    let is_note = kind.severity() == Severity::Note;
    match (forced, if_forced(kind)) {
        (true, _) | (_, "") if is_note => None,
        (false, advice) if !advice.is_empty() => Some(advice),
        _ => Some(otherwise(kind)),
    }
}

/// What --force does about a finding; empty: nothing.
fn if_forced(kind: Kind) -> &'static str {
    match kind {
        Kind::OtherBtt => "--force zeroes what is left of the other BTT",
        Kind::InfoReserved => {
            "--force zeroes these bytes, if no later version of the format uses them"
        }
        Kind::NamespaceForeign => "--force names this namespace as the BTT's parent",
        Kind::ArenaForeign => {
            "--force makes the parent uuid that of the namespace; another uuid or sector size stays"
        }
        Kind::InfoLost => {
            "--force works the info blocks of a later arena out, if its flog and map fit; those of \
             arena 0 have to come from a backup of the file; if the file was truncated, give it its \
             size back first"
        }
        Kind::ArenaError => "--force repairs the arena, and clears the flag if it is whole then",
        Kind::PendingTwice | Kind::PendingBehind => "--force completes the writes in lane order",
        Kind::ReplayEndless | Kind::MapRange | Kind::LaneUndecided | Kind::BlockShared => {
            "save the sectors with 'nvdimmctl export' while they can be read; then --force marks those \
             in doubt as lost until they are written"
        }
        Kind::BlockMissing
        | Kind::LanePair
        | Kind::LaneRange
        | Kind::FlogPlaces
        | Kind::LanePadding
        | Kind::LaneIdle => "it is repaired together with the others: --force",
        _ => "",
    }
}

/// What to do about a finding that is not repaired.
fn otherwise(kind: Kind) -> &'static str {
    match kind {
        Kind::NoBtt => "restore the file from a backup, or make a new BTT with create-namespace",
        Kind::TwoBtts => "choose one with --btt-version",
        Kind::InfoLost => "restore the file from a backup; nothing can be made up",
        Kind::InfoBad | Kind::InfoDiffers => "the medium refuses: see the log of the kernel",
        Kind::ArenaForeign => "the arenas of two BTTs were mixed: restore the file from a backup",
        Kind::LaneUnreadable => {
            "the medium does not answer, and more is wrong than these lanes: export what can be read \
             ('export --skip-unreadable'), and restore the rest from a backup"
        }
        Kind::MapUnreadable => {
            "the medium does not answer: export what can be read ('export --skip-unreadable'), make the \
             namespace anew, which clears poison, and import it again"
        }
        Kind::ReplayUnstable => "another program writes to the medium: stop it, and check again",
        _ => "it cannot be repaired: export what can be read, and restore the rest from a backup",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_advice_and_a_note_only_where_something_can_be_done() {
        for kind in Kind::ALL {
            let is_note = kind.severity() == Severity::Note;
            assert_eq!(advice(kind, true).is_none(), is_note, "{kind:?}");
            let is_silent = is_note && kind != Kind::ArenaError;
            assert_eq!(advice(kind, false).is_none(), is_silent, "{kind:?}");
        }
    }
}
