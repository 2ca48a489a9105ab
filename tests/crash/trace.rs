//! Running a scenario, and what comes of it: the trace, and what every sector may read as.

use std::collections::HashMap;
use std::ops::Range;

use vhost_user_btt::pmem::Durability;
use vhost_user_btt::pmem::simulated::turns::{Run, Schedule};
use vhost_user_btt::pmem::simulated::{Contents, CrashModel, Event, FileFault, Recorder};

use super::cuts::Violation;
use super::groups::{self, Page};
use super::medium::Medium;
use super::mutants::AnyMutant;
use super::oracle::{Effect, History, Operation};
use super::scenario::{Op, Scenario};
use super::value::Value;
use super::worker::{Log, Process, Seen, Work, mark_of, part, written};

/// What came of running a scenario.
pub struct Trace {
    pub base: Contents,
    /// Poison in the medium at its begin.
    pub poison: Vec<Range<u64>>,
    pub events: Vec<Event>,
    /// What was seen while it ran.
    pub seen: Vec<Seen>,
    /// What happened to each sector, as far as a power failure does not take it away.
    pub histories: Vec<History>,
    /// The sectors that are written together or not at all.
    pub pages: Vec<Page>,
    /// What was wrong while it ran: a read that saw what it must not, a write that failed.
    pub faults: Vec<String>,
}

/// The state that a scenario begins with.
pub struct Start {
    pub base: Contents,
    pub poison: Vec<Range<u64>>,
}

impl Start {
    pub fn of(scenario: &Scenario) -> Start {
        let (base, poison) = scenario.begin();
        Start { base, poison }
    }

    /// Runs the scenario with the turns of `schedule`.
    pub fn run(
        &self,
        scenario: &Scenario,
        mutant: AnyMutant,
        schedule: Box<dyn Schedule>,
    ) -> (Run, Trace) {
        self.run_with(scenario, mutant, FileFault::default(), schedule)
    }

    /// The same, with something that fails.
    pub fn run_with(
        &self,
        scenario: &Scenario,
        mutant: AnyMutant,
        fault: FileFault,
        schedule: Box<dyn Schedule>,
    ) -> (Run, Trace) {
        let medium = Medium::new(self.recorder(scenario), &self.base, mutant.of_medium());
        let (_, queues) = scenario.open(medium.clone()).unwrap();
        // What opening does is for other scenarios.
        drop(medium.recorder.take_trace());
        if let Some(file) = medium.recorder.file() {
            file.inject(fault);
        }
        let process = Process::new(scenario, &medium, mutant);
        let work = queues.into_iter().zip(0..).zip(&scenario.queues);
        let work = work.map(|((queue, number), ops)| Work { queue, number, ops });
        let run = process.run(work.collect(), schedule);
        let (events, log) = (medium.recorder.take_trace(), process.log.into_inner().unwrap());
        (run, self.trace(scenario, &works_of(scenario), events, log))
    }

    /// What came of the queues `works`: they have done `events`, and logged what they saw.
    pub fn trace(
        &self,
        scenario: &Scenario,
        works: &[(u64, &[Op])],
        events: Vec<Event>,
        log: Log,
    ) -> Trace {
        let Log { mut seen, mut faults } = log;
        let is_cached = scenario.disk.medium.durability() == Durability::PageCache;
        if is_cached {
            let written = histories(scenario, works, &events, &[]);
            let flushed = flushed_histories(&written, works, &events);
            check_flushed_reads(&flushed, &events, &mut seen, &mut faults);
        }
        let histories = histories(scenario, works, &events, &seen);
        check_reads(&histories, &events, &seen, &mut faults);
        let flushed = is_cached.then(|| flushed_histories(&histories, works, &events));
        let histories = flushed.unwrap_or(histories);
        let (base, poison) = (self.base.clone(), self.poison.clone());
        let pages = groups::pages(scenario, works);
        Trace { base, poison, events, seen, histories, pages, faults }
    }

    fn recorder(&self, scenario: &Scenario) -> Recorder {
        let recorder = CrashModel::new(scenario.disk.medium, &self.base).open();
        self.poison.iter().for_each(|range| recorder.medium().poison(range.clone()));
        recorder
    }
}

/// The queues of the scenario, by number.
pub fn works_of(scenario: &Scenario) -> Vec<(u64, &[Op])> {
    (0..).zip(scenario.queues.iter().map(Vec::as_slice)).collect()
}

/// The positions of the marks in a trace.
pub struct Marks(HashMap<u64, usize>);

impl Marks {
    pub fn of(events: &[Event]) -> Marks {
        let mark = |(position, event): (usize, &Event)| match event {
            Event::Mark(mark) => Some((*mark, position)),
            _ => None,
        };
        Marks(events.iter().enumerate().filter_map(mark).collect())
    }

    /// The position of `mark`.
    pub fn position(&self, mark: u64) -> Option<usize> {
        self.0.get(&mark).copied()
    }

    /// The operation whose begin has `mark`, if it has begun.
    fn operation(&self, mark: u64, effect: Effect) -> Option<Operation> {
        Some(Operation { begin: self.position(mark)?, end: self.position(mark + 1), effect })
    }
}

