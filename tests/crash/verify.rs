//! Verifies that an image that a power failure left is one that may be.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use vhost_user_btt::btt::check::{ArenaReport, CheckOptions, Report, Verdict, check};
use vhost_user_btt::btt::{Btt, LbaSize, Queue, find, lanes, mutant};
use vhost_user_btt::pmem::simulated::{
    Contents, CrashModel, Effort, Event, Random, Recorder, Simulated, without,
};
use vhost_user_btt::pmem::{Durability, PersistentMemory};
use vm_memory::VolatileSlice;

use super::figures::Left;
use super::flushed;
use super::groups::{self, Page};
use super::linux;
use super::medium::Medium;
use super::mutants::AnyMutant;
use super::records;
use super::scenario::{Scenario, data_block_of, open};
use super::value::Value;

/// Most sectors that are written again after recovery.
const REWRITTEN: usize = 4;
/// One in so many images is also opened for reading only; all of them where there are writes to complete.
const READ_ONLY_EVERY: u64 = 16;
/// The version that they are given.
const VERSION: u64 = 1 << 31;
/// Images of a crash in recovery: few stores are open there, and all their combinations tried.
const NESTED: Effort = Effort { most: 64, random: 1, lines: 1 };
/// The same of a crash of another implementation.
const AFTER_LINUX: Effort = Effort { most: 6, random: 1, lines: 1 };
/// Recovery of more pending sectors than this is cut off at one in [`LONG_RECOVERY_EVERY`] of its events.
const LONG_RECOVERY: usize = 8;
const LONG_RECOVERY_EVERY: u64 = 16;

/// What an image may hold.
#[derive(Clone)]
pub struct Allowed {
    /// The values that each sector may have.
    pub sectors: Vec<(u64, Vec<Value>)>,
    /// Sectors that have to be of one write.
    pub pages: Vec<Page>,
    pub poison: Vec<Range<u64>>,
    /// Offsets of data that need not be whole: nothing may refer to them.
    pub open_data: Vec<u64>,
}

impl Allowed {
    /// A number that only what is allowed here has.
    fn identity(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (sector, values) in &self.sectors {
            let mut values: Vec<u64> = values.iter().map(Value::identity).collect();
            values.sort_unstable();
            (sector, values).hash(&mut hasher);
        }
        self.pages.hash(&mut hasher);
        self.poison.hash(&mut hasher);
        self.open_data.hash(&mut hasher);
        hasher.finish()
    }
}

/// A verifier of the images of a scenario.
pub struct Verifier<'a> {
    pub scenario: &'a Scenario,
    pub mutant: AnyMutant,
    /// What the medium held when the scenario began.
    pub base: &'a Contents,
    pub verified: &'a mut Verified,
    /// Images of power failures.
    pub unique: u64,
    /// Images of power failures in recovery.
    pub nested: u64,
    /// What host crashes left of page caches.
    pub left: Left,
}

/// Images that were verified already, each with what was allowed.
#[derive(Default)]
pub struct Verified(HashSet<(u64, u64)>);

