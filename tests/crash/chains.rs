//! Pages that a power failure has cut, and what opens the disk next: chains of daemons with other numbers of
//! queues, readers, Linux, repairs and growths, of which the last is cut off as well.
//!
//! The opener that first completes what is pending decides what the pages are. To all others, that is what they are.

use std::fmt;
use std::sync::Arc;

use vhost_user_btt::btt::check::repair::{Plan, RepairOptions};
use vhost_user_btt::btt::check::{CheckOptions, Severity, check};
use vhost_user_btt::btt::{Btt, OpenOptions, grow, mutant};
use vhost_user_btt::pmem::simulated::turns::AtRandom;
use vhost_user_btt::pmem::simulated::{
    Contents, CrashModel, Effort, Event, Random, Recorder, Simulated,
};
use vm_memory::VolatileSlice;

use super::cuts::Violation;
use super::figures::Figures;
use super::groups;
use super::mutants::AnyMutant;
use super::records;
use super::scenario::Op::{Commit, Write};
use super::scenario::{ARENA, Disk, Scenario};
use super::trace::{Start, fault_of};
use super::value::Value;

/// Images of the first power failure: all combinations, as far as there are so many.
const FIRST: Effort = Effort { most: 64, random: 8, lines: 0 };
/// Those of the last.
const LAST: Effort = Effort { most: 8, random: 2, lines: 0 };
/// One in so many points of the last is tried.
const LAST_EVERY: u64 = 3;
/// One in so many images of the first power failure is tried in a quick run.
const QUICK_EVERY: usize = 32;
/// The version of what the first of a chain writes.
const VERSION: u64 = 1 << 33;
/// Queues of a daemon: so many that a page has enough lanes.
const QUEUES: [usize; 2] = [16, 9];

/// What opens the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A daemon, with so many queues.
    Daemon(usize),
    Reader,
    /// With so many CPUs.
    Linux(usize),
    Repair,
    RewriteLog,
    Growth,
}

const NEXT: [Next; 8] = [
    Next::Daemon(QUEUES[0]),
    Next::Daemon(QUEUES[1]),
    Next::Reader,
    Next::Linux(1),
    Next::Linux(2),
    Next::Repair,
    Next::RewriteLog,
    Next::Growth,
];

/// What is done first, and how many come after.
pub struct Chains {
    scenario: Scenario,
    length: usize,
    /// One in so many images of the first power failure is tried.
    every: usize,
}

impl fmt::Display for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chains of {}: {}", self.length, self.scenario)
    }
}

pub fn all(deep: bool) -> Vec<Chains> {
    let disks = [
        Disk::of(512),
        Disk::of(4096).old_layout(),
        Disk::of(520).two_arenas(),
        Disk::of(4096).two_arenas().old_layout(),
    ];
    let (length, every) = if deep { (3, 1) } else { (2, QUICK_EVERY) };
    let disks = if deep { &disks[..] } else { &disks[..1] };
    disks.iter().map(|disk| Chains::new(*disk, length, every)).collect()
}

/// The sectors of a disk, and what each holds.
type Values = Vec<(u64, Value)>;

/// What is known of a disk.
#[derive(Clone)]
struct State {
    image: Contents,
    /// What it holds, once what was pending is completed; `None`: it is not.
    decided: Option<Values>,
}

impl Chains {
    fn new(disk: Disk, length: usize, every: usize) -> Chains {
        let mut ops = vec![Write(0..2), Write(4..8), Commit];
        if disk.arenas == 2 {
            let next = u64::from(disk.arenas().next().unwrap().external_nlba);
            ops.insert(2, Write(next.next_multiple_of(4)..next.next_multiple_of(4) + 4));
        }
        let scenario = Scenario::new(&format!("pages ({disk})"), disk, vec![ops]);
        Chains { scenario: scenario.lanes(256 / QUEUES[0]).atomic(4), length, every }
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let start = Start::of(&self.scenario);
        let (_, trace) = start.run(&self.scenario, mutant, Box::new(AtRandom::new(0)));
        figures.traces += 1;
        if let Some(fault) = fault_of(&trace) {
            return Some(fault);
        }
        let mut model = CrashModel::new(self.scenario.disk.medium, &start.base);
        let (mut random, mut seen) = (Random::new(1), Vec::new());
        for (position, event) in trace.events.iter().enumerate() {
            model.replay(std::slice::from_ref(event));
            let mut violation = None;
            model.images(&FIRST, &mut random, &mut |image| {
                let fingerprint = image.fingerprint(&start.base);
                if violation.is_some() || seen.contains(&fingerprint) || !is_open(&image) {
                    return;
                }
                seen.push(fingerprint);
                if seen.len() % self.every != 1 % self.every {
                    return;
                }
                figures.images += 1;
                violation = self.judge(&image, mutant, figures).err();
            });
            figures.points += 1;
            if let Some(what) = violation {
                return Some(Violation { position: Some(position + 1), what });
            }
        }
        None
    }