/// What happens to each sector by the queues `works`, told from the marks in the trace and from what reads
/// have `seen`.
pub fn histories(
    scenario: &Scenario,
    works: &[(u64, &[Op])],
    events: &[Event],
    seen: &[Seen],
) -> Vec<History> {
    let marks = Marks::of(events);
    let size = scenario.disk.sector_size();
    let history = |sector| {
        let mut operations = Vec::new();
        for (queue, ops) in works {
            let here = ops.iter().enumerate().filter(|(_, op)| op.sectors().contains(&sector));
            for (index, op) in here {
                let effect = match op {
                    Op::Write(_) => Effect::Set(written(scenario, *queue, index, sector)),
                    Op::Zeroes(_) | Op::Trim(..) => Effect::Set(Value::zeroes(size)),
                    Op::Part(_, quarter) => {
                        let (offset, bytes) = part(scenario, *queue, index, sector, *quarter);
                        Effect::Replace(offset, bytes)
                    }
                    Op::Read(_) | Op::Defragment(_) | Op::Commit | Op::Flush => continue,
                };
                operations.extend(marks.operation(mark_of(*queue, index), effect));
            }
        }
        for seen in seen.iter().filter(|seen| seen.sector == sector && !seen.is_after_failure) {
            let read = marks.operation(seen.mark, Effect::Show(seen.value.clone()));
            operations.extend(read.filter(|read| read.end.is_some()));
        }
        History { sector, initial: scenario.initial(sector), operations }
    };
    scenario.sectors().into_iter().map(history).collect()
}

/// As `histories`, where a host crash takes away what was not synced: a write ends with the flush after it,
/// and never if something failed meanwhile; and what a read has shown is no promise.
fn flushed_histories(
    histories: &[History],
    works: &[(u64, &[Op])],
    events: &[Event],
) -> Vec<History> {
    let marks = Marks::of(events);
    let of_queue = |(queue, ops): &(u64, &[Op])| -> Vec<Operation> {
        let flushes = ops.iter().enumerate().filter(|(_, op)| matches!(op, Op::Flush));
        let mark = |(index, _)| mark_of(*queue, index);
        flushes.filter_map(|op| marks.operation(mark(op), Effect::Set(Value::Error))).collect()
    };
    let flushes: Vec<Operation> = works.iter().flat_map(of_queue).collect();
    let has_failure = |range: Range<usize>| events[range].iter().any(is_failure);
    let durable = |write: &Operation| {
        let end = write.end?;
        let flushes = flushes.iter().filter(|flush| flush.begin > end);
        let durable = flushes.filter_map(|flush| flush.end).min()?;
        (!has_failure(write.begin..durable)).then_some(durable)
    };
    let of_sector = |history: &History| {
        let writes = history.operations.iter().filter(|operation| operation.is_write());
        let operations = writes.map(|write| Operation { end: durable(write), ..write.clone() });
        History { operations: operations.collect(), ..history.clone() }
    };
    histories.iter().map(of_sector).collect()
}

/// Returns whether something could not be written to the disk, so that pages may have been dropped.
pub fn is_failure(event: &Event) -> bool {
    matches!(event, Event::SyncEnds { has_failed: true } | Event::WriteBackFails { .. })
}

/// Every read saw the sector as it was at some time while it went on; and what they saw one after another
/// can be.
fn check_reads(histories: &[History], events: &[Event], seen: &[Seen], faults: &mut Vec<String>) {
    let marks = Marks::of(events);
    for Seen { mark, sector, value, .. } in seen {
        let history = histories.iter().find(|history| history.sector == *sector).unwrap();
        let Some(read) = marks.operation(*mark, Effect::Show(value.clone())) else { continue };
        let Some(end) = read.end else { continue };
        let allowed = history.between(read.begin, end);
        if !allowed.contains(value) {
            faults
                .push(format!("a read of sector {sector} saw {value:?}, allowed are {allowed:?}"));
        }
    }
    for history in histories.iter().filter(|history| history.after(events.len()).is_empty()) {
        faults.push(format!("reads of sector {} saw it go back", history.sector));
    }
}

/// In the page cache, after something has failed: of what was read then, only what was flushed before can
/// be relied on. Takes the rest out of `seen`, and checks it.
fn check_flushed_reads(
    flushed: &[History],
    events: &[Event],
    seen: &mut Vec<Seen>,
    faults: &mut Vec<String>,
) {
    let Some(failure) = events.iter().position(is_failure) else { return };
    let marks = Marks::of(events);
    seen.retain(|Seen { mark, sector, value, .. }| {
        let (Some(begin), end) = (marks.position(*mark), marks.position(mark + 1)) else {
            return true;
        };
        let history = flushed.iter().find(|history| history.sector == *sector).unwrap();
        let end = end.unwrap_or(begin);
        if end > failure && !history.is_written_between(begin, end) {
            let allowed = history.between(begin, end);
            if !allowed.contains(value) {
                faults.push(format!(
                    "a read of sector {sector} saw {value:?}, flushed were {allowed:?}"
                ));
            }
        }
        end <= failure
    });
}

/// What was wrong while a trace was made.
pub fn fault_of(trace: &Trace) -> Option<Violation> {
    let what = trace.faults.first()?.clone();
    Some(Violation { position: None, what })
}
