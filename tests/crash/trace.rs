//! Running a scenario, and what comes of it: the trace, and what every sector may read as.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vhost_user_btt::btt::{Queue, mutant};
use vhost_user_btt::pmem::simulated::turns::{self, Run, Schedule, Task};
use vhost_user_btt::pmem::simulated::{Contents, Event, Simulated};
use vm_memory::VolatileSlice;

use super::medium::Medium;
use super::mutants::AnyMutant;
use super::oracle::{Effect, History, Write};
use super::scenario::{Op, Scenario, open};
use super::value::Value;

/// Most operations of a queue: their numbers make the marks in the trace.
const MOST_OPS: u64 = 1 << 16;

/// What came of running a scenario.
pub struct Trace {
    pub base: Contents,
    /// Poison in the medium at its begin.
    pub poison: Vec<Range<u64>>,
    pub events: Vec<Event>,
    pub histories: Vec<History>,
    /// What was wrong while it ran: a read that saw what it must not, a write that failed.
    pub faults: Vec<String>,
}

/// A sector that was read.
struct Seen {
    /// The mark of the read's begin.
    mark: u64,
    sector: u64,
    value: Value,
}

/// The state that a scenario begins with.
pub struct Start {
    pub base: Contents,
    poison: Vec<Range<u64>>,
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
        let simulated = Simulated::of(self.base.clone());
        self.poison.iter().for_each(|range| simulated.poison(range.clone()));
        let medium = Medium::new(simulated, &self.base, mutant.of_medium());
        let (_, queues) = open(medium.clone(), scenario.queue_count()).unwrap();
        drop(medium.recorder.take_trace());
        let seen = Mutex::new(Vec::new());
        let faults = Mutex::new(Vec::new());
        let tasks: Vec<Task<'_>> = queues
            .into_iter()
            .zip(&scenario.queues)
            .enumerate()
            .map(|(number, (queue, ops))| {
                let worker = Worker {
                    number: number as u64,
                    scenario,
                    medium: &medium,
                    seen: &seen,
                    faults: &faults,
                };
                Box::new(move || {
                    mutant::activate(mutant.of_engine());
                    worker.run(queue, ops);
                }) as Task<'_>
            })
            .collect();
        let run = turns::run(tasks, schedule);
        let events = medium.recorder.take_trace();
        let histories = histories(scenario, &events);
        let mut faults = faults.into_inner().unwrap();
        if let Err(stuck) = &run.result {
            faults.push(stuck.to_string());
        }
        check_reads(&events, &histories, &seen.into_inner().unwrap(), &mut faults);
        let trace = Trace {
            base: self.base.clone(),
            poison: self.poison.clone(),
            events,
            histories,
            faults,
        };
        (run, trace)
    }
}

/// A queue at work.
struct Worker<'a> {
    number: u64,
    scenario: &'a Scenario,
    medium: &'a Arc<Medium>,
    seen: &'a Mutex<Vec<Seen>>,
    faults: &'a Mutex<Vec<String>>,
}

