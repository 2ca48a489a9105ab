//! Regions of DAX devices, cut off everywhere: before or after, never between.
//!
//! A history is a few operations on a region. At every event of its trace the power fails; whatever
//! that may leave is opened, checked, compared with what was there before and after the operation
//! under way, and used again. Opening is itself recorded where it replays something, and cut off
//! everywhere together with the next operation.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::dax::check::check;
use vhost_user_btt::dax::{
    Align, CreateOptions, DeviceInfo, DeviceOptions, Error, OwnedBlock, PAGE_SIZE, PAGES_OFFSET,
    Region, create, mutant,
};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{
    Contents, Effort, Event, Random, Recorder, Simulated, Unfenced,
};

use super::cuts::Violation;
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::region_mutants;

/// Exhaustive wherever up to so many combinations are open.
const EFFORT: Effort = Effort { most: 600, random: 4, lines: 140 };
const NESTED_EFFORT: Effort = Effort { most: 40, random: 2, lines: 4 };
/// Of random histories, this many images at a point.
const SAMPLE: Effort = Effort { most: 6, random: 1, lines: 1 };

/// Where an owner writes into its pages, to recognise them, and what.
const TAG_AT: u64 = 512;
const TAG: u64 = 0x7365_6372_6574;
/// What an owner of old left in all pages that are free, as if a crash had come before they were
/// zeroed.
const LEFT: u64 = 0x6c65_6674;

#[derive(Debug, Clone)]
pub enum Op {
    Allocate(u8, u32),
    /// Frees the n-th block of an owner.
    Free(u8, usize),
    Create(u8, u64),
    Resize(u8, u64),
    Destroy(u8),
    Rename(u8, u8),
}

use Op::{Allocate, Create, Destroy, Free, Rename, Resize};

/// A history of a small region.
#[derive(Debug)]
pub struct History {
    name: String,
    /// Pages beside the journal.
    pages: u64,
    /// Done before the power can fail.
    before: Vec<Op>,
    ops: Vec<Op>,
    effort: Effort,
    /// One in so many events is a point at which the power fails.
    every: u64,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dax {}", self.name)
    }
}

/// Every other page of the first 2n is free.
fn holes(n: u8) -> Vec<Op> {
    let all = (0..n).flat_map(|hole| [Create(100 + hole, 1), Create(200 + hole, 1)]);
    all.chain((0..n).map(|hole| Destroy(100 + hole))).collect()
}

fn history(name: &str, pages: u64, before: Vec<Op>, ops: &[Op]) -> History {
    let (name, ops) = (name.to_owned(), ops.to_vec());
    History { name, pages, before, ops, effort: EFFORT, every: 1 }
}

pub fn all() -> Vec<History> {
    vec![
        history("owners", 16, vec![], &[Allocate(1, 1), Allocate(1, 0), Free(1, 0), Free(1, 0)]),
        history(
            "two owners",
            8,
            vec![Allocate(1, 1)],
            &[Allocate(2, 1), Free(1, 0), Allocate(2, 1)],
        ),
        history(
            "devices",
            12,
            vec![],
            &[Create(1, 3), Create(2, 0), Resize(2, 2), Destroy(1), Destroy(2)],
        ),
        history(
            "resizing",
            12,
            vec![Create(1, 2), Create(2, 1)],
            &[Resize(1, 6), Resize(1, 3), Resize(1, 1), Resize(1, 0)],
        ),
        history(
            "renaming",
            4,
            vec![Create(1, 1), Create(2, 1)],
            &[Rename(1, 3), Rename(2, 1), Rename(3, 2)],
        ),
        history(
            "many extents",
            24,
            holes(9),
            &[Create(1, 6), Resize(1, 9), Resize(1, 8), Resize(1, 2), Resize(1, 9), Destroy(1)],
        ),
        history(
            "no space",
            6,
            vec![Create(1, 2)],
            &[Create(2, 9), Resize(1, 7), Allocate(1, 3), Resize(1, 6)],
        ),
        history(
            "handed on",
            6,
            vec![Create(1, 6)],
            &[Destroy(1), Create(2, 4), Resize(2, 1), Allocate(1, 1)],
        ),
        history(
            "ring wrap-around",
            6,
            vec![Create(99, 0)],
            &(0..60)
                .map(|n| if n % 2 == 0 { Create(n, 1) } else { Destroy(n - 1) })
                .collect::<Vec<Op>>(),
        ),
        history(
            "beside each other",
            10,
            vec![Create(1, 2)],
            &[Allocate(1, 0), Resize(1, 4), Free(1, 0), Resize(1, 6)],
        ),
    ]
}

