//! The states that are tried, each content once.

use std::collections::HashSet;

use super::super::log::{Log, LogError};
use super::choice::{Choice, Sectors, State};
use super::model::{Model, Stride};
use super::timeline::Timeline;

/// Which points are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// From behind this mark on.
    pub from: Option<String>,
    /// Up to this mark, the last one with that text.
    pub to: Option<String>,
}

/// A mark that the log does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log has no mark {0:?}")]
pub struct NoSuchMark(pub String);

/// The states that are tried, in the order of their points.
#[derive(Debug, Default)]
pub struct Plan {
    /// The states.
    pub states: Vec<State>,
    /// How many more there were whose content is that of another.
    pub duplicates: u64,
}

impl Range {
    /// The positions that are meant.
    ///
    /// # Errors
    ///
    /// There is no such mark.
    pub fn positions(&self, log: &Log) -> Result<std::ops::RangeInclusive<usize>, NoSuchMark> {
        let at = |text: &String| {
            let mut marks = log.entries().iter().enumerate();
            let is_it =
                |(_, entry): &(usize, &super::super::log::Entry)| entry.mark.as_ref() == Some(text);
            (marks.clone().find(is_it), marks.rfind(is_it))
        };
        let missing = |text: &String| NoSuchMark(text.clone());
        let start = match &self.from {
            Some(text) => at(text).0.ok_or_else(|| missing(text))?.0 + 1,
            None => 0,
        };
        let end = match &self.to {
            Some(text) => at(text).1.ok_or_else(|| missing(text))?.0 + 1,
            None => log.entries().len(),
        };
        Ok(start..=end)
    }
}

impl Plan {
    /// The states of `model` at `positions` of `log`. If the check is told of marks (`sees_marks`), a content is
    /// tried again when there are more of them. Where `wanted` says that so many states are enough, pairs are taken
    /// out of all before they are looked at.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn new(
        log: &Log,
        model: Model,
        positions: &std::ops::RangeInclusive<usize>,
        sees_marks: bool,
        wanted: Option<usize>,
    ) -> Result<Plan, LogError> {
        let mut stride = match wanted {
            Some(wanted) if model.tries_pairs() => stride(log, model, positions, wanted)?,
            _ => Stride::default(),
        };
        let mut timeline = Timeline::new(log, model.ignores_flushes());
        let (mut plan, mut seen) = (Plan::default(), HashSet::new());
        loop {
            let position = timeline.point().position;
            if positions.contains(&position) {
                let mut choices: Vec<Choice> = Vec::new();
                model.choices(&timeline, &mut stride, &mut |choice| choices.push(choice));
                for choice in choices {
                    let marks = if sees_marks { timeline.point().marks.len() } else { 0 };
                    let hash = hash(&mut timeline, &choice)?;
                    if seen.insert((hash, marks)) {
                        plan.states.push(State { position, choice });
                    } else {
                        plan.duplicates += 1;
                    }
                }
            }
            if position >= *positions.end() || timeline.advance()?.is_none() {
                return Ok(plan);
            }
        }
    }

    /// Those of every `count` states, from number `index` on, and of these no more than `budget`, spread over all.
    #[must_use]
    pub fn part(mut self, index: usize, count: usize, budget: Option<usize>) -> Plan {
        let states = self.states.into_iter().skip(index).step_by(count);
        self.states = states.collect();
        let total = self.states.len();
        if let Some(budget) = budget.filter(|budget| *budget < total) {
            // Evenly spread: a state is in if its share of the budget is a new one.
            let share = |number: usize| number * budget / total;
            let states = std::mem::take(&mut self.states).into_iter().enumerate();
            let is_in = |number: usize| number == 0 || share(number) > share(number - 1);
            self.states = states.filter(|(number, _)| is_in(*number)).map(|(_, it)| it).collect();
        }
        self
    }
}

/// A stride that takes several times as many pairs as are wanted: some turn out to be duplicates.
fn stride(
    log: &Log,
    model: Model,
    positions: &std::ops::RangeInclusive<usize>,
    wanted: usize,
) -> Result<Stride, LogError> {
    const SPARE: u64 = 8;
    let (mut timeline, mut total) = (Timeline::new(log, model.ignores_flushes()), 0u64);
    loop {
        let position = timeline.point().position;
        if positions.contains(&position) {
            total = total.saturating_add(model.pairs(&timeline));
        }
        if position >= *positions.end() || timeline.advance()?.is_none() {
            return Ok(Stride::new(total, (wanted as u64).saturating_mul(SPARE)));
        }
    }
}

/// Hash of a state's content.
fn hash(timeline: &mut Timeline<'_>, choice: &Choice) -> Result<u128, LogError> {
    let Sectors { contents, torn } = choice.sectors(timeline);
    let hash = timeline.hash_with(contents)?;
    // Two different tears of a sector may come to the same bytes; they are tried both.
    let tear = torn.map_or(0, |(sector, _, tear)| {
        let tear = match tear {
            super::choice::Tear::Prefix(bytes) => u128::from(bytes) << 1,
            super::choice::Tear::Words(seed) => u128::from(seed) << 1 | 1,
        };
        (u128::from(sector) << 64 | tear).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    });
    Ok(hash ^ tear)
}