    /// Tries all chains on an image.
    fn judge(
        &self,
        image: &Contents,
        mutant: AnyMutant,
        figures: &mut Figures,
    ) -> Result<(), String> {
        mutant::activate(mutant.of_engine());
        let ours = self.values(image)?;
        let pages = groups::pages(&self.scenario, &super::trace::works_of(&self.scenario));
        groups::check(&pages, &ours)?;
        let state = State { image: image.clone(), decided: None };
        self.go_on(&state, &mut Vec::new(), figures)
            .map_err(|(chain, what)| format!("then {chain:?}: {what}"))
    }

    fn go_on(
        &self,
        state: &State,
        chain: &mut Vec<Next>,
        figures: &mut Figures,
    ) -> Result<(), (Vec<Next>, String)> {
        for next in NEXT {
            chain.push(next);
            let step = u64::try_from(chain.len()).unwrap_or(0);
            let is_last = chain.len() == self.length;
            let after = self.step(state, next, step, is_last, figures);
            let after = after.map_err(|what| (chain.clone(), what))?;
            figures.nested += 1;
            if !is_last {
                self.go_on(&after, chain, figures)?;
            }
            chain.pop();
        }
        Ok(())
    }

    /// Lets the next one open the disk. If it is the last, it is cut off, too.
    fn step(
        &self,
        state: &State,
        next: Next,
        step: u64,
        is_last: bool,
        figures: &mut Figures,
    ) -> Result<State, String> {
        let before = match &state.decided {
            Some(values) => values.clone(),
            None if matches!(next, Next::Linux(_)) => {
                self.values(&records::take(&state.image).image)?
            }
            None => self.values(&state.image)?,
        };
        let slack = matches!(next, Next::Linux(_)).then(|| records::take(&state.image));
        let image = match (&slack, next) {
            (Some(slack), _) => slack.image.clone(),
            (None, Next::Growth) => state.image.clone().grown(ARENA),
            (None, _) => state.image.clone(),
        };
        let mut model = CrashModel::new(self.scenario.disk.medium, &image);
        let medium = Arc::new(model.open());
        let after = self.act(next, step, medium.clone(), &before)?;
        let put_back = |image: Contents| match &slack {
            Some(slack) => slack.put_back(&image),
            None => image,
        };
        if is_last && next != Next::Growth {
            let mut random = Random::new(step);
            let earlier = self.values(&state.image)?;
            let mut judge = |left: Contents| {
                figures.nested += 1;
                let left = put_back(left);
                // A flog that is being rewritten is not one that writes leave.
                if next != Next::RewriteLog {
                    is_clean(&left)?;
                }
                self.is_between(&left, &[&earlier[..], &before[..], &after[..]])
            };
            for event in medium.take_trace() {
                cut_off(&mut model, &event, &mut random, &mut judge)?;
            }
        }
        let image = put_back(medium.medium().snapshot());
        is_clean(&image)?;
        let now = self.values(&image)?;
        let is_decided = state.decided.is_some() || !matches!(next, Next::Reader | Next::Growth);
        if is_decided && now != after {
            return Err(format!("{} sectors are not what they were", differing(&now, &after)));
        }
        Ok(State { image, decided: is_decided.then_some(after) })
    }