/// A long random history.
pub fn random(seed: u64) -> History {
    let random = &mut Random::new(seed);
    let mut op = || {
        let (one, other) = (random.within(0..4) as u8, random.within(0..4) as u8);
        match random.within(0..10) {
            0..2 => Allocate(one, random.within(0..3) as u32),
            2 => Free(one, random.within(0..3) as usize),
            3..5 => Create(one, random.within(0..6)),
            5..8 => Resize(one, random.within(0..12)),
            8 => Destroy(one),
            _ => Rename(one, other),
        }
    };
    let ops = (0..40).map(|_| op()).collect();
    let name = format!("seed {seed} (again: scripts/test crash --seed {seed})");
    History { name, pages: 24, before: vec![], ops, effort: SAMPLE, every: 7 }
}

/// How regions are made.
pub fn options() -> CreateOptions {
    CreateOptions { uuid: Uuid::from_u128(1), align: Align::Page, journal_order: 1, file_offset: 0 }
}

fn owner(number: u8) -> Uuid {
    Uuid::from_u128(0xff00 + u128::from(number))
}

/// A device that is to be made, of so many pages.
pub fn device(name: &str, uuid: u128, pages: u64) -> DeviceOptions {
    DeviceOptions {
        name: name.to_owned(),
        uuid: Uuid::from_u128(uuid),
        label: String::new(),
        size: pages * PAGE_SIZE,
        align: None,
        contiguous: false,
    }
}

fn name(number: u8) -> String {
    format!("device {number}")
}

/// What a reader sees of a region: owners' blocks, and devices.
pub type State = (Vec<(Uuid, Vec<OwnedBlock>)>, Vec<DeviceInfo>, u64);

/// The state of a region.
pub fn state<M: PersistentMemory>(region: &Region<M>) -> State {
    let owners = region.owners().into_iter().map(|owner| {
        let pages = region.pages_of(owner.uuid).unwrap();
        (owner.uuid, pages)
    });
    (owners.collect(), region.devices(), region.info().free)
}

fn tag<M: PersistentMemory>(medium: &M, range: Range<u64>) {
    for page in range.step_by(PAGE_SIZE as usize) {
        medium.write_bytes(page + TAG_AT, &TAG.to_le_bytes()).unwrap();
    }
    medium.fence().unwrap();
}

/// Does it, and writes to all pages that somebody got.
fn act<M: PersistentMemory>(region: &Region<M>, op: &Op) {
    let result = match *op {
        Allocate(number, order) => region.allocate(owner(number), "", order).map(|offset| {
            tag(region.medium(), offset..offset + (PAGE_SIZE << order));
        }),
        Free(number, nth) => {
            let blocks = region.pages_of(owner(number)).unwrap_or_default();
            match blocks.get(nth) {
                Some(block) => region.free(owner(number), block.offset, block.order),
                None => Ok(()),
            }
        }
        Create(number, pages) => {
            // The names go from one device to another.
            let uuid = u128::from(region.info().free) | u128::from(number) << 64;
            region.create_device(&device(&name(number), uuid, pages))
        }
        Resize(number, pages) => region.resize_device(&name(number), pages * PAGE_SIZE),
        Destroy(number) => region.destroy_device(&name(number)),
        Rename(from, to) => region.rename_device(&name(from), &name(to)),
    };
    if let (Create(number, _) | Resize(number, _), Ok(())) = (op, &result) {
        for extent in region.device(&name(*number)).unwrap().extents {
            tag(region.medium(), extent);
        }
    }
    assert!(!matches!(result, Err(Error::Media(_) | Error::Failed)), "{result:?}");
}