impl Verifier<'_> {
    /// Verifies an image, and those that a crash in its recovery leaves.
    pub fn verify(&mut self, image: &Contents, allowed: &Allowed) -> Result<(), String> {
        if !self.is_new(image, allowed) {
            return Ok(());
        }
        self.unique += 1;
        if self.scenario.disk.medium.durability() == Durability::PageCache {
            mutant::activate(self.mutant.of_engine());
            return flushed::verify(self.scenario, image, &allowed.sectors, &mut self.left);
        }
        if self.scenario.atomic > 0 {
            records::check(image)?;
        }
        let found = self.recover(image, allowed)?;
        if self.scenario.linux && !found.pending.is_empty() {
            self.verify_after_linux(image, allowed)?;
        }
        match found.pending.first() {
            Some(sector) => {
                let every =
                    if found.pending.len() > LONG_RECOVERY { LONG_RECOVERY_EVERY } else { 1 };
                self.verify_nested(image, allowed, &found.values, *sector, every)
            }
            None => Ok(()),
        }
    }

    fn is_new(&mut self, image: &Contents, allowed: &Allowed) -> bool {
        self.verified.0.insert((image.fingerprint(self.base), allowed.identity()))
    }

    fn medium(image: &Contents, allowed: &Allowed) -> Simulated {
        let medium = Simulated::of(image.clone());
        allowed.poison.iter().for_each(|range| medium.poison(range.clone()));
        medium
    }

    /// Recovers the image, and goes through all that must hold then.
    fn recover(&self, image: &Contents, allowed: &Allowed) -> Result<Found, String> {
        mutant::activate(self.mutant.of_engine());
        let before = check_clean(&Self::medium(image, allowed), "before recovery")?;
        let medium = Arc::new(Recorder::new(Self::medium(image, allowed)));
        let (_, mut queues) = self
            .scenario
            .open(medium.clone())
            .map_err(|error| format!("cannot be opened: {error}"))?;
        let pending = pending_sectors(&before);
        let recovered = has_stores(&medium.take_trace());
        // A record that is cut off in the middle is cleared too, and no checker counts it.
        let is_needed = !pending.is_empty() || before.arenas.iter().any(|arena| arena.records > 0);
        if recovered != is_needed && !(recovered && self.scenario.atomic > 0) {
            return Err(format!("sectors {pending:?} were pending, recovered: {recovered}"));
        }
        if recovered {
            let report = check_clean(medium.medium(), "after recovery")?;
            if report.pending_count() > 0 || !report.taken_back.is_empty() {
                return Err("recovery left pending writes".to_owned());
            }
        }
        Self::check_open_data(medium.medium(), allowed)?;
        Self::open_again(medium.medium(), allowed)?;
        let values = read_all(&mut queues[0], allowed)?;
        groups::check(&allowed.pages, &values)?;
        self.check_metadata(medium.medium(), &values)?;
        if !pending.is_empty() && self.scenario.atomic == 0 {
            let what = Self::recover_like_linux(image, allowed);
            what.map_err(|violation| format!("recovered by Linux: {violation}"))?;
        }
        if !pending.is_empty() || image.fingerprint(self.base).is_multiple_of(READ_ONLY_EVERY) {
            self.recover_in_memory(image, allowed, &values)?;
        }
        self.go_on(&mut queues[0], &values)?;
        self.check_metadata(medium.medium(), &values)?;
        check_clean(medium.medium(), "after more writes")?;
        Ok(Found { values, pending })
    }

    /// A disk that is only read shows the same, and nothing is stored.
    fn recover_in_memory(
        &self,
        image: &Contents,
        allowed: &Allowed,
        values: &[(u64, Value)],
    ) -> Result<(), String> {
        let medium = Arc::new(Recorder::new(Self::medium(image, allowed)));
        let options = self.scenario.options(true);
        let opened = Btt::open(medium.clone(), &options);
        let (_, mut queues) = opened.map_err(|error| format!("cannot be read: {error}"))?;
        if read_all(&mut queues[0], allowed)? != values {
            return Err("a disk that is only read shows something else".to_owned());
        }
        let changed = has_stores(&medium.take_trace());
        if changed { Err("a disk that is only read was stored to".to_owned()) } else { Ok(()) }
    }

    /// Other implementations recover in one pass, and find the same.
    fn recover_like_linux(image: &Contents, allowed: &Allowed) -> Result<(), String> {
        let medium = Arc::new(Self::medium(&linux::recover(image)?, allowed));
        let report = check_clean(&*medium, "afterwards")?;
        if report.pending_count() > 0 {
            return Err("there are pending writes left".to_owned());
        }
        let (_, mut queues) = open(medium, 1).map_err(|error| error.to_string())?;
        read_all(&mut queues[0], allowed).map(drop)
    }

    /// The metadata bytes of sectors with data are zero, whatever their blocks held before.
    fn check_metadata(&self, medium: &Simulated, values: &[(u64, Value)]) -> Result<(), String> {
        let size = LbaSize::new(self.scenario.disk.lba_size).unwrap();
        if size.metadata() == 0 {
            return Ok(());
        }
        let arenas = find(medium, None).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; size.metadata() as usize];
        for (sector, _) in values.iter().filter(|(_, value)| *value != Value::Error) {
            let Some(block) = data_block_of(medium, &arenas, *sector) else { continue };
            let read = medium.read_bytes(block.start + u64::from(size.data()), &mut bytes);
            if read.is_err() || bytes.iter().any(|byte| *byte != 0) {
                return Err(format!("sector {sector} has something in its metadata bytes"));
            }
        }
        Ok(())
    }

    /// Recovery twice is recovery once.
    fn open_again(medium: &Simulated, allowed: &Allowed) -> Result<(), String> {
        let again = Arc::new(Recorder::new(Self::medium(&medium.snapshot(), allowed)));
        open(again.clone(), 1).map_err(|error| format!("cannot be opened again: {error}"))?;
        if has_stores(&again.take_trace()) {
            Err("a second recovery stored something".to_owned())
        } else {
            Ok(())
        }
    }

    /// Data that were not durable are in free blocks: so it does not matter what became of them.
    fn check_open_data(medium: &Simulated, allowed: &Allowed) -> Result<(), String> {
        if allowed.open_data.is_empty() {
            return Ok(());
        }
        let arenas = find(medium, None).map_err(|error| error.to_string())?;
        let mut free = Vec::new();
        for (number, arena) in arenas.iter().enumerate() {
            let (_, lanes) = lanes(medium, number, arena).map_err(|error| error.to_string())?;
            let size = u64::from(arena.info.geometry.internal_lbasize);
            free.extend(lanes.iter().map(|lane| {
                let start = arena.start + arena.info.geometry.block_offset(lane.free);
                start..start + size
            }));
        }
        match allowed
            .open_data
            .iter()
            .find(|offset| !free.iter().any(|block| block.contains(offset)))
        {
            None => Ok(()),
            Some(offset) => Err(format!("data at {offset:#x} are in use and not durable")),
        }
    }

    /// Some of the sectors are written again, twice, and read back; the others, with `values`, stay.
    fn go_on(
        &self,
        queue: &mut Queue<Arc<Recorder>>,
        values: &[(u64, Value)],
    ) -> Result<(), String> {
        let (rewritten, others) = values.split_at(REWRITTEN.min(values.len()));
        for version in [VERSION, VERSION + 1] {
            for (sector, _) in rewritten {
                self.write(queue, *sector, version)?;
            }
            for (sector, _) in rewritten {
                let expected = Value::stamp(*sector, version, self.scenario.disk.sector_size());
                let value = read(queue, *sector, self.scenario.disk.sector_size());
                if value != expected {
                    return Err(format!(
                        "sector {sector} written after recovery reads as {value:?}"
                    ));
                }
            }
        }
        for (sector, value) in others {
            let now = read(queue, *sector, self.scenario.disk.sector_size());
            if now != *value {
                return Err(format!(
                    "sector {sector} reads as {now:?} after other sectors were written, not as {value:?}"
                ));
            }
        }
        Ok(())
    }

    fn write<M: PersistentMemory>(
        &self,
        queue: &mut Queue<M>,
        sector: u64,
        version: u64,
    ) -> Result<(), String> {
        let mut bytes =
            Value::stamp(sector, version, self.scenario.disk.sector_size()).bytes().to_vec();
        let mut batch = queue.batch();
        let written = batch.write(sector, &VolatileSlice::from(&mut bytes[..]), 0);
        written.map_err(|error| format!("sector {sector} cannot be written: {error}"))?;
        batch.commit();
        let failure = batch.take_failures().next();
        failure
            .map_or(Ok(()), |(_, error)| Err(format!("sector {sector} cannot be written: {error}")))
    }

    /// Recovery, and another write of a sector that it recovered, cut off at one in `every` points.
    /// `pending` is the sector.
    fn verify_nested(
        &mut self,
        image: &Contents,
        allowed: &Allowed,
        values: &[(u64, Value)],
        pending: u64,
        every: u64,
    ) -> Result<(), String> {
        let mut model = CrashModel::new(self.scenario.disk.medium, image);
        let medium = Medium::new(model.open(), image, self.mutant.of_medium());
        let recorder = &medium.recorder;
        allowed.poison.iter().for_each(|range| recorder.medium().poison(range.clone()));
        let opened = medium.open(|| self.scenario.open(medium.clone()));
        let (_, mut queues) = opened.map_err(|error| error.to_string())?;
        let rewritten = values.iter().position(|(sector, _)| *sector == pending).unwrap_or(0);
        let (sector, _) = values[rewritten];
        // Poison is found by reading, and a block must not be filled before it was.
        read_all(&mut queues[0], allowed)?;
        recorder.mark(0);
        // By another thread, whose fences do not speak for the one that recovered.
        let queue = &mut queues[0];
        let this = &*self;
        thread::scope(|scope| {
            let writer = scope.spawn(move || {
                mutant::activate(this.mutant.of_engine());
                this.write(queue, sector, VERSION)
            });
            writer.join().unwrap_or_else(|_| Err("a write after recovery panicked".to_owned()))
        })?;
        recorder.mark(1);
        let new = Value::stamp(sector, VERSION, self.scenario.disk.sector_size());
        let mut sectors: Vec<(u64, Vec<Value>)> =
            values.iter().map(|(sector, value)| (*sector, vec![value.clone()])).collect();
        let mut poison = allowed.poison.clone();
        let mut random = Random::new(image.fingerprint(self.base));
        for event in recorder.take_trace() {
            model.replay(std::slice::from_ref(&event));
            clear_poison(&mut poison, &event);
            match event {
                Event::Mark(0) => sectors[rewritten].1.push(new.clone()),
                Event::Mark(_) => sectors[rewritten].1 = vec![new.clone()],
                _ => {}
            }
            if !random.one_in(every) {
                continue;
            }
            // Of the page with the sector that is written alone, any.
            let mut pages = allowed.pages.clone();
            pages.retain(|page| !page.contains(sector));
            let allowed = Allowed {
                sectors: sectors.clone(),
                pages,
                poison: poison.clone(),
                open_data: Vec::new(),
            };
            let mut result = Ok(());
            model.images(&NESTED, &mut random, &mut |image| {
                if result.is_ok() && self.is_new(&image, &allowed) {
                    self.nested += 1;
                    result = self.recover(&image, &allowed).map(drop);
                }
            });
            result.map_err(|violation| format!("after a crash in recovery: {violation}"))?;
        }
        Ok(())
    }
}

