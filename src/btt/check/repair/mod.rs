//! Repair: what a check found, put right as far as it can be without guessing.
//!
//! A repair is [planned](Plan::make) on an overlay of the medium, in rounds: check, decide what to do
//! about what was found, do it to the overlay, check again, until there is nothing more to do. So a
//! plan knows what will be left, and a dry run is a plan that is not carried out.
//!
//! # What is certain
//!
//! There are as many blocks as sectors and lanes together. So whenever one of these names a block
//! that does not exist, or one that is another's, exactly as many blocks are left that are not named.
//!
//! * *Info blocks*: a bad copy is written from the good one. Of two valid ones that differ, the first
//!   counts, because it is the one that is used when a BTT is opened.
//! * *Pending writes* are completed, as opening does. Those that belong to a write that is all or nothing, and
//!   is not complete, are taken back.
//! * *Lanes*: a lane needs nothing but a free block of its own. Where all sectors have one block each,
//!   those left are the lanes', be they unreadable: zeroing their page clears poison. A write that was pending in an unreadable lane was never reported as
//!   done: its sector keeps its old data, as after any crash. Where a lane and a sector name the same
//!   block, either may be wrong.
//! * *A single sector* whose map entry names nothing, while exactly one block is left: the block is
//!   its own. Whether it held data, or zeroes, its damaged entry can no longer tell for certain.
//!
//! # What needs to be asked for ([`RepairOptions::force`])
//!
//! What leaves the choice between two evils: sectors of which it cannot be told which of several owns
//! a block are marked as lost, all of them, and get blocks of their own; the info blocks of a later
//! arena are worked out from the layout, if flog and map then fit; the ERROR flag is cleared, once the
//! arena is otherwise whole; and an arena with that flag is repaired at all.
//!
//! # What cannot be done
//!
//! Nothing can be made up: a first arena without info blocks, a map that cannot be read, an arena
//! of another BTT, a file that is too short. Poison goes where whole pages are written over, and so lanes
//! come back, of which no more is needed than a block; but a page of the map has the entries of 1024
//! sectors, those that can be read too. They would be gone while it is zeroed, and a power failure then
//! would leave a map of sectors that were never written, over blocks that are others'.
//!
//! # Power failures
//!
//! A repair that is cut off, at any point, is taken up by the next one, and comes to the same end:
//! each store leaves a state in which the plan for the rest is the same (the tests try them all). Lanes
//! are rewritten within their one cache line, whose stores stay in order; a sector that is to be marked
//! as lost is marked before anything that made it doubtful goes away.

use std::collections::BTreeSet;

use super::arena::Arena;
use super::kind::Severity;
use super::report::{ArenaReport, Report, Verdict};
use super::{CheckOptions, check};
use crate::btt::format::geometry::FLOG_PAIR_SIZE;
use crate::btt::format::record::RECORD_SIZE;
use crate::btt::format::units::LaneIndex;
use crate::pmem::{CACHE_LINE, MediaError, Overlay, PersistentMemory, Saved};

mod advice;
mod info;
mod lanes;
mod owners;
mod remedy;
mod unreadable;

pub use advice::advice;
pub use remedy::{Remedy, Repair};

use self::remedy::Store;

/// Most findings of a kind that a repair deals with. Where there are more, this is no damage of a kind
/// that can be put right piece by piece.
const MOST_FINDINGS: usize = 1 << 17;

/// Most rounds of a plan. Each deals with all damage of one sort; twice all sorts is ample.
const MOST_ROUNDS: usize = 32;

/// How to repair.
#[derive(Debug, Clone, Copy)]
pub struct RepairOptions {
    /// What to check.
    pub check: CheckOptions,
    /// Also do what is not certain, or gives sectors up.
    pub force: bool,
    /// Write the flog anew in the standard layout.
    pub rewrite_log: bool,
}

/// What a repair will do, and what it comes to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What was found.
    pub before: Report,
    /// What is done about it, in this order.
    pub repairs: Vec<Repair>,
    /// What will be found then.
    pub after: Report,
}

