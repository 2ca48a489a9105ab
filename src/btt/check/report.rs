//! What a check says of a BTT.

use serde::Serialize;

use super::finding::{Fault, Finding};
use super::kind::{Kind, Severity};
use crate::btt::format::flog::LogLayout;
use crate::btt::format::info_block::{InfoBlock, InfoFault};
use crate::btt::format::units::{Block, LaneIndex, Lba};

/// The result of a check.
#[derive(Debug, Clone)]
pub struct Report {
    /// The arenas that could be checked, by their numbers: all, or all before the first one that has
    /// lost both its info blocks.
    pub arenas: Vec<ArenaReport>,
    /// What was found.
    pub findings: Findings,
    /// What replay would write, in its order; not more than the most findings of a kind. Their
    /// number is [`pending_count`](Self::pending_count).
    pub pending: Vec<PendingWrite>,
    /// What opening takes back before: entries of writes that are all or nothing, of which others are missing.
    pub taken_back: Vec<TakenBack>,
}

/// How much is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All invariants hold, after the replay of pending writes, which are no fault.
    Clean,
    /// Some invariant does not hold.
    Problems,
}

impl Report {
    /// Returns whether there is anything wrong.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.findings.worst() {
            None | Some(Severity::Note) => Verdict::Clean,
            Some(Severity::Degraded | Severity::Damage) => Verdict::Problems,
        }
    }

    /// Number of writes that replay would complete.
    #[must_use]
    pub fn pending_count(&self) -> u64 {
        self.arenas.iter().map(|arena| u64::from(arena.lanes.pending)).sum()
    }
}

/// What was seen in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaReport {
    /// Offset of the arena in the namespace.
    pub start: u64,
    /// The info block that was used: the primary, or the backup where that is the only one. Its
    /// error flag is set if either has it.
    pub info: InfoBlock,
    /// The info block at the arena's start.
    pub primary: Result<InfoBlock, InfoFault>,
    /// The info block at its end.
    pub backup: Result<InfoBlock, InfoFault>,
    /// Where the slots of each lane are.
    pub layout: LogLayout,
    /// How many lanes are in which state.
    pub lanes: LaneCounts,
    /// Number of sets of lanes whose last round had writes of several sectors that are all or nothing.
    pub records: u32,
    /// How many map entries are of which kind, after replay.
    pub map: MapCounts,
}

/// How many lanes are in which state, before replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LaneCounts {
    /// Never used: it replaces a block by itself.
    pub pristine: u32,
    /// The map has the lane's last write.
    pub applied: u32,
    /// The map does not have the lane's last write yet: replay completes it.
    pub pending: u32,
    /// The sector was written again since.
    pub superseded: u32,
    /// None that can be told: there are findings that say why.
    pub undecided: u32,
}

/// How many map entries are of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MapCounts {
    /// Never written.
    pub never_written: u64,
    /// With data.
    pub data: u64,
    /// Read as zeroes (flag Z).
    pub zero: u64,
    /// Lost (flag E).
    pub error: u64,
    /// Of these, naming a block that does not exist.
    pub out_of_range: u64,
    /// Not readable, and of no kind.
    pub unreadable: u64,
    /// Of those with data, in another block than the one behind the block of the sector before, which has data,
    /// too: where a read in sequence has to jump.
    pub out_of_order: u64,
}

/// A write that was committed in the flog, and whose map entry was not written yet: normal after a
/// crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingWrite {
    /// Number of the arena.
    pub arena: usize,
    /// The lane.
    pub lane: LaneIndex,
    /// The sector.
    pub lba: Lba,
    /// The block that the sector has.
    pub old: Block,
    /// The block that it will have.
    pub new: Block,
}

/// A write that is in the flog and not in the map, and that is taken back, since others are missing that belong
/// to it: normal after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenBack {
    /// Number of the arena.
    pub arena: usize,
    /// The lane.
    pub lane: LaneIndex,
    /// The sector.
    pub lba: Lba,
    /// The block that it would have had.
    pub new: Block,
    /// Offset in the namespace of the half of the flog entry that is replaced.
    pub(super) offset: u64,
    /// What it becomes.
    pub(super) half: u64,
}

/// Findings: all of them counted, the first of each kind listed.
#[derive(Debug, Clone)]
pub struct Findings {
    most: usize,
    listed: Vec<Finding>,
    counts: [u64; Kind::ALL.len()],
}

impl Findings {
    /// None yet, and a list of not more than `most` of each kind.
    pub(super) fn new(most: usize) -> Findings {
        Findings { most, listed: Vec::new(), counts: [0; Kind::ALL.len()] }
    }

    /// The findings listed, arena by arena, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.listed.iter()
    }

    /// The kinds that were found, and how many there are of each, listed or not.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> {
        let counts = Kind::ALL.into_iter().zip(self.counts);
        counts.filter(|&(_, count)| count > 0)
    }

    /// How many findings of a kind there are, listed or not.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// The worst there is.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.counts().map(|(kind, _)| kind.severity()).max()
    }

    /// Counts a finding, and lists it if there is room.
    pub(super) fn add(&mut self, arena: impl Into<Option<usize>>, fault: Fault) {
        let arena = arena.into();
        if self.room(fault.kind()) > 0 {
            self.listed.push(Finding { arena, fault });
        }
        self.counts[fault.kind() as usize] += 1;
    }

    /// Counts findings that are not listed; after them, there is room for as many less.
    pub(super) fn add_unlisted(&mut self, kind: Kind, count: u64) {
        self.counts[kind as usize] += count;
    }

    /// How many more findings of a kind will be listed.
    pub(super) fn room(&self, kind: Kind) -> usize {
        let most = self.most as u64;
        most.saturating_sub(self.count(kind)) as usize
    }
}