impl Verifier<'_> {
    /// Lets an implementation that does not know groups open the image, complete all that is pending and
    /// write through a few lanes, with one CPU or two, and cuts the power there too. What it has shown or
    /// acknowledged stays when the disk is opened again with groups.
    fn verify_after_linux(&mut self, image: &Contents, allowed: &Allowed) -> Result<(), String> {
        [1, 2].into_iter().try_for_each(|cpus| {
            let result = self.verify_after_cpus(image, allowed, cpus);
            result.map_err(|violation| format!("after Linux with {cpus} CPUs: {violation}"))
        })
    }

    fn verify_after_cpus(
        &mut self,
        image: &Contents,
        allowed: &Allowed,
        cpus: usize,
    ) -> Result<(), String> {
        mutant::activate(None);
        let records = records::take(image);
        let mut model = CrashModel::new(self.scenario.disk.medium, &records.image);
        let medium = Arc::new(model.open());
        let (_, mut queues) = open(medium.clone(), 256).map_err(|error| error.to_string())?;
        let values = read_all(&mut queues[0], allowed)?;
        medium.mark(0);
        let written: Vec<u64> = groups::sectors_for_linux(&values);
        for (step, sector) in (0..).zip(&written) {
            medium.mark(2 * step + 2);
            self.write(&mut queues[step as usize % cpus], *sector, VERSION + 2 + step)?;
            medium.mark(2 * step + 3);
        }
        let size = self.scenario.disk.sector_size();
        let mut sectors: Vec<(u64, Vec<Value>)> = allowed.sectors.clone();
        let mut random = Random::new(image.fingerprint(self.base));
        for event in medium.take_trace() {
            model.replay(std::slice::from_ref(&event));
            match event {
                Event::Mark(0) => {
                    sectors = values.iter().map(|(at, value)| (*at, vec![value.clone()])).collect();
                }
                Event::Mark(mark) if mark >= 2 => {
                    let step = (mark - 2) / 2;
                    let sector = written[step as usize];
                    let new = Value::stamp(sector, VERSION + 2 + step, size);
                    for (_, values) in sectors.iter_mut().filter(|(at, _)| *at == sector) {
                        if mark % 2 == 1 {
                            values.clear();
                        }
                        values.push(new.clone());
                    }
                }
                Event::Flush { .. } => continue,
                _ => {}
            }
            let allowed = Allowed {
                sectors: sectors.clone(),
                pages: Vec::new(),
                poison: allowed.poison.clone(),
                open_data: Vec::new(),
            };
            let mut result = Ok(());
            model.images(&AFTER_LINUX, &mut random, &mut |left| {
                let left = records.put_back(&left);
                if result.is_ok() && self.is_new(&left, &allowed) {
                    self.nested += 1;
                    result = self.recover(&left, &allowed).map(drop);
                }
            });
            result?;
        }
        Ok(())
    }
}

