//! The growth of a region, and live resizes of a device as the daemon makes them, on every medium that a
//! region may be on.
//!
//! The region grows, then a device grows and shrinks several times. On a file, each sync of this fails once,
//! and pages are dropped then, or stay as clean ones. The process is killed, or the power fails; the next
//! process opens the region, resizes the device once more, and the power fails again. A region in the page
//! cache refuses changes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use vhost_user_btt::dax::check::{Finding, check};
use vhost_user_btt::dax::{Error, PAGE_SIZE, PAGES_OFFSET, Region, create, grow, mutant};
use vhost_user_btt::pmem::simulated::{
    Contents, CrashModel, Dropped, Effort, Event, Failing, FileFault, MediumKind, Random, Simulated,
};
use vhost_user_btt::pmem::{Access, Durability, PersistentMemory};

use super::cuts::Violation;
use super::dax::{State, device, options, state};
use super::figures::Figures;
use super::medium::Medium;
use super::mutants::AnyMutant;
use super::trace::is_failure;

const EFFORT: Effort = Effort { most: 40, random: 2, lines: 4 };
const DROPPED: [Dropped; 3] = [Dropped::None, Dropped::All(1), Dropped::Some(3)];
/// Pages beside the journal, before the region grows.
const PAGES: u64 = 12;
/// Pages that the region grows by.
const MORE: u64 = 4;
/// The sizes that the device gets one after another, in pages, and the size that the next process gives it.
const SIZES: [u64; 4] = [6, 3, 5, 1];
const NEXT: u64 = 4;
const NAME: &str = "resized";

/// Growth and resizes on a medium.
pub struct Resizing(MediumKind);

impl fmt::Display for Resizing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dax resizing: {:?}", self.0)
    }
}

/// What the first process did.
struct Run {
    events: Vec<Event>,
    /// How many of the changes were made: the growth is the first.
    done: usize,
}

pub fn all() -> Vec<Resizing> {
    let (strict, page_cache) = (
        |disk_sector| MediumKind::Strict { disk_sector },
        |disk_sector| MediumKind::PageCache { disk_sector },
    );
    [MediumKind::Dax, strict(512), strict(4096), page_cache(512)].map(Resizing).into()
}

fn resize<M: PersistentMemory>(region: &Region<M>, pages: u64) -> Result<(), Error> {
    region.resize_device(NAME, pages * PAGE_SIZE)
}

fn violation(position: usize, what: impl Into<String>) -> Violation {
    Violation { position: Some(position), what: what.into() }
}

impl Resizing {
    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(mutant.of_dax());
        let base = base();
        if self.0.durability() == Durability::PageCache {
            figures.traces += 1;
            return self.is_refused(&base).err().map(|what| violation(0, what));
        }
        let states = states(&base);
        let whole_run = self.run(&base, FileFault::default(), mutant);
        faults(&whole_run.events).into_iter().find_map(|fault| {
            figures.traces += 1;
            figures.failures += u64::from(fault.what != Failing::Nothing);
            let run = self.run(&base, fault, mutant);
            let found = self.cut(&base, &run, &states, mutant, figures);
            found.map(|violation| {
                let what = format!("{fault:?}: {}", violation.what);
                Violation { what, ..violation }
            })
        })
    }

    /// A region in the page cache can be looked at and not changed, and nothing is stored.
    fn is_refused(&self, base: &Contents) -> Result<(), String> {
        let recorder = Arc::new(CrashModel::new(self.0, base).open());
        let opened = Region::open(Arc::clone(&recorder), false).map(drop);
        if opened != Err(Error::NotDurable(Durability::PageCache)) {
            return Err(format!("opened for changes in the page cache: {opened:?}"));
        }
        let region = Region::open(Arc::clone(&recorder), true).map_err(|e| e.to_string())?;
        let resized = resize(&region, NEXT);
        let events = recorder.take_trace();
        let is_right = resized == Err(Error::ReadOnly) && events.is_empty();
        if is_right { Ok(()) } else { Err(format!("{resized:?} in the page cache: {events:?}")) }
    }

    /// Lets the region grow, and resizes the device, until something fails.
    fn run(&self, base: &Contents, fault: FileFault, mutant: AnyMutant) -> Run {
        let recorder = CrashModel::new(self.0, base).open();
        let medium = Medium::new(recorder, base, mutant.of_medium());
        if let Some(file) = medium.recorder.file() {
            file.inject(fault);
        }
        let done = change(&medium);
        Run { events: medium.recorder.take_trace(), done }
    }

    /// Cuts a run off after each of its events; where a sync has failed, from there on.
    fn cut(
        &self,
        base: &Contents,
        run: &Run,
        states: &[State],
        mutant: AnyMutant,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let events = &run.events;
        let from = events.iter().position(is_failure).unwrap_or(0);
        let mut model = CrashModel::new(self.0, base);
        model.replay(&events[..from]);
        (from..=events.len()).find_map(|position| {
            if position > from {
                model.replay(&events[position - 1..position]);
            }
            figures.kills += 1;
            let allowed = &states[allowed(run, position)];
            power_fails(&model, allowed, figures)
                .and_then(|()| {
                    let has_failed = events[..position].iter().any(is_failure);
                    next_process(&model, allowed, has_failed, mutant, figures)
                })
                .err()
                .map(|what| violation(position, what))
        })
    }
}

