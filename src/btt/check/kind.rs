//! The kinds of findings: what each breaks, and how bad that is.

use super::finding::Fault;

/// The invariants of a BTT, with the numbers of the design document; all of them are about the state
/// after the replay of pending writes.
///
/// I8 (an entry with a zero or error flag owns its block) has no finding of its own: such entries
/// are counted as owners, and what is wrong with them breaks I4. Nor has I9 (opening and closing
/// changes no byte): replay is all that opening writes, and I10 says that there is no second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Both info blocks of each arena are the same, and say something sane.
    I1 = 1,
    /// Every lane has a legal pair of entries, and zeroes elsewhere.
    I2,
    /// The newest entry of every lane names a sector and blocks that exist.
    I3,
    /// Map entries and free blocks of lanes together name every block exactly once.
    I4,
    /// The newest entry of every lane is applied, pending or superseded.
    I5,
    /// At most one lane is pending for a sector.
    I6,
    /// Only a lane that was never used replaces a block by itself.
    I7,
    /// Entries with a zero or error flag own their block.
    I8,
    /// Opening and closing changes no byte.
    I9,
    /// Recovery twice is recovery once.
    I10,
}

impl std::fmt::Display for Invariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "I{}", *self as u8)
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing, and no fault of the BTT.
    Note,
    /// Something spare was lost, or stands where it should not; every sector is still what it was.
    Degraded,
    /// Sectors are lost or in doubt, or the BTT cannot be opened.
    Damage,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Degraded => "degraded",
            Severity::Damage => "damage",
        })
    }
}

/// The kinds of [`Fault`]: they are counted, and limited in number, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the variants are those of Fault")]
pub enum Kind {
    NoBtt,
    TwoBtts,
    OtherBtt,
    InfoInData,
    InfoLost,
    InfoBad,
    InfoDiffers,
    InfoReserved,
    ArenaForeign,
    NamespaceForeign,
    ArenaError,
    FlogPlaces,
    LaneUnreadable,
    LanePadding,
    LanePair,
    LaneRange,
    LaneUndecided,
    PendingBehind,
    PendingTwice,
    LaneIdle,
    ReplayEndless,
    ReplayUnstable,
    MapRange,
    MapUnreadable,
    MapFlags,
    SectorError,
    BlockShared,
    BlockMissing,
}

impl Kind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Kind; 28] = [
        Kind::NoBtt,
        Kind::TwoBtts,
        Kind::OtherBtt,
        Kind::InfoInData,
        Kind::InfoLost,
        Kind::InfoBad,
        Kind::InfoDiffers,
        Kind::InfoReserved,
        Kind::ArenaForeign,
        Kind::NamespaceForeign,
        Kind::ArenaError,
        Kind::FlogPlaces,
        Kind::LaneUnreadable,
        Kind::LanePadding,
        Kind::LanePair,
        Kind::LaneRange,
        Kind::LaneUndecided,
        Kind::PendingBehind,
        Kind::PendingTwice,
        Kind::LaneIdle,
        Kind::ReplayEndless,
        Kind::ReplayUnstable,
        Kind::MapRange,
        Kind::MapUnreadable,
        Kind::MapFlags,
        Kind::SectorError,
        Kind::BlockShared,
        Kind::BlockMissing,
    ];

    /// The kind's name for programs (`block-shared`), how bad it is, and which invariant it breaks;
    /// a note breaks none.
    #[must_use]
    pub fn traits(self) -> (&'static str, Severity, Option<Invariant>) {
        use Invariant::{I1, I2, I3, I4, I5, I6, I7, I10};
        use Severity::{Damage, Degraded, Note};
        match self {
            Kind::NoBtt => ("no-btt", Damage, Some(I1)),
            Kind::TwoBtts => ("two-btts", Damage, Some(I1)),
            Kind::OtherBtt => ("other-btt", Degraded, Some(I1)),
            Kind::InfoInData => ("info-in-data", Note, None),
            Kind::InfoLost => ("info-lost", Damage, Some(I1)),
            Kind::InfoBad => ("info-bad", Degraded, Some(I1)),
            Kind::InfoDiffers => ("info-differs", Degraded, Some(I1)),
            Kind::InfoReserved => ("info-reserved", Degraded, Some(I1)),
            Kind::ArenaForeign => ("arena-foreign", Damage, Some(I1)),
            Kind::NamespaceForeign => ("namespace-foreign", Damage, Some(I1)),
            Kind::ArenaError => ("arena-error", Note, None),
            Kind::FlogPlaces => ("flog-places", Damage, Some(I2)),
            Kind::LaneUnreadable => ("lane-unreadable", Damage, Some(I2)),
            Kind::LanePadding => ("lane-padding", Degraded, Some(I2)),
            Kind::LanePair => ("lane-pair", Damage, Some(I2)),
            Kind::LaneRange => ("lane-range", Damage, Some(I3)),
            Kind::LaneUndecided => ("lane-undecided", Damage, Some(I5)),
            Kind::PendingBehind => ("pending-behind", Degraded, Some(I6)),
            Kind::PendingTwice => ("pending-twice", Damage, Some(I6)),
            Kind::LaneIdle => ("lane-idle", Degraded, Some(I7)),
            Kind::ReplayEndless => ("replay-endless", Damage, Some(I10)),
            Kind::ReplayUnstable => ("replay-unstable", Damage, Some(I10)),
            Kind::MapRange => ("map-range", Damage, Some(I4)),
            Kind::MapUnreadable => ("map-unreadable", Damage, Some(I4)),
            Kind::MapFlags => ("map-flags", Note, None),
            Kind::SectorError => ("sector-error", Note, None),
            Kind::BlockShared => ("block-shared", Damage, Some(I4)),
            Kind::BlockMissing => ("block-missing", Degraded, Some(I4)),
        }
    }

    /// The kind's name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.traits().0
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        self.traits().1
    }

    /// Which invariant it breaks; a note breaks none.
    #[must_use]
    pub fn invariant(self) -> Option<Invariant> {
        self.traits().2
    }
}