/// What was recorded, and what is allowed where.
struct Trace {
    base: Contents,
    events: Vec<Event>,
    /// Before the history, and after each operation.
    states: Vec<State>,
}

impl History {
    fn record(&self, mutant: AnyMutant) -> Result<Trace, String> {
        let plain = Arc::new(Simulated::new(PAGES_OFFSET + (self.pages + 2) * PAGE_SIZE));
        create(&plain, &options()).map_err(|error| error.to_string())?;
        let region = Region::open(Arc::clone(&plain), false).map_err(|error| error.to_string())?;
        self.before.iter().for_each(|op| act(&region, op));
        for free in region.info().free_extents {
            for page in free.bytes().step_by(PAGE_SIZE as usize) {
                plain.store_u64(page + TAG_AT, LEFT).map_err(|error| error.to_string())?;
            }
        }
        let base = plain.snapshot();
        let recorder = Arc::new(Recorder::new(Simulated::of(base.clone())));
        // Opened again in the middle, as ring and sequence go on from there.
        let mut region = Region::open(Arc::clone(&recorder), false).map_err(|e| e.to_string())?;
        let mut states = vec![state(&region)];
        for (number, op) in self.ops.iter().enumerate() {
            recorder.mark(number as u64);
            act(&region, op);
            states.push(state(&region));
            if number % 3 == 1 {
                region = Region::open(Arc::clone(&recorder), false).map_err(|e| e.to_string())?;
            }
        }
        let events = region_mutants::changes(mutant.of_region(), recorder.take_trace());
        Ok(Trace { base, events, states })
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(mutant.of_dax());
        let trace = match self.record(mutant) {
            Ok(trace) => trace,
            Err(what) => return Some(Violation { position: None, what }),
        };
        figures.traces += 1;
        let (mut unfenced, mut durable) = (Unfenced::default(), trace.base.clone());
        let mut random = Random::new(1);
        let mut seen = HashSet::new();
        let mut violation = None;
        // States that are allowed: a range of their numbers.
        let mut allowed = 0..1;
        for (position, event) in trace.events.iter().enumerate() {
            event.replay(&mut unfenced, &mut durable);
            if let Event::Mark(op) = event {
                allowed = *op as usize..*op as usize + 2;
            }
            if !random.one_in(self.every) {
                continue;
            }
            // Once an operation is over and its data are written, the mark of the next one follows.
            let is_over = matches!(trace.events.get(position + 1), None | Some(Event::Mark(_)));
            let allowed = if is_over { allowed.end - 1..allowed.end } else { allowed.clone() };
            let images = unfenced.images(&durable, &self.effort, &mut random, &mut |image| {
                let is_new = seen.insert((image.fingerprint(&trace.base), allowed.clone()));
                if violation.is_none() && is_new {
                    figures.unique += 1;
                    let states = &trace.states[allowed.clone()];
                    violation = verify(&image, states, figures).err();
                }
            });
            figures.points += 1;
            figures.sampled_points += u64::from(!images.complete);
            figures.images += images.made as u64;
            if let Some(what) = violation {
                return Some(Violation { position: Some(position), what });
            }
        }
        None
    }
}

/// What the power failure left is one of `states`, and can be used.
fn verify(image: &Contents, states: &[State], figures: &mut Figures) -> Result<(), String> {
    let recorder = Arc::new(Recorder::new(Simulated::of(image.clone())));
    let looked_at = Region::open(Arc::new(Simulated::of(image.clone())), true);
    let looked_at = looked_at.map_err(|error| format!("read-only: {error}"))?;
    let region = Region::open(Arc::clone(&recorder), false).map_err(|error| error.to_string())?;
    let found = state(&region);
    if state(&looked_at) != found {
        return Err("open for reading, it is another".to_owned());
    }
    if !states.contains(&found) {
        return Err(format!("{found:?} is neither before nor after"));
    }
    whole(&*recorder)?;
    // What was written to pages is there as long as they are somebody's.
    keeps_data(&region, &states[0])?;
    let replayed = recorder.take_trace();
    if !replayed.is_empty() {
        figures.nested += again(image, replayed.len(), &found)?;
    }
    next_owner_sees_zeroes(&region)
}

