//! A daemon that is killed, the next one that opens what it left, and then a power failure.
//!
//! The next process sees all that was stored, durable or not: the page cache and the caches of the CPU
//! outlive a process. What it has read, and what it has been told is written, has to survive the power
//! failure: also where it only reads, and also where the first process had stored something without having
//! come to its fence.

use std::fmt;

use vhost_user_btt::btt::{Btt, Error, NeverWritten, mutant};
use vhost_user_btt::pmem::simulated::turns::AtRandom;
use vhost_user_btt::pmem::simulated::{CrashModel, Effort, Event};
use vhost_user_btt::pmem::{Access, Durability};

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::flushed;
use super::groups;
use super::medium::Medium;
use super::mutants::AnyMutant;
use super::scenario::Op::{self, Commit, Flush, Part, Read, Trim, Write};
use super::scenario::{Disk, Scenario};
use super::trace::{Start, Trace, fault_of, is_failure, works_of};
use super::verify::Verified;
use super::worker::{Log, Process, Seen, Work};

/// Number of the next process's queue.
const NEXT: u64 = 7;
const EFFORT: Effort = Effort { most: 100, random: 1, lines: 2 };
/// What is tried of a page cache, of which little is promised.
const CACHE_EFFORT: Effort = Effort { most: 16, random: 1, lines: 2 };

/// What two processes do, one after the other.
pub struct Killed {
    scenario: Scenario,
    next: Next,
}

/// The next process.
pub struct Next {
    pub read_only: bool,
    /// What it does.
    pub ops: Vec<Op>,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = if self.next.read_only { "then read" } else { "then written" };
        write!(f, "killed: {}, {then}", self.scenario)
    }
}

pub fn all() -> Vec<Killed> {
    let dax = [Disk::of(512), Disk::of(4096).old_layout(), Disk::of(4160).two_arenas()];
    let files =
        [Disk::of(4096).strict(512), Disk::of(512).strict(4096), Disk::of(512).page_cache(512)];
    dax.into_iter().chain(files).flat_map(of_disk).chain(groups::killed()).collect()
}

pub fn for_mutants() -> Vec<Killed> {
    let disks = [Disk::of(512), Disk::of(512).strict(4096)];
    groups::killed().into_iter().chain(disks.into_iter().flat_map(of_disk)).collect()
}

fn of_disk(disk: Disk) -> Vec<Killed> {
    let leave = NeverWritten::Leave;
    let firsts = [
        ("writes", vec![Write(5..6), Commit, Write(0..1), Commit]),
        ("a batch", vec![Write(0..3), Write(8..9), Commit]),
        (
            "writes of one sector",
            vec![Write(1..2), Commit, Write(1..2), Commit, Write(2..3), Commit],
        ),
        ("trims", vec![Trim(0..2, leave), Commit, Trim(8..10, NeverWritten::Zero), Commit]),
        ("a part of a sector", vec![Part(1, 2), Commit]),
        ("a write and a flush", vec![Write(1..2), Flush, Write(2..3), Commit]),
    ];
    let mut all = Vec::new();
    for (name, first) in firsts {
        for read_only in [false, true] {
            let read = vec![Read(0..4), Read(5..6), Read(8..10)];
            let write = vec![Write(1..3), Commit, Read(0..4), Flush];
            let next = if read_only { read } else { [read, write].concat() };
            let name = format!("{name} ({disk})");
            let scenario = Scenario::new(&name, disk, vec![first.clone()]).lanes(2);
            let scenario = scenario.watched(next.iter().flat_map(Op::sectors));
            all.push(Killed { scenario, next: Next { read_only, ops: next } });
        }
    }
    all
}

impl Killed {
    pub fn new(scenario: Scenario, next: Next) -> Killed {
        Killed { scenario, next }
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let start = Start::of(&self.scenario);
        let (_, first) = start.run(&self.scenario, mutant, Box::new(AtRandom::new(0)));
        figures.traces += 1;
        if let Some(violation) = fault_of(&first) {
            return Some(violation);
        }
        let mut verified = Verified::default();
        self.next.after(&self.scenario, &start, &first, 0, mutant, &mut verified, figures)
    }
}