impl Fault {
    /// The kind of fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Fault::NoBtt => Kind::NoBtt,
            Fault::TwoBtts { .. } => Kind::TwoBtts,
            Fault::OtherBtt { .. } => Kind::OtherBtt,
            Fault::InfoInData { .. } => Kind::InfoInData,
            Fault::InfoLost { .. } => Kind::InfoLost,
            Fault::InfoBad { .. } => Kind::InfoBad,
            Fault::InfoDiffers { .. } => Kind::InfoDiffers,
            Fault::InfoReserved { .. } => Kind::InfoReserved,
            Fault::ArenaForeign { .. } => Kind::ArenaForeign,
            Fault::NamespaceForeign { .. } => Kind::NamespaceForeign,
            Fault::ArenaError => Kind::ArenaError,
            Fault::FlogPlaces { .. } => Kind::FlogPlaces,
            Fault::LaneUnreadable { .. } => Kind::LaneUnreadable,
            Fault::LanePadding { .. } => Kind::LanePadding,
            Fault::LanePair { .. } => Kind::LanePair,
            Fault::LaneRange { .. } => Kind::LaneRange,
            Fault::LaneUndecided { .. } => Kind::LaneUndecided,
            Fault::PendingBehind { .. } => Kind::PendingBehind,
            Fault::PendingTwice { .. } => Kind::PendingTwice,
            Fault::LaneIdle { .. } => Kind::LaneIdle,
            Fault::ReplayEndless { .. } => Kind::ReplayEndless,
            Fault::ReplayUnstable { .. } => Kind::ReplayUnstable,
            Fault::MapRange { .. } => Kind::MapRange,
            Fault::MapUnreadable { .. } => Kind::MapUnreadable,
            Fault::MapFlags { .. } => Kind::MapFlags,
            Fault::SectorError { .. } => Kind::SectorError,
            Fault::BlockShared { .. } => Kind::BlockShared,
            Fault::BlockMissing { .. } => Kind::BlockMissing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_under_names_of_their_own() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        assert_eq!(Kind::BlockMissing as usize + 1, Kind::ALL.len());
        let names: std::collections::HashSet<_> =
            Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn only_notes_break_no_invariant() {
        for kind in Kind::ALL {
            assert_eq!(kind.invariant().is_none(), kind.severity() == Severity::Note);
        }
    }
}