    /// What it does; returns what the disk holds then.
    fn act(
        &self,
        next: Next,
        step: u64,
        medium: Arc<Recorder>,
        before: &[(u64, Value)],
    ) -> Result<Values, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        match next {
            Next::Daemon(queues) => {
                let options = OpenOptions { queues, ..self.scenario.options(false) };
                self.write(&medium, &options, &[0, 0], &[0..2, 8..9, 4..8], step, before)
            }
            Next::Linux(cpus) => {
                let options =
                    OpenOptions { queues: 256, atomic: 0, ..self.scenario.options(false) };
                let lanes: Vec<usize> = (0..cpus).collect();
                self.write(&medium, &options, &lanes, &[0..1, 1..2, 0..1, 0..1, 5..6], step, before)
            }
            Next::Reader => {
                let values = read(medium, &self.scenario.options(true), before)?;
                if values == before {
                    Ok(values)
                } else {
                    Err("a reader sees something else".into())
                }
            }
            Next::Repair | Next::RewriteLog => {
                let rewrite_log = next == Next::RewriteLog;
                let check = CheckOptions::default();
                let options = RepairOptions { check, force: false, rewrite_log };
                let plan = Plan::make(&*medium, &options, &mut |_, _| {});
                plan.carry_out(&*medium, &mut |_, _| {}).map_err(|error| text(&error))?;
                Ok(before.to_vec())
            }
            Next::Growth => {
                grow(&*medium, None, ARENA, |_, _| {}).map_err(|error| text(&error))?;
                Ok(before.to_vec())
            }
        }
    }

    /// Writes these sectors through queues in turn, each range in a round of its own.
    fn write(
        &self,
        medium: &Arc<Recorder>,
        options: &OpenOptions,
        numbers: &[usize],
        ranges: &[std::ops::Range<u64>],
        step: u64,
        before: &[(u64, Value)],
    ) -> Result<Values, String> {
        let opened = Btt::open(medium.clone(), options).map_err(|error| error.to_string())?;
        let (_, mut queues) = opened;
        let mut after = before.to_vec();
        let size = self.scenario.disk.sector_size();
        for (index, range) in ranges.iter().enumerate() {
            let version = VERSION + 16 * step + index as u64;
            let mut bytes = Vec::new();
            for sector in range.clone() {
                let value = Value::stamp(sector, version, size);
                bytes.extend_from_slice(value.bytes());
                after.iter_mut().filter(|(at, _)| *at == sector).for_each(|(_, was)| {
                    *was = value.clone();
                });
            }
            let mut batch = queues[numbers[index % numbers.len()]].batch();
            let written = batch.write(range.start, &VolatileSlice::from(&mut bytes[..]), 0);
            written.map_err(|error| error.to_string())?;
            batch.commit();
            if let Some((_, error)) = batch.take_failures().next() {
                return Err(error.to_string());
            }
        }
        Ok(after)
    }

    /// What a daemon of ours reads.
    fn values(&self, image: &Contents) -> Result<Values, String> {
        let sectors = self.scenario.sectors().into_iter().chain(8..9);
        let mut sectors: Vec<u64> = sectors.collect();
        sectors.sort_unstable();
        sectors.dedup();
        let unknown = Value::zeroes(self.scenario.disk.sector_size());
        let sectors: Values = sectors.into_iter().map(|sector| (sector, unknown.clone())).collect();
        let medium = Arc::new(Recorder::new(Simulated::of(image.clone())));
        read(medium, &self.scenario.options(true), &sectors)
    }

    /// Each sector of an image is as in one of these.
    fn is_between(&self, image: &Contents, values: &[&[(u64, Value)]]) -> Result<(), String> {
        for (index, (sector, value)) in self.values(image)?.iter().enumerate() {
            let is_stamped = |value: &Value| {
                let size = self.scenario.disk.sector_size();
                value.labels(size).is_some_and(|(of, version)| of == *sector && version >= VERSION)
            };
            if !values.iter().any(|values| values[index].1 == *value) && !is_stamped(value) {
                return Err(format!("cut off, sector {sector} reads as {value:?}"));
            }
        }
        Ok(())
    }
}

/// Goes on by an event, and lets `judge` see some of what a power failure leaves then.
fn cut_off(
    model: &mut CrashModel,
    event: &Event,
    random: &mut Random,
    judge: &mut dyn FnMut(Contents) -> Result<(), String>,
) -> Result<(), String> {
    model.replay(std::slice::from_ref(event));
    if matches!(event, Event::Flush { .. }) || !random.one_in(LAST_EVERY) {
        return Ok(());
    }
    let mut result = Ok(());
    model.images(&LAST, random, &mut |left| {
        if result.is_ok() {
            result = judge(left);
        }
    });
    result
}

/// Returns whether there is something to complete, or to take back.
fn is_open(image: &Contents) -> bool {
    let report = check(&Simulated::of(image.clone()), &CheckOptions::default(), &mut |_, _| {});
    !report.taken_back.is_empty() || report.pending_count() > 0
}

fn is_clean(image: &Contents) -> Result<(), String> {
    let report = check(&Simulated::of(image.clone()), &CheckOptions::default(), &mut |_, _| {});
    let mut findings = report.findings.iter();
    let bad = findings.find(|finding| finding.fault.kind().severity() > Severity::Note);
    bad.map_or(Ok(()), |finding| Err(finding.to_string()))
}

fn differing(one: &[(u64, Value)], other: &[(u64, Value)]) -> usize {
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

fn read(
    medium: Arc<Recorder>,
    options: &OpenOptions,
    of: &[(u64, Value)],
) -> Result<Values, String> {
    let (_, mut queues) = Btt::open(medium, options).map_err(|error| error.to_string())?;
    let value = |(sector, value): &(u64, Value)| {
        let mut bytes = vec![0; value.bytes().len()];
        let read = queues[0].batch().read(*sector, &VolatileSlice::from(&mut bytes[..]));
        (*sector, read.map_or(Value::Error, |()| Value::of(&bytes)))
    };
    Ok(of.iter().map(value).collect())
}