impl Plan {
    /// Plans a repair of the BTT on `medium`, and stores nothing.
    ///
    /// `progress` is told how many bytes of how many were checked, in each round anew.
    pub fn make<M: PersistentMemory>(
        medium: &M,
        options: &RepairOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Plan {
        let check_options = CheckOptions {
            most_findings: options.check.most_findings.max(MOST_FINDINGS),
            ..options.check
        };
        let overlay = Overlay::new(medium);
        let before = check(&overlay, &check_options, progress);
        let mut plan = Plan { after: before.clone(), before, repairs: Vec::new() };
        for _ in 0..MOST_ROUNDS {
            let round = Round { medium: &overlay, report: &plan.after, options };
            let mut repairs = round.repairs();
            // What cannot be done to the overlay cannot be done to the medium: the places are not
            // readable, and stay as they are.
            repairs.retain(|repair| {
                repair.stores.iter().try_for_each(|store| store.apply(&overlay)).is_ok()
            });
            if repairs.is_empty() {
                break;
            }
            if let Some(last) = repairs.last_mut() {
                last.stores.push(Store::Barrier);
            }
            plan.repairs.append(&mut repairs);
            plan.after = check(&overlay, &check_options, progress);
        }
        plan
    }

    /// The bytes that the plan changes, as they are now, if they can be read, and as they will be. Where map or
    /// flog are repaired, among them are those that every write of the arena changes, and opening it: neither can
    /// then go unnoticed when the repair is taken back.
    #[must_use]
    pub fn save<M: PersistentMemory>(&self, medium: &M) -> Vec<Saved> {
        let overlay = Overlay::new(medium);
        for store in self.repairs.iter().flat_map(|repair| &repair.stores) {
            // It was done to an overlay before; what the medium refuses by now is not saved.
            let _ = store.apply(&overlay);
        }
        let deep = self.repairs.iter().filter(|repair| !repair.remedy.is_of_info());
        let arenas: BTreeSet<usize> = deep.filter_map(|repair| repair.arena).collect();
        for arena in arenas.iter().filter_map(|number| self.after.arenas.get(*number)) {
            note_flog_and_records(&overlay, arena);
        }
        overlay.saved()
    }

    /// Carries the plan out on `medium`, which is as it was when the plan was made; durable on return
    /// if fences are. `progress` is told how many repairs of how many are done.
    pub fn carry_out<M: PersistentMemory>(
        &self,
        medium: &M,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), MediaError> {
        let total = self.repairs.len() as u64;
        for (repair, done) in self.repairs.iter().zip(1..) {
            repair.stores.iter().try_for_each(|store| store.apply(medium))?;
            progress(done, total);
        }
        medium.sync()
    }

    /// Returns whether anything will be wrong after the repair.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.after.verdict()
    }
}

/// Counts the lanes of an arena, and its records of groups, among the bytes that were stored to, those that can be
/// read.
fn note_flog_and_records<M: PersistentMemory>(overlay: &Overlay<'_, M>, arena: &ArenaReport) {
    let geometry = &arena.info.geometry;
    let lanes = (0..geometry.nfree).map(|lane| geometry.flog_offset(LaneIndex(lane)));
    let records = (0..geometry.record_slots()).map(|number| geometry.record_offset(number));
    for offset in lanes.chain(records).map(|offset| arena.start + offset) {
        if overlay.read_bytes(offset, &mut [0; CACHE_LINE as usize]).is_ok() {
            overlay.note(offset..offset + CACHE_LINE);
        }
    }
}

const _: () = assert!(FLOG_PAIR_SIZE == CACHE_LINE && RECORD_SIZE == CACHE_LINE);

/// What there is to decide in a round.
struct Round<'a, M> {
    medium: &'a M,
    report: &'a Report,
    options: &'a RepairOptions,
}

impl<M: PersistentMemory> Round<'_, M> {
    /// What to do next: all that is of one sort, the first of which there is something to do.
    fn repairs(&self) -> Vec<Repair> {
        let sorts = [
            Self::info_blocks,
            Self::incomplete_groups,
            Self::pending_writes,
            Self::owners,
            Self::lanes,
            Self::rewritten_logs,
            Self::error_flags,
        ];
        sorts
            .into_iter()
            .map(|sort| sort(self))
            .find(|repairs| !repairs.is_empty())
            .unwrap_or_default()
    }

    /// The arena `number`, as the report has it.
    fn arena(&self, number: usize) -> Arena<'_, M> {
        let report = &self.report.arenas[number];
        Arena::at(self.medium, number, report.start, report.info.geometry)
    }

    /// The arenas whose flog and map may be written to: not those that are read-only after an error,
    /// unless forced.
    fn writable(&self) -> impl Iterator<Item = usize> {
        let arenas = self.report.arenas.iter().enumerate();
        let writable = arenas.filter(|(_, arena)| {
            self.options.force || !arena.info.error || mutant!(btt::ErrorIgnored)
        });
        writable.map(|(number, _)| number)
    }

    /// Returns whether nothing is wrong with an arena any more.
    fn is_whole(&self, number: usize) -> bool {
        let mut findings = self.report.findings.iter();
        // About the BTT as a whole there may be something to be said that has nothing to do with it.
        let is_fault = |finding: &super::Finding| {
            finding.arena == Some(number) && finding.fault.kind().severity() > Severity::Note
        };
        !findings.any(is_fault)
    }
}