impl Next {
    /// Kills the process that did `first` after each of its events from the one at `from` on, and lets this
    /// one open what is left, on which the power fails.
    #[allow(clippy::too_many_arguments, reason = "what there is to know of a run")]
    pub fn after(
        &self,
        scenario: &Scenario,
        start: &Start,
        first: &Trace,
        from: usize,
        mutant: AnyMutant,
        verified: &mut Verified,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let mut model = CrashModel::new(scenario.disk.medium, &start.base);
        model.replay(&first.events[..from]);
        let is_cached = scenario.disk.medium.durability() == Durability::PageCache;
        let effort = if is_cached { &CACHE_EFFORT } else { &EFFORT };
        for killed in from..=first.events.len() {
            if killed > from {
                let last = &first.events[killed - 1];
                model.replay(std::slice::from_ref(last));
                // The next process would see the same as a moment before.
                if matches!(last, Event::Flush { .. } | Event::SyncBegins { .. }) {
                    continue;
                }
            }
            figures.kills += 1;
            let trace = match self.go_on(scenario, start, first, killed, &model, mutant) {
                Ok(Some(trace)) => trace,
                Ok(None) => continue,
                Err(what) => return Some(Violation { position: Some(killed), what }),
            };
            let violation = fault_of(&trace).or_else(|| {
                Cutter::new(scenario, mutant, &trace).from(killed, effort, verified, figures)
            });
            if let Some(Violation { what, position }) = violation {
                let what = format!("killed after event {killed}: {what}");
                return Some(Violation { position, what });
            }
        }
        None
    }

    /// Lets the process open what was left after `killed` events of the first; `None`: it may refuse to.
    fn go_on(
        &self,
        scenario: &Scenario,
        start: &Start,
        first: &Trace,
        killed: usize,
        model: &CrashModel,
        mutant: AnyMutant,
    ) -> Result<Option<Trace>, String> {
        if may_not_be_whole(scenario, &first.events[..killed]) && !flushed::is_whole(&model.seen())
        {
            return Ok(None);
        }
        let medium = Medium::new(model.open(), &start.base, mutant.of_medium());
        let options = scenario.options(self.read_only);
        mutant::activate(mutant.of_engine());
        let opened = medium.open(|| Btt::open(medium.clone(), &options));
        mutant::activate(None);
        let (_, mut queues) = match opened {
            Ok(opened) => opened,
            Err(error) if may_refuse(&first.events[..killed], &error) => return Ok(None),
            Err(error) => return Err(format!("cannot be opened: {error}")),
        };
        let process = Process::new(scenario, &medium, mutant);
        let work = Work { queue: queues.swap_remove(0), number: NEXT, ops: &self.ops };
        let _ = process.run(vec![work], Box::new(AtRandom::new(0)));
        let events = [&first.events[..killed], &medium.recorder.take_trace()[..]].concat();
        let log = process.log.into_inner().unwrap();
        let seen: Vec<Seen> = [&first.seen[..], &log.seen[..]].concat();
        let mut works = works_of(scenario);
        works.push((NEXT, &self.ops));
        groups::check_seen(&groups::pages(scenario, &works), &log.seen)?;
        Ok(Some(start.trace(scenario, &works, events, Log { seen, faults: log.faults })))
    }
}

/// Returns whether a disk may contradict itself in the page cache: after a failure, what was not flushed
/// before.
fn may_not_be_whole(scenario: &Scenario, events: &[Event]) -> bool {
    let is_cached = scenario.disk.medium.durability() == Durability::PageCache;
    is_cached && events.iter().any(is_failure)
}

/// Returns whether opening may fail after `events`: the next sync tells of a failure of the kernel's own.
fn may_refuse(events: &[Event], error: &Error) -> bool {
    let is_of_sync = matches!(error, Error::Media(error) if error.access == Access::Sync);
    is_of_sync && events.iter().any(is_failure)
}