impl Worker<'_> {
    fn run(&self, mut queue: Queue<Arc<Medium>>, ops: &[Op]) {
        let mut rest = ops;
        let mut first = 0;
        while !rest.is_empty() {
            let length = rest.iter().position(|op| matches!(op, Op::Commit));
            let (segment, after) = rest.split_at(length.map_or(rest.len(), |length| length + 1));
            self.segment(&mut queue, first, segment);
            first += segment.len();
            rest = after;
        }
    }

    /// One batch: some operations, and the commit.
    fn segment(&self, queue: &mut Queue<Arc<Medium>>, first: usize, ops: &[Op]) {
        let mut batch = queue.batch();
        let mut staged = Vec::new();
        for (index, op) in (first..).zip(ops) {
            let mark = mark_of(self.number, index);
            if !matches!(op, Op::Commit) {
                self.medium.recorder.mark(mark);
            }
            let done = match op {
                Op::Write(sectors) => {
                    let mut bytes: Vec<u8> = sectors
                        .clone()
                        .flat_map(|sector| self.written(index, sector).bytes().to_vec())
                        .collect();
                    batch.write(sectors.start, &VolatileSlice::from(&mut bytes[..]), index)
                }
                Op::Zeroes(sectors) => {
                    batch.write_zeroes(sectors.start, sectors.end - sectors.start, index)
                }
                Op::Trim(sectors, never_written) => {
                    batch.trim(sectors.start, sectors.end - sectors.start, *never_written, index)
                }
                Op::Part(sector, quarter) => {
                    let (offset, mut bytes) =
                        part(self.scenario, self.number, index, *sector, *quarter);
                    batch.write_part(*sector, offset, &VolatileSlice::from(&mut bytes[..]), index)
                }
                Op::Read(sectors) => {
                    for sector in sectors.clone() {
                        let mut bytes = vec![0; self.scenario.disk.sector_size()];
                        let read = batch.read(sector, &VolatileSlice::from(&mut bytes[..]));
                        let value = if read.is_ok() { Value::of(&bytes) } else { Value::Error };
                        self.seen.lock().unwrap().push(Seen { mark, sector, value });
                    }
                    self.medium.recorder.mark(mark + 1);
                    Ok(())
                }
                Op::Commit => {
                    batch.commit();
                    Ok(())
                }
            };
            match op {
                _ if done.is_err() => self.fault(&format!("{op:?}: {}", done.unwrap_err())),
                Op::Read(_) | Op::Commit => {}
                // Durable on return, but for sectors that had an error.
                Op::Trim(..) if self.scenario.poisoned.is_empty() => {
                    self.medium.recorder.mark(mark + 1);
                }
                _ => staged.push(mark),
            }
        }
        for (tag, error) in batch.take_failures() {
            self.fault(&format!("operation {tag}: {error}"));
        }
        drop(batch);
        for mark in staged {
            self.medium.recorder.mark(mark + 1);
        }
    }

    /// What operation `index` writes to `sector`.
    fn written(&self, index: usize, sector: u64) -> Value {
        written(self.scenario, self.number, index, sector)
    }

    fn fault(&self, fault: &str) {
        self.faults.lock().unwrap().push(format!("queue {}: {fault}", self.number));
    }
}

/// What operation `index` of `queue` writes to `sector`.
pub fn written(scenario: &Scenario, queue: u64, index: usize, sector: u64) -> Value {
    let version = (queue + 1) * MOST_OPS + index as u64;
    Value::stamp(sector, version, scenario.disk.sector_size())
}

/// Offset and bytes of a quarter of a sector.
fn part(
    scenario: &Scenario,
    queue: u64,
    index: usize,
    sector: u64,
    quarter: usize,
) -> (usize, Vec<u8>) {
    let length = scenario.disk.sector_size() / 4;
    let offset = quarter * length;
    (offset, written(scenario, queue, index, sector).bytes()[offset..offset + length].to_vec())
}

/// The mark of an operation's begin; that of its end is one more.
pub fn mark_of(queue: u64, index: usize) -> u64 {
    2 * (queue * MOST_OPS + index as u64)
}

/// The position of `mark` in the trace.
pub fn position(events: &[Event], mark: u64) -> Option<usize> {
    events.iter().position(|event| matches!(event, Event::Mark(at) if *at == mark))
}

/// What happens to each sector, told from the marks in the trace.
fn histories(scenario: &Scenario, events: &[Event]) -> Vec<History> {
    let size = scenario.disk.sector_size();
    let history = |sector| {
        let mut writes = Vec::new();
        for (queue, ops) in (0..).zip(&scenario.queues) {
            for (index, op) in
                ops.iter().enumerate().filter(|(_, op)| op.sectors().contains(&sector))
            {
                let effect = match op {
                    Op::Write(_) => Effect::Set(written(scenario, queue, index, sector)),
                    Op::Zeroes(_) | Op::Trim(..) => Effect::Set(Value::zeroes(size)),
                    Op::Part(_, quarter) => {
                        let (offset, bytes) = part(scenario, queue, index, sector, *quarter);
                        Effect::Replace(offset, bytes)
                    }
                    Op::Read(_) | Op::Commit => continue,
                };
                let mark = mark_of(queue, index);
                if let Some(begin) = position(events, mark) {
                    writes.push(Write { begin, end: position(events, mark + 1), effect });
                }
            }
        }
        History { sector, initial: scenario.initial(sector), writes }
    };
    scenario.sectors().into_iter().map(history).collect()
}

/// Every read saw the sector as it was at some time while it went on.
fn check_reads(events: &[Event], histories: &[History], seen: &[Seen], faults: &mut Vec<String>) {
    for Seen { mark, sector, value } in seen {
        let [begin, end] = [*mark, mark + 1].map(|mark| position(events, mark));
        let (Some(begin), Some(end)) = (begin, end) else {
            continue;
        };
        let history = histories.iter().find(|history| history.sector == *sector).unwrap();
        let allowed = history.between(begin, end);
        if !allowed.contains(value) {
            faults
                .push(format!("a read of sector {sector} saw {value:?}, allowed are {allowed:?}"));
        }
    }
}
