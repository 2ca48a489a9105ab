//! Cutting a trace off at its events, and verifying what that may leave.

use std::fmt;
use std::ops::Range;

use vhost_user_btt::btt::find;
use vhost_user_btt::pmem::Durability;
use vhost_user_btt::pmem::simulated::{CrashModel, Effort, Event, Random, Simulated};

use super::figures::{Figures, Left};
use super::mutants::AnyMutant;
use super::oracle::History;
use super::scenario::Scenario;
use super::trace::Trace;
use super::value::Value;
use super::verify::{Allowed, Verified, Verifier, clear_poison};

/// Something that must not be.
#[derive(Debug, Clone)]
pub struct Violation {
    /// After how many events of the trace the power failed; none if nothing failed yet.
    pub position: Option<usize>,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "power failure after event {position}: {}", self.what),
            None => write!(f, "without a power failure: {}", self.what),
        }
    }
}

/// A trace that is being cut off.
pub struct Cutter<'a> {
    scenario: &'a Scenario,
    mutant: AnyMutant,
    trace: &'a Trace,
    /// Where the data of each arena are.
    data: Vec<Range<u64>>,
    model: CrashModel,
    poison: Vec<Range<u64>>,
    position: usize,
    /// What the sectors may hold there.
    sectors: Vec<(u64, Vec<Value>)>,
}

impl<'a> Cutter<'a> {
    pub fn new(scenario: &'a Scenario, mutant: AnyMutant, trace: &'a Trace) -> Cutter<'a> {
        let arenas = find(&Simulated::of(trace.base.clone()), None).unwrap();
        let data = arenas.iter().map(|arena| {
            let geometry = arena.info.geometry;
            arena.start + geometry.dataoff..arena.start + geometry.mapoff
        });
        Cutter {
            scenario,
            mutant,
            trace,
            data: data.collect(),
            model: CrashModel::new(scenario.disk.medium, &trace.base),
            poison: trace.poison.clone(),
            position: 0,
            sectors: sectors_after(scenario, trace, 0),
        }
    }

    /// Cuts the trace off before the next event, and after each that follows.
    pub fn everywhere(
        mut self,
        effort: &Effort,
        known: &mut Verified,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let mut random = Random::new(1);
        self.cut(effort, &mut random, known, figures).or_else(|| {
            (self.position..self.trace.events.len()).find_map(|_| {
                self.advance();
                self.cut(effort, &mut random, known, figures)
            })
        })
    }

    /// The same from the moment on at which the first `position` events have happened, but only where that
    /// may leave something that is not left at a later point, or not allowed at one.
    pub fn from(
        mut self,
        position: usize,
        effort: &Effort,
        known: &mut Verified,
        figures: &mut Figures,
    ) -> Option<Violation> {
        (0..position).for_each(|_| self.advance());
        let mut random = Random::new(1);
        (position..=self.trace.events.len()).find_map(|at| {
            if at > position {
                self.advance();
            }
            let is_last_of_its_kind = self.trace.events.get(at).is_none_or(narrows);
            is_last_of_its_kind.then(|| self.cut(effort, &mut random, known, figures))?
        })
    }

    /// Cuts the trace off after some of its events, with a few random images each.
    pub fn sometimes(
        mut self,
        every: u64,
        images: usize,
        random: &mut Random,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let mut known = Verified::default();
        let effort = Effort { most: images, random: images, lines: 1 };
        (0..self.trace.events.len()).find_map(|_| {
            self.advance();
            let chosen = random.one_in(every);
            chosen.then(|| self.cut(&effort, random, &mut known, figures))?
        })
    }

    fn advance(&mut self) {
        let event = &self.trace.events[self.position];
        self.model.replay(std::slice::from_ref(event));
        clear_poison(&mut self.poison, event);
        self.position += 1;
        if matches!(event, Event::Mark(_)) {
            self.sectors = sectors_after(self.scenario, self.trace, self.position);
        }
    }

    fn cut(
        &self,
        effort: &Effort,
        random: &mut Random,
        known: &mut Verified,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let allowed = self.allowed();
        let mut verifier = Verifier {
            scenario: self.scenario,
            mutant: self.mutant,
            base: &self.trace.base,
            verified: known,
            unique: 0,
            nested: 0,
            left: Left::default(),
        };
        let mut violation = None;
        let images = self.model.images(effort, random, &mut |image| {
            if violation.is_none() {
                violation = verifier.verify(&image, &allowed).err();
            }
        });
        figures.points += 1;
        figures.sampled_points += u64::from(!images.complete);
        figures.images += images.made as u64;
        figures.unique += verifier.unique;
        figures.nested += verifier.nested;
        figures.left += verifier.left;
        violation.map(|what| Violation { position: Some(self.position), what })
    }

    fn allowed(&self) -> Allowed {
        let is_data = |offset: &u64| self.data.iter().any(|data| data.contains(offset));
        Allowed {
            sectors: self.sectors.clone(),
            pages: self.trace.pages.clone(),
            poison: self.poison.clone(),
            open_data: self.model.open_data().into_iter().filter(is_data).collect(),
        }
    }
}

/// Returns whether an event makes something durable, or changes what is allowed. After any other, a power
/// failure may leave all that it could before, and must not leave anything else than before.
fn narrows(event: &Event) -> bool {
    !matches!(
        event,
        Event::Store { .. } | Event::Stream { .. } | Event::Flush { .. } | Event::SyncBegins { .. }
    )
}

/// What each sector may hold after the first `position` events. Of a page cache only those that were flushed
/// and not written since: of the others, nothing is promised.
fn sectors_after(scenario: &Scenario, trace: &Trace, position: usize) -> Vec<(u64, Vec<Value>)> {
    let is_in_page_cache = scenario.disk.medium.durability() == Durability::PageCache;
    let is_promised =
        |history: &&History| !is_in_page_cache || !history.is_written_between(position, position);
    let histories = trace.histories.iter().filter(is_promised);
    histories.map(|history| (history.sector, history.after(position))).collect()
}
