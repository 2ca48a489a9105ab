//! A process that serves a disk: its queues at work, and what they see.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vhost_user_btt::btt::{Batch, Error, Queue, mutant};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::turns::{self, Run, Schedule, Task};
use vm_memory::VolatileSlice;

use super::medium::Medium;
use super::mutants::AnyMutant;
use super::scenario::{Op, Scenario};
use super::value::Value;

/// Most operations of a queue: their numbers make the marks in the trace.
const MOST_OPS: u64 = 1 << 16;

/// Most rounds of a defragmentation.
const MOST_ROUNDS: usize = 8;

/// A sector that was read.
#[derive(Clone)]
pub struct Seen {
    /// The mark of the read's begin.
    pub mark: u64,
    pub sector: u64,
    pub value: Value,
    /// A sync had failed before the read began: pages may be dropped, and it may see the sector go back.
    pub is_after_failure: bool,
}

/// What came of a process's work.
#[derive(Default)]
pub struct Log {
    pub seen: Vec<Seen>,
    /// What must not be: a write that failed without a reason.
    pub faults: Vec<String>,
}

/// A process at work.
pub struct Process<'a> {
    pub scenario: &'a Scenario,
    pub medium: &'a Arc<Medium>,
    pub mutant: AnyMutant,
    pub log: Mutex<Log>,
}

/// A queue, its number among those of all processes, and what it does.
pub struct Work<'a> {
    pub queue: Queue<Arc<Medium>>,
    pub number: u64,
    pub ops: &'a [Op],
}

impl<'a> Process<'a> {
    pub fn new(scenario: &'a Scenario, medium: &'a Arc<Medium>, mutant: AnyMutant) -> Process<'a> {
        Process { scenario, medium, mutant, log: Mutex::default() }
    }

    /// Lets the queues work with the turns of `schedule`.
    pub fn run(&self, work: Vec<Work<'_>>, schedule: Box<dyn Schedule>) -> Run {
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for mut work in work {
            tasks.push(Box::new(move || {
                mutant::activate(self.mutant.of_engine());
                self.work(&mut work);
            }));
        }
        let run = turns::run(tasks, schedule);
        if let Err(stuck) = &run.result {
            self.fault(stuck.to_string());
        }
        run
    }

    fn work(&self, work: &mut Work<'_>) {
        let mut first = 0;
        for segment in work.ops.split_inclusive(|op| matches!(op, Op::Commit | Op::Flush)) {
            Segment { process: self, number: work.number, first, staged: Vec::new() }
                .run(&mut work.queue, segment);
            first += segment.len();
        }
    }

    /// Returns whether a sync has failed, whatever the engine knows of it.
    fn has_failed(&self) -> bool {
        self.medium.recorder.sync_has_failed()
    }

    fn fault(&self, fault: String) {
        self.log.lock().unwrap().faults.push(fault);
    }
}

/// Operations of one batch, at whose end it is committed.
struct Segment<'a> {
    process: &'a Process<'a>,
    /// Number of the queue.
    number: u64,
    /// Number of the first operation.
    first: usize,
    /// Operations that are done with the commit.
    staged: Vec<usize>,
}