/// Zeroing clears poison.
pub fn clear_poison(poison: &mut Vec<Range<u64>>, event: &Event) {
    if let Event::ZeroEnds { offset, length } = *event {
        *poison = poison.iter().flat_map(|range| without(range, offset, length)).collect();
    }
}

struct Found {
    values: Vec<(u64, Value)>,
    /// The sectors whose writes recovery completed, or took back.
    pending: Vec<u64>,
}

fn pending_sectors(report: &Report) -> Vec<u64> {
    let sectors = |arena: &ArenaReport| u64::from(arena.info.geometry.external_nlba);
    let first = |arena: usize| report.arenas[..arena].iter().map(sectors).sum::<u64>();
    let pending = report.pending.iter().map(|write| (write.arena, write.lba));
    let taken_back = report.taken_back.iter().map(|entry| (entry.arena, entry.lba));
    pending.chain(taken_back).map(|(arena, lba)| first(arena) + u64::from(lba.0)).collect()
}

fn check_clean<M: PersistentMemory>(medium: &M, when: &str) -> Result<Report, String> {
    let report = check(medium, &CheckOptions::default(), &mut |_, _| {});
    if report.verdict() == Verdict::Clean {
        return Ok(report);
    }
    let findings: Vec<String> = report.findings.iter().take(2).map(ToString::to_string).collect();
    Err(format!("{when}: {}", findings.join("; ")))
}

