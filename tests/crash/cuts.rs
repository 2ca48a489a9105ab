//! Cutting a trace off at its events, and verifying what that may leave.

use std::fmt;
use std::ops::Range;

use vhost_user_btt::btt::find;
use vhost_user_btt::pmem::simulated::{Contents, Effort, Random, Simulated, Unfenced};

use super::figures::Figures;
use super::mutants::AnyMutant;
use super::scenario::Scenario;
use super::trace::Trace;
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
    durable: Contents,
    unfenced: Unfenced,
    poison: Vec<Range<u64>>,
    position: usize,
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
            durable: trace.base.clone(),
            unfenced: Unfenced::default(),
            poison: trace.poison.clone(),
            position: 0,
        }
    }

    /// Cuts the trace off before its first event, and after each of them.
    pub fn everywhere(
        mut self,
        effort: &Effort,
        known: &mut Verified,
        figures: &mut Figures,
    ) -> Option<Violation> {
        let mut random = Random::new(1);
        self.cut(effort, &mut random, known, figures).or_else(|| {
            (0..self.trace.events.len()).find_map(|_| {
                self.advance();
                self.cut(effort, &mut random, known, figures)
            })
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
        event.replay(&mut self.unfenced, &mut self.durable);
        clear_poison(&mut self.poison, event);
        self.position += 1;
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
        };
        let mut violation = None;
        let images = self.unfenced.images(&self.durable, effort, random, &mut |image| {
            if violation.is_none() {
                violation = verifier.verify(&image, &allowed).err();
            }
        });
        figures.points += 1;
        figures.sampled_points += u64::from(!images.complete);
        figures.images += images.made as u64;
        figures.unique += verifier.unique;
        figures.nested += verifier.nested;
        violation.map(|what| Violation { position: Some(self.position), what })
    }

    fn allowed(&self) -> Allowed {
        let after = |position| {
            let histories = self.trace.histories.iter();
            histories.map(|history| (history.sector, history.after(position))).collect()
        };
        let is_data = |offset: &u64| self.data.iter().any(|data| data.contains(offset));
        Allowed {
            sectors: after(self.position),
            poison: self.poison.clone(),
            open_data: self.unfenced.streamed().filter(is_data).collect(),
        }
    }
}
