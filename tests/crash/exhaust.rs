//! All turns that the queues of a scenario can take, up to a number of preemptions, each cut off
//! everywhere.

use vhost_user_btt::pmem::simulated::Effort;
use vhost_user_btt::pmem::simulated::turns::{self, AtRandom, Run};

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::scenario::Scenario;
use super::trace::{Start, fault_of};
use super::verify::Verified;

/// What one queue leaves: every cache line of its data missing, and alone.
pub const ONE_QUEUE: Effort = Effort { most: 20_000, random: 8, lines: 64 };
/// What several leave, in each of many traces.
const SEVERAL_QUEUES: Effort = Effort { most: 2_000, random: 2, lines: 2 };

/// What a long round leaves, of which there is much more than can be tried.
const WIDE: Effort = Effort { most: 40, random: 2, lines: 8 };

/// The first violation there is in a scenario whose rounds are long, with the turns of a few seeds.
pub fn sample(scenario: &Scenario, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
    let start = Start::of(scenario);
    let mut verified = Verified::default();
    let seeds = if scenario.is_of_one_queue() { 1 } else { 20 };
    (0..seeds).find_map(|seed| {
        let (_, trace) = start.run(scenario, mutant, Box::new(AtRandom::new(seed)));
        figures.traces += 1;
        fault_of(&trace).or_else(|| {
            Cutter::new(scenario, mutant, &trace).from(0, &WIDE, &mut verified, figures)
        })
    })
}

/// The first violation there is.
pub fn exhaust(
    scenario: &Scenario,
    mutant: AnyMutant,
    preemptions: usize,
    figures: &mut Figures,
) -> Option<Violation> {
    let effort = if scenario.is_of_one_queue() { ONE_QUEUE } else { SEVERAL_QUEUES };
    exhaust_with(scenario, mutant, preemptions, &effort, figures)
}

/// The first violation there is, where a round of several sectors is in every trace.
pub fn exhaust_moves(
    scenario: &Scenario,
    mutant: AnyMutant,
    preemptions: usize,
    figures: &mut Figures,
) -> Option<Violation> {
    exhaust_with(scenario, mutant, preemptions, &SEVERAL_QUEUES, figures)
}

fn exhaust_with(
    scenario: &Scenario,
    mutant: AnyMutant,
    preemptions: usize,
    effort: &Effort,
    figures: &mut Figures,
) -> Option<Violation> {
    let preemptions = if scenario.is_of_one_queue() { 0 } else { preemptions };
    let start = Start::of(scenario);
    let mut verified = Verified::default();
    let mut violation = None;
    turns::explore(preemptions, &mut |schedule, _| {
        if violation.is_some() {
            // Enough: there are no steps to go on from.
            return Run { steps: Vec::new(), result: Ok(()) };
        }
        let (run, trace) = start.run(scenario, mutant, schedule);
        figures.traces += 1;
        violation = fault_of(&trace).or_else(|| {
            Cutter::new(scenario, mutant, &trace).everywhere(effort, &mut verified, figures)
        });
        run
    });
    violation
}