impl Segment<'_> {
    fn run(&mut self, queue: &mut Queue<Arc<Medium>>, ops: &[Op]) {
        let mut batch = queue.batch();
        for (index, op) in (self.first..).zip(ops) {
            match op {
                Op::Commit | Op::Flush => batch.commit(),
                Op::Read(sectors) => self.read(&mut batch, index, sectors.clone()),
                Op::Defragment(shift) => self.defragment(&mut batch, index, *shift),
                _ => self.change(&mut batch, index, op),
            }
        }
        for (index, error) in batch.take_failures() {
            self.staged.retain(|staged| *staged != index);
            self.failed(&format!("operation {index}"), &error);
        }
        drop(batch);
        for index in std::mem::take(&mut self.staged) {
            self.mark(index, 1);
        }
        if let Some(Op::Flush) = ops.last() {
            self.flush(queue, self.first + ops.len() - 1);
        }
    }

    fn mark(&self, index: usize, end: u64) {
        self.process.medium.recorder.mark(mark_of(self.number, index) + end);
    }

    fn change(&mut self, batch: &mut Batch<'_, Arc<Medium>>, index: usize, op: &Op) {
        let scenario = self.process.scenario;
        let must_fail = self.process.has_failed();
        self.mark(index, 0);
        let done = match op {
            Op::Write(sectors) => {
                let value = |sector| written(scenario, self.number, index, sector).bytes().to_vec();
                let mut bytes: Vec<u8> = sectors.clone().flat_map(value).collect();
                batch.write(sectors.start, &VolatileSlice::from(&mut bytes[..]), index)
            }
            Op::Zeroes(sectors) => {
                batch.write_zeroes(sectors.start, sectors.end - sectors.start, index)
            }
            Op::Trim(sectors, never_written) => {
                batch.trim(sectors.start, sectors.end - sectors.start, *never_written, index)
            }
            Op::Part(sector, quarter) => {
                let (offset, mut bytes) = part(scenario, self.number, index, *sector, *quarter);
                batch.write_part(*sector, offset, &VolatileSlice::from(&mut bytes[..]), index)
            }
            Op::Read(_) | Op::Defragment(_) | Op::Commit | Op::Flush => Ok(()),
        };
        match done {
            Err(error) => self.failed(&format!("{op:?}"), &error),
            Ok(()) if must_fail => self.fault(&format!("{op:?} after a failed sync")),
            // Durable on return, but for sectors that had an error.
            Ok(()) if matches!(op, Op::Trim(..)) && scenario.poisoned.is_empty() => {
                self.mark(index, 1);
            }
            Ok(()) => self.staged.push(index),
        }
    }

    fn read(&self, batch: &mut Batch<'_, Arc<Medium>>, index: usize, sectors: Range<u64>) {
        let is_after_failure = self.process.has_failed();
        self.mark(index, 0);
        let values = read(batch, sectors.clone());
        let mark = mark_of(self.number, index);
        let seen = sectors.zip(values);
        let seen = seen.map(|(sector, value)| Seen { mark, sector, value, is_after_failure });
        self.process.log.lock().unwrap().seen.extend(seen);
        self.mark(index, 1);
    }

    /// Moves sectors until there is nothing left to do, or others have written as many sectors meanwhile.
    fn defragment(&self, batch: &mut Batch<'_, Arc<Medium>>, index: usize, shift: u32) {
        let must_fail = self.process.has_failed();
        let order = batch.btt().order(0, shift);
        let sectors = self.process.scenario.sectors();
        let mut others = sectors[0] as u32..sectors[sectors.len() - 1] as u32 + 1;
        for _ in 0..MOST_ROUNDS {
            match batch.defragment(0, order, others.clone()) {
                Err(error) => return self.failed(&format!("move {index}"), &error),
                Ok(_) if must_fail => return self.fault("sectors are moved after a failed sync"),
                Ok(moved) if moved.sectors == 0 && moved.next >= others.end => return,
                Ok(moved) => others.start = moved.next,
            }
        }
    }

    fn flush(&self, queue: &Queue<Arc<Medium>>, index: usize) {
        let must_fail = self.process.has_failed();
        self.mark(index, 0);
        match queue.btt().sync() {
            Err(error) => self.failed("a flush", &error.into()),
            Ok(()) if must_fail => self.fault("a flush after a failed sync"),
            Ok(()) => self.mark(index, 1),
        }
    }

    /// An operation failed: after a failed sync it may, or has to.
    fn failed(&self, what: &str, error: &Error) {
        if !self.process.has_failed() {
            self.fault(&format!("{what}: {error}"));
        }
    }

    fn fault(&self, what: &str) {
        self.process.fault(format!("queue {}: {what}", self.number));
    }
}

/// What sectors read as that are read together; if one of them cannot be read, one by one.
fn read(batch: &mut Batch<'_, Arc<Medium>>, sectors: Range<u64>) -> Vec<Value> {
    let size = batch.btt().sector_size() as usize;
    let mut bytes = vec![0; size * (sectors.end - sectors.start) as usize];
    match batch.read(sectors.start, &VolatileSlice::from(&mut bytes[..])) {
        Ok(()) => bytes.chunks(size).map(Value::of).collect(),
        Err(_) if sectors.end - sectors.start == 1 => vec![Value::Error],
        Err(_) => sectors.flat_map(|sector| read(batch, sector..sector + 1)).collect(),
    }
}

/// What operation `index` of `queue` writes to `sector`.
pub fn written(scenario: &Scenario, queue: u64, index: usize, sector: u64) -> Value {
    let version = (queue + 1) * MOST_OPS + index as u64;
    Value::stamp(sector, version, scenario.disk.sector_size())
}

/// Offset and bytes of a quarter of a sector.
pub fn part(
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
