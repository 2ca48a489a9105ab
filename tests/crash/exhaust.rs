//! All turns that the queues of a scenario can take, up to a number of preemptions, each cut off
//! everywhere.

use vhost_user_btt::pmem::simulated::Effort;
use vhost_user_btt::pmem::simulated::turns::{self, Run};

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::scenario::Scenario;
use super::trace::Start;
use super::verify::Verified;

/// What one queue leaves: every cache line of its data missing, and alone.
pub const ONE_QUEUE: Effort = Effort { most: 20_000, random: 8, lines: 64 };
/// What several leave, in each of many traces.
const SEVERAL_QUEUES: Effort = Effort { most: 2_000, random: 2, lines: 2 };

/// The first violation there is.
pub fn exhaust(
    scenario: &Scenario,
    mutant: AnyMutant,
    preemptions: usize,
    figures: &mut Figures,
) -> Option<Violation> {
    let alone = scenario.queues.len() == 1;
    let (effort, preemptions) = if alone { (ONE_QUEUE, 0) } else { (SEVERAL_QUEUES, preemptions) };
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
        let fault = trace.faults.first();
        let fault = fault.map(|what| Violation { position: None, what: what.clone() });
        violation = fault.or_else(|| {
            Cutter::new(scenario, mutant, &trace).everywhere(&effort, &mut verified, figures)
        });
        run
    });
    violation
}
