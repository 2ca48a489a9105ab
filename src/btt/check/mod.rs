//! The checker: whether what is on the medium is a BTT, whole and consistent.
//!
//! It is written against the description of the format. Its own code finds the arenas, tells the layout
//! of the flog, which of a lane's entries is the newer and which block an entry names, plans the replay
//! and counts the blocks, so that an error in one of the two is caught by the other.
//!
//! It shares with the engine what reads the format field by field: `InfoBlock::decode` with its checksum,
//! the validation of a `Geometry` and the offsets that follow from it, `FlogEntry::decode`, and the flags
//! of map entries (`MapEntry::mapped`). Images that Linux wrote (`tests/linux_images.rs`) and the tests
//! of these, byte by byte, stand for them.
//!
//! The [`Invariant`]s are proven for the state *after* the replay of pending writes, which is planned
//! in memory. Writes that are pending are no fault: they are what a crash leaves, and the engine
//! completes them when it opens the BTT.
//!
//! | | proven by |
//! |---|---|
//! | I1 | `locate`: both info blocks of each arena |
//! | I2, I3, I7 | `flog`: the lanes one by one |
//! | I5, I6, I10 | `replay`: the lanes of each sector together |
//! | | `groups`: what opening takes back first, of writes that are all or nothing |
//! | I4, I8 | `map`: all map entries and the lanes' free blocks |
//! | I9 | I10: replay is all that opening writes, and the state after it has nothing to replay |
//!
//! A check never writes. It survives any bytes: every loop is bounded by sizes that were validated,
//! and what cannot be read is a finding, around which the check goes on. Its memory is one bit for
//! each block of one arena (128 MiB for 512 GiB of 512-byte sectors), and a list of findings that is
//! cut off at [`CheckOptions::most_findings`] of each kind.

#![forbid(unsafe_code)]

use uuid::Uuid;

mod arena;
mod claims;
mod finding;
mod flog;
mod groups;
mod kind;
mod locate;
mod map;
mod pieces;
mod progress;
pub mod repair;
mod replay;
mod report;
pub(super) mod usage;

pub use finding::{Fault, Finding, InfoCopy, Owner};
pub use kind::{Invariant, Kind, Severity};
pub use report::{
    ArenaReport, Findings, LaneCounts, MapCounts, PendingWrite, Report, TakenBack, Verdict,
};

use self::arena::Arena;
use self::locate::Located;
use self::map::Map;
use self::progress::Progress;
use crate::btt::format::info_block::Version;
use crate::pmem::PersistentMemory;

/// What to check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Only a BTT of this version; `None`: of either, unless there are both.
    pub version: Option<Version>,
    /// The namespace's uuid, where it has one: the BTT must name it as its parent, or none.
    pub namespace: Option<Uuid>,
    /// How many findings of each kind, and how many pending writes, are listed; all are counted.
    pub most_findings: usize,
}

impl Default for CheckOptions {
    /// A BTT of either version in any namespace, and 100 findings of each kind.
    fn default() -> CheckOptions {
        CheckOptions { version: None, namespace: None, most_findings: 100 }
    }
}

/// Checks the BTT on `medium`, which must not be written to meanwhile.
///
/// `progress` is told how many bytes of how many were checked; there come to be more when blocks are
/// found that have several owners.
pub fn check<M: PersistentMemory>(
    medium: &M,
    options: &CheckOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Report {
    let mut findings = Findings::new(options.most_findings);
    let located = locate::arenas(medium, options, &mut findings);
    let arenas: Vec<(Arena<'_, M>, &Located)> = located
        .iter()
        .enumerate()
        .map(|(number, located)| (Arena::new(medium, number, located), located))
        .collect();
    let mut progress = Progress::new(progress);
    for (arena, _) in &arenas {
        progress.expect(arena.flog_bytes() + arena.map_bytes());
    }
    let mut report = Report {
        arenas: Vec::with_capacity(arenas.len()),
        findings,
        pending: Vec::new(),
        taken_back: Vec::new(),
    };
    for (arena, located) in &arenas {
        check_arena(arena, located, options, &mut progress, &mut report);
    }
    progress.finish();
    report
}

fn check_arena<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    located: &Located,
    options: &CheckOptions,
    progress: &mut Progress<'_>,
    report: &mut Report,
) {
    let findings = &mut report.findings;
    let mut flog = flog::read(arena, findings);
    progress.advance(arena.flog_bytes());
    let groups = groups::take_back(arena, located.info.uuid, &mut flog);
    let plan = replay::plan(arena, &flog.lanes, findings);
    let map = Map { arena, moved: &plan.moved };
    let counts = map.check(flog.free_blocks(), progress, findings);
    let room = options.most_findings.saturating_sub(report.pending.len());
    report.pending.extend(plan.writes.into_iter().take(room));
    report.taken_back.extend(groups.taken_back);
    report.arenas.push(ArenaReport {
        start: located.start,
        info: located.info,
        primary: located.primary,
        backup: located.backup,
        layout: flog.layout,
        lanes: plan.lanes,
        records: groups.records,
        map: counts,
    });
}

#[cfg(test)]
mod tests;