/// Lets the region grow, and resizes the device, until something fails: no other change succeeds then.
/// Returns how many changes were made.
fn change(medium: &Arc<Medium>) -> usize {
    medium.recorder.mark(0);
    if grow(medium).is_err() {
        assert!(grow(medium).is_err(), "growth after a failure");
        return 0;
    }
    medium.recorder.mark(1);
    let Ok(region) = Region::open(Arc::clone(medium), false) else { return 1 };
    for (number, pages) in SIZES.into_iter().enumerate() {
        if number > 0 {
            medium.recorder.mark(1 + number as u64);
        }
        if resize(&region, pages).is_err() {
            assert!(resize(&region, NEXT).is_err(), "a change after a failure");
            return 1 + number;
        }
    }
    1 + SIZES.len()
}

/// Nothing fails, or one sync of those in `events`.
fn faults(events: &[Event]) -> Vec<FileFault> {
    let syncs =
        events.iter().filter(|event| matches!(event, Event::SyncBegins { .. })).count() as u64;
    let of_sync =
        |sync| DROPPED.map(|dropped| FileFault { what: Failing::Sync(sync), dropped }).into_iter();
    [FileFault::default()].into_iter().chain((0..syncs).flat_map(of_sync)).collect()
}

/// Which states a region may be in after some of the events of a run.
fn allowed(run: &Run, position: usize) -> Range<usize> {
    let marks = run.events[..position].iter().filter(|event| matches!(event, Event::Mark(_)));
    let Some(begun) = marks.count().checked_sub(1) else { return 0..1 };
    let is_over = matches!(run.events.get(position), None | Some(Event::Mark(_)));
    if is_over && begun < run.done { begun + 1..begun + 2 } else { begun..begun + 2 }
}

/// A region whose device has two pages, whose free pages are not all behind it, and which can grow.
fn base() -> Contents {
    let medium = Arc::new(Simulated::new(PAGES_OFFSET + (PAGES + 2) * PAGE_SIZE));
    create(&medium, &options()).unwrap();
    let region = Region::open(Arc::clone(&medium), false).unwrap();
    region.create_device(&device(NAME, 31, 2)).unwrap();
    region.create_device(&device("other", 32, 1)).unwrap();
    medium.snapshot().grown(MORE * PAGE_SIZE)
}

/// The states before the changes and after each of them.
fn states(base: &Contents) -> Vec<State> {
    let medium = Arc::new(Simulated::of(base.clone()));
    let before = state(&Region::open(Arc::clone(&medium), false).unwrap());
    grow(&medium).unwrap();
    let region = Region::open(medium, false).unwrap();
    let grown = state(&region);
    let resized = SIZES.map(|pages| {
        resize(&region, pages).unwrap();
        state(&region)
    });
    [before, grown].into_iter().chain(resized).collect()
}

/// Whatever a power failure leaves now is whole, and one of `allowed`.
fn power_fails(model: &CrashModel, allowed: &[State], figures: &mut Figures) -> Result<(), String> {
    let mut result = Ok(());
    let images = model.images(&EFFORT, &mut Random::new(1), &mut |image| {
        if result.is_ok() {
            figures.unique += 1;
            result = verify(image, allowed);
        }
    });
    figures.points += 1;
    figures.sampled_points += u64::from(!images.complete);
    figures.images += images.made as u64;
    result
}

fn verify(image: Contents, allowed: &[State]) -> Result<(), String> {
    let region = Region::open(Arc::new(Simulated::of(image)), false).map_err(|e| e.to_string())?;
    let found = state(&region);
    if !allowed.contains(&found) {
        return Err(format!("after a power failure, {found:?} is none of {allowed:?}"));
    }
    // One of the superblocks may be torn while the region grows.
    let is_superblock = |finding: &&Finding| finding.offset < 2 * PAGE_SIZE;
    let report = check(&**region.medium());
    let fault = report.findings.iter().find(|finding| !is_superblock(finding));
    fault.map_or(Ok(()), |finding| Err(finding.to_string()))
}

/// The next process opens what it sees, which stays, and resizes the device; the power fails at each event.
fn next_process(
    model: &CrashModel,
    allowed: &[State],
    has_failed: bool,
    mutant: AnyMutant,
    figures: &mut Figures,
) -> Result<(), String> {
    let medium = Medium::new(model.open(), &model.seen(), mutant.of_medium());
    let region = match Region::open(Arc::clone(&medium), false) {
        Ok(region) => region,
        // The next sync tells of a failure that the first process was not told of.
        Err(Error::Media(error)) if has_failed && error.access == Access::Sync => return Ok(()),
        Err(error) => return Err(format!("the next process cannot open it: {error}")),
    };
    let opening = medium.recorder.take_trace();
    let found = state(&region);
    if !allowed.contains(&found) {
        return Err(format!("the next process finds {found:?}, none of {allowed:?}"));
    }
    let mut model = model.clone();
    model.replay(&opening);
    let found = [found];
    power_fails(&model, &found, figures).map_err(|what| format!("after opening: {what}"))?;
    resize(&region, NEXT).map_err(|error| format!("the next process: {error}"))?;
    let after = [found[0].clone(), state(&region)];
    let events = medium.recorder.take_trace();
    for (position, event) in events.iter().enumerate() {
        model.replay(std::slice::from_ref(event));
        let is_over = position + 1 == events.len();
        let allowed = if is_over { &after[1..] } else { &after[..] };
        power_fails(&model, allowed, figures).map_err(|what| format!("next process: {what}"))?;
    }
    Ok(())
}
