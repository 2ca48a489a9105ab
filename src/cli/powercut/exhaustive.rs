//! The search of all states of a recording, moment by moment, and what it says.

use std::ops::AddAssign;
use std::path::Path;
use std::time::Instant;

use super::exit;
use super::junit::{Case, Report};
use super::recording::RecordingError;
use super::results::write_junit;
use super::words::{again, between, describe};
use crate::cli::output::say;
use crate::powercut::explore::{Explorer, Limits, Moments, Outcome};
use crate::powercut::log::Log;
use crate::powercut::states::{Model, State, Verdict};

/// A search of all states.
pub(super) struct Exhaustive<'a> {
    pub log: &'a Log,
    pub log_path: &'a Path,
    pub base: &'a Path,
    pub limits: Limits,
    /// Where a report for CI goes.
    pub junit: Option<&'a Path>,
}

/// What came of all moments.
#[derive(Default)]
struct Total {
    moments: usize,
    runs: u64,
    failed: usize,
    hung: usize,
    /// Moments of which not all states are covered.
    open: usize,
}

impl AddAssign<&Outcome> for Total {
    fn add_assign(&mut self, outcome: &Outcome) {
        self.moments += 1;
        self.runs += outcome.runs;
        match &outcome.stopped {
            Some((_, Verdict::Hung(_))) => self.hung += 1,
            Some(_) => self.failed += 1,
            None => self.open += usize::from(outcome.covered != Some(1.0)),
        }
    }
}

impl Exhaustive<'_> {
    /// Explores the moments. Returns the exit status that says what came of it.
    pub(super) fn run(
        &self,
        mut moments: Moments<'_>,
        mut explorer: Explorer,
    ) -> Result<u8, RecordingError> {
        let (mut total, mut cases) = (Total::default(), Vec::new());
        while let Some(undecided) = moments.advance()? {
            if self.limits.is_late() {
                say!("the time is over: later moments are not covered");
                break;
            }
            let begun = Instant::now();
            let outcome = explorer.explore(&moments, undecided, self.limits)?;
            let position = moments.timeline().point().position;
            say!("{}", summary(self.log, position, &outcome));
            let seconds = begun.elapsed().as_secs_f64();
            let verdict = outcome.stopped.as_ref().map(|(_, verdict)| verdict.clone());
            let verdict = verdict.unwrap_or(Verdict::Passed);
            cases.push(Case { name: format!("p={position}"), seconds, verdict });
            total += &outcome;
            if let Some((state, verdict)) = outcome.stopped {
                self.report(&moments, &mut explorer, &state, &verdict)?;
            }
        }
        total.say();
        if let Some(path) = self.junit {
            write_junit(path, &Report { suite: "powercut exhaustive".into(), cases: &cases })?;
        }
        Ok(exit::status(total.failed, total.hung))
    }

    fn report(
        &self,
        moments: &Moments<'_>,
        explorer: &mut Explorer,
        state: &State,
        verdict: &Verdict,
    ) -> Result<(), RecordingError> {
        let small = match verdict {
            Verdict::Failed(how) => {
                let small = explorer.smallest(moments.timeline(), state)?;
                say!("FAILED {state}: {how}");
                say!("  {} makes the check fail", describe(self.log, &small));
                small
            }
            // To make it small would take the whole time limit for each state that hangs.
            Verdict::Hung(how) => {
                say!("HUNG {state}: {how}");
                state.clone()
            }
            Verdict::Passed => return Ok(()),
        };
        say!("  again: {}", again(self.log_path, self.base, Model::Prefix, &small));
        Ok(())
    }
}

impl Total {
    fn say(&self) {
        let Total { moments, runs, failed, hung, open } = self;
        let count = |number: usize, what: &str| match number {
            0 => String::new(),
            _ => format!(", {number} {what}"),
        };
        say!(
            "exhaustive: {moments} moments in {runs} runs, {failed} failed{}{}",
            count(*hung, "hung"),
            count(*open, "not covered")
        );
    }
}

/// What was covered of a moment, in words.
fn summary(log: &Log, position: usize, outcome: &Outcome) -> String {
    let Outcome { undecided, states_log2, runs, covered, stopped } = outcome;
    let covered = match (stopped, covered) {
        (Some((_, Verdict::Hung(_))), _) => "the check has hung".into(),
        (Some(_), _) => "a state failed".into(),
        (None, None) => "the check is not deterministic, random states were tried".into(),
        (None, Some(1.0)) => "all are covered".into(),
        (None, Some(part)) => format!("{:.3} % are covered", part * 100.0),
    };
    format!(
        "p={position} ({}): {undecided} sectors are uncertain, {} states; {runs} runs: {covered}",
        between(log, position),
        count(*states_log2)
    )
}

/// A number of states, of which the logarithm is known.
fn count(log2: f64) -> String {
    if log2 < 40.0 { format!("{:.0}", log2.exp2()) } else { format!("2^{log2:.1}") }
}