/// The power fails again: during the replay, or during the operation after it.
fn again(image: &Contents, replayed: usize, found: &State) -> Result<u64, String> {
    let recorder = Arc::new(Recorder::new(Simulated::of(image.clone())));
    let region = Region::open(Arc::clone(&recorder), false).map_err(|error| error.to_string())?;
    act(&region, &Create(250, 0));
    let after = state(&region);
    let events = recorder.take_trace();
    let (mut unfenced, mut durable) = (Unfenced::default(), image.clone());
    let mut random = Random::new(2);
    let mut seen = HashSet::new();
    let (mut count, mut result) = (0, Ok(()));
    for (position, event) in events.iter().enumerate() {
        event.replay(&mut unfenced, &mut durable);
        let in_replay = position + 1 < replayed;
        let is_over = position + 1 == events.len();
        unfenced.images(&durable, &NESTED_EFFORT, &mut random, &mut |image| {
            if result.is_ok() && seen.insert(image.fingerprint(&durable)) {
                count += 1;
                let opened = Region::open(Arc::new(Simulated::of(image)), false);
                result =
                    opened.map_err(|error| format!("second crash: {error}")).and_then(|region| {
                        let state = state(&region);
                        let is_before = state == *found && !is_over;
                        let is_after = state == after && !in_replay;
                        let what = || format!("second crash: {state:?}");
                        if is_before || is_after { whole(region.medium()) } else { Err(what()) }
                    });
            }
        });
        result.clone()?;
    }
    Ok(count)
}

/// The checker finds nothing, and opening again changes nothing.
pub fn whole<M: PersistentMemory>(medium: &M) -> Result<(), String> {
    let report = check(medium);
    report.findings.first().map_or(Ok(()), |finding| Err(finding.to_string()))
}

/// Pages that are somebody's.
fn pages((owners, devices, _): &State) -> HashSet<u64> {
    let blocks = owners.iter().skip(1).flat_map(|(_, blocks)| blocks);
    let blocks = blocks.map(|block| block.offset..block.offset + (PAGE_SIZE << block.order));
    let extents = devices.iter().flat_map(|device| device.extents.iter().cloned());
    blocks.chain(extents).flat_map(|range| range.step_by(PAGE_SIZE as usize)).collect()
}

/// All pages that were somebody's before the operation, and still are, hold what was written to
/// them; others hold that or nothing.
fn keeps_data<M: PersistentMemory>(region: &Region<M>, before: &State) -> Result<(), String> {
    let before = pages(before);
    for page in pages(&state(region)) {
        let found = region.medium().load_u64(page + TAG_AT).map_err(|error| error.to_string())?;
        if found != TAG && (found != 0 || before.contains(&page)) {
            return Err(format!("page {page:#x} holds {found:#x}"));
        }
    }
    Ok(())
}

/// Somebody gets all that is free: nothing of what others left is there.
fn next_owner_sees_zeroes<M: PersistentMemory>(region: &Region<M>) -> Result<(), String> {
    let last = device("last", 0xdead, region.info().free / PAGE_SIZE);
    region.create_device(&last).map_err(|error| format!("all that is free: {error}"))?;
    for extent in region.device("last").map_err(|error| error.to_string())?.extents {
        for page in extent.step_by(PAGE_SIZE as usize) {
            if region.medium().load_u64(page + TAG_AT) != Ok(0) {
                return Err(format!("page {page:#x} shows what its last owner left"));
            }
        }
    }
    whole(region.medium())
}
