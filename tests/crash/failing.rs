//! Syncs and write-backs that fail, pages that are dropped then, and what comes after: a power failure, or
//! the next process that opens the disk, and then a power failure.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use vhost_user_btt::btt::NeverWritten;
use vhost_user_btt::pmem::Durability;
use vhost_user_btt::pmem::simulated::turns::AtRandom;
use vhost_user_btt::pmem::simulated::{Dropped, Effort, Event, Failing, FileFault};

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::killed::Next;
use super::mutants::AnyMutant;
use super::scenario::Op::{self, Commit, Defragment, Flush, Part, Read, Trim, Write};
use super::scenario::{Disk, Scenario};
use super::trace::{Start, Trace, fault_of, is_failure};
use super::verify::Verified;

const EFFORT: Effort = Effort { most: 60, random: 1, lines: 2 };
/// Which of the pages are dropped whose write-back has failed; in a quick run, the first of these.
const DROPPED: [Dropped; 5] =
    [Dropped::None, Dropped::All(1), Dropped::Some(3), Dropped::All(2), Dropped::Some(4)];
const QUICK: usize = 3;

/// What is done to a disk while something fails.
pub struct Faulty {
    scenario: Scenario,
    next: Next,
    /// How many of [`DROPPED`] are tried.
    choices: usize,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failing: {}", self.scenario)
    }
}

pub fn all(deep: bool) -> Vec<Faulty> {
    let disks = [
        Disk::of(512).strict(512),
        Disk::of(512).page_cache(512),
        Disk::of(4096).page_cache(4096),
        Disk::of(4096).strict(4096),
        Disk::of(512).two_arenas().strict(4096),
    ];
    let (disks, choices) = if deep { (&disks[..], DROPPED.len()) } else { (&disks[..3], QUICK) };
    disks.iter().flat_map(|disk| of_disk(*disk, choices)).collect()
}

pub fn for_mutants() -> Vec<Faulty> {
    [Disk::of(512).strict(512), Disk::of(512).page_cache(512)]
        .into_iter()
        .flat_map(|disk| of_disk(disk, DROPPED.len()))
        .collect()
}

fn of_disk(disk: Disk, choices: usize) -> Vec<Faulty> {
    let read = [Read(0..4), Read(5..6)];
    let writes = [Write(0..1), Commit, Read(0..4), Write(1..2), Flush, Write(0..1), Commit];
    let batch = [Write(0..3), Commit, Flush, Write(5..6), Write(1..2), Commit];
    let trims = [Trim(0..2, NeverWritten::Leave), Commit, Flush, Part(2, 1), Commit];
    // Of two lanes: the third round makes the map entries of the first durable.
    let rounds = [0, 1, 2, 1, 0].map(|sector| [Write(sector..sector + 1), Commit, Read(0..4)]);
    let deferred = rounds.concat();
    let moves = [Write(0..1), Flush, Defragment(0), Commit, Write(1..2), Commit];
    let all = [("writes", writes.to_vec()), ("batches", batch.to_vec()), ("trims", trims.to_vec())];
    all.into_iter()
        .chain([("moves", moves.to_vec()), ("deferred", deferred)])
        .map(|(name, ops)| {
            // After a failure, everything that changes the disk is refused, and reads go on.
            let after = [Read(0..4), Write(3..4), Commit, Flush, Read(0..6)];
            let ops = [ops, after.to_vec()].concat();
            let next = [&read[..], &[Write(1..3), Commit, Read(0..4), Flush]].concat();
            let scenario = Scenario::new(&format!("{name} ({disk})"), disk, vec![ops]).lanes(2);
            let scenario = scenario.watched(next.iter().flat_map(Op::sectors));
            Faulty { scenario, next: Next { read_only: false, ops: next }, choices }
        })
        .collect()
}

impl Faulty {
    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let start = Start::of(&self.scenario);
        let mut verified = Verified::default();
        let (faults, mut seen) = (self.faults(&start), HashSet::new());
        faults.into_iter().find_map(|fault| {
            let schedule = Box::new(AtRandom::new(0));
            let (_, trace) = start.run_with(&self.scenario, mutant, fault, schedule);
            figures.traces += 1;
            // Where nothing could be dropped, it does not matter what was to be.
            if !seen.insert(fingerprint(&trace)) {
                return None;
            }
            figures.failures += 1;
            let violation = self.cut(&trace, &start, mutant, &mut verified, figures);
            violation.map(|violation| {
                let what = format!("{fault:?}: {}", violation.what);
                Violation { what, ..violation }
            })
        })
    }

    /// Every failure that there can be, one at a time.
    fn faults(&self, start: &Start) -> Vec<FileFault> {
        let (_, trace) = start.run(&self.scenario, AnyMutant::None, Box::new(AtRandom::new(0)));
        let count =
            |is: fn(&Event) -> bool| trace.events.iter().filter(|event| is(event)).count() as u64;
        let syncs = count(|event| matches!(event, Event::SyncBegins { .. }));
        let stores = count(|event| matches!(event, Event::Store { .. } | Event::Stream { .. }));
        let failing = (0..syncs).map(Failing::Sync).chain((0..stores).map(Failing::WriteBack));
        let dropped = &DROPPED[..self.choices];
        let dropped = failing.flat_map(|what| {
            dropped.iter().map(move |dropped| FileFault { what, dropped: *dropped })
        });
        let interrupted = (0..syncs).map(Failing::Interrupted);
        let interrupted = interrupted.map(|what| FileFault { what, dropped: Dropped::None });
        dropped.chain(interrupted).collect()
    }

    fn cut(
        &self,
        trace: &Trace,
        start: &Start,
        mutant: AnyMutant,
        verified: &mut Verified,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let failure = trace.events.iter().position(is_failure).unwrap_or(0);
        fault_of(trace)
            .or_else(|| {
                let cutter = Cutter::new(&self.scenario, mutant, trace);
                cutter.from(failure, &EFFORT, verified, figures)
            })
            .or_else(|| {
                let (scenario, next) = (&self.scenario, &self.next);
                let from = self.first_kill(trace, failure);
                next.after(scenario, start, trace, from, mutant, verified, figures)
            })
    }
}

impl Faulty {
    /// From where on the process is killed. In the page cache, what it had not synced is not whole before it
    /// has noticed the failure and made the metadata dirty again: a kill before that is one failure too many.
    fn first_kill(&self, trace: &Trace, failure: usize) -> usize {
        let is_cached = self.scenario.disk.medium.durability() == Durability::PageCache;
        let mut after = trace.events.iter().enumerate().skip(failure);
        let noticed = after.find(|(_, event)| matches!(event, Event::Mark(_)));
        let noticed = noticed.map_or(trace.events.len(), |(position, _)| position);
        if is_cached { noticed } else { failure }
    }
}

/// A number that only traces have in which the same was done.
fn fingerprint(trace: &Trace) -> u64 {
    let mut hasher = DefaultHasher::new();
    for event in &trace.events {
        match event {
            Event::Store { offset, bytes } | Event::Stream { offset, bytes, .. } => {
                (0, offset, bytes).hash(&mut hasher);
            }
            Event::Dropped { page, bytes } => (1, page, bytes).hash(&mut hasher),
            Event::WriteBackFails { page } => (2, page).hash(&mut hasher),
            Event::SyncEnds { has_failed } => (3, has_failed).hash(&mut hasher),
            Event::Mark(mark) => (4, mark).hash(&mut hasher),
            _ => 5.hash(&mut hasher),
        }
    }
    hasher.finish()
}