/// What all sectors read as: one by one, and together with their neighbours.
fn read_all<M: PersistentMemory>(
    queue: &mut Queue<M>,
    allowed: &Allowed,
) -> Result<Vec<(u64, Value)>, String> {
    let size = queue.btt().sector_size() as usize;
    let mut values: Vec<(u64, Value)> = Vec::with_capacity(allowed.sectors.len());
    for (sector, allowed) in &allowed.sectors {
        let value = read(queue, *sector, size);
        if !allowed.contains(&value) {
            return Err(format!("sector {sector} reads as {value:?}, allowed are {allowed:?}"));
        }
        values.push((*sector, value));
    }
    let readable = |(_, value): &(u64, Value)| *value != Value::Error;
    for run in values.chunk_by(|one, next| one.0 + 1 == next.0 && readable(one) && readable(next)) {
        let mut bytes = vec![0; size * run.len()];
        let read = queue.batch().read(run[0].0, &VolatileSlice::from(&mut bytes[..]));
        let is_same = read.is_ok()
            && bytes.chunks(size).zip(run).all(|(one, (_, value))| one == value.bytes());
        if readable(&run[0]) && !is_same {
            let (first, count) = (run[0].0, run.len());
            return Err(format!("{count} sectors from {first} on read as something else together"));
        }
    }
    Ok(values)
}

fn read<M: PersistentMemory>(queue: &mut Queue<M>, sector: u64, size: usize) -> Value {
    let mut bytes = vec![0; size];
    match queue.batch().read(sector, &VolatileSlice::from(&mut bytes[..])) {
        Ok(()) => Value::of(&bytes),
        Err(_) => Value::Error,
    }
}

/// Returns whether something was stored. Opening flushes and fences whatever it finds.
fn has_stores(trace: &[Event]) -> bool {
    !trace.iter().all(|event| matches!(event, Event::Flush { .. } | Event::Fence { .. }))
}
