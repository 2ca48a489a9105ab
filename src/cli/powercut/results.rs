//! States that are checked one after another, and what comes of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::exit;
use super::junit::{Case, Report};
use super::recording::RecordingError;
use super::words::{again, describe};
use crate::cli::output::say;
use crate::powercut::log::Log;
use crate::powercut::states::{Model, Plan, State, Verdict};

/// Failures that are made small.
const MINIMISED: usize = 3;

/// What looks at states.
pub(super) trait Checker {
    /// Checks a state.
    fn check(&mut self, state: &State) -> Result<Verdict, RecordingError>;

    /// The smallest state that fails like `state`.
    fn smallest(&mut self, state: &State) -> Result<State, RecordingError>;
}

/// States of a recording that are checked.
pub(super) struct Trial<'a> {
    pub log: &'a Log,
    pub log_path: &'a Path,
    pub base: &'a Path,
    pub model: Model,
    pub plan: Plan,
    /// Stop after so many seconds.
    pub time: Option<u64>,
    /// Stop after so many failures.
    pub most_failures: usize,
    /// Where a report for CI goes.
    pub junit: Option<&'a Path>,
}

/// What came of the states.
#[derive(Default)]
struct Results {
    cases: Vec<Case>,
    failed: Vec<State>,
    hung: Vec<State>,
}

impl Trial<'_> {
    /// Checks the states, and says what came of it. Returns the exit status that says it.
    pub(super) fn run(&self, checker: &mut dyn Checker) -> Result<u8, RecordingError> {
        let results = self.check_all(checker)?;
        self.report(checker, &results)?;
        if let Some(path) = self.junit {
            let suite = format!("powercut {}", self.model);
            write_junit(path, &Report { suite, cases: &results.cases })?;
        }
        Ok(exit::status(results.failed.len(), results.hung.len()))
    }

    fn check_all(&self, checker: &mut dyn Checker) -> Result<Results, RecordingError> {
        let (bar, begun) = (progress(self.plan.states.len()), Instant::now());
        let mut results = Results::default();
        for state in &self.plan.states {
            let is_late = self.time.is_some_and(|limit| begun.elapsed().as_secs() >= limit);
            if is_late || results.failed.len() + results.hung.len() >= self.most_failures {
                break;
            }
            let started = Instant::now();
            let verdict = checker.check(state)?;
            match &verdict {
                Verdict::Passed => {}
                Verdict::Failed(_) => results.failed.push(state.clone()),
                Verdict::Hung(_) => results.hung.push(state.clone()),
            }
            let seconds = started.elapsed().as_secs_f64();
            results.cases.push(Case { name: state.to_string(), seconds, verdict });
            bar.set_message(format!("{} failed", results.failed.len()));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(results)
    }

    /// Says what came of it, and makes the first failures small.
    fn report(&self, checker: &mut dyn Checker, results: &Results) -> Result<(), RecordingError> {
        let Results { cases, failed, hung } = results;
        for state in failed.iter().take(MINIMISED) {
            let small = checker.smallest(state)?;
            say!("FAILED {state}");
            say!("  {} makes the check fail", describe(self.log, &small));
            say!("  again: {}", again(self.log_path, self.base, self.model, &small));
        }
        for state in failed.iter().skip(MINIMISED) {
            say!("FAILED {state}");
        }
        for state in hung {
            say!("HUNG {state}");
            say!("  again: {}", again(self.log_path, self.base, self.model, state));
        }
        let count = |number: usize, what: &str| match number {
            0 => String::new(),
            _ => format!(", {number} {what}"),
        };
        say!(
            "{}: {} states checked, {} failed{}{}, {} duplicates",
            self.model,
            cases.len(),
            failed.len(),
            count(hung.len(), "hung"),
            count(self.plan.states.len() - cases.len(), "not checked"),
            self.plan.duplicates
        );
        Ok(())
    }
}

/// Writes a report for CI.
pub(super) fn write_junit(path: &Path, report: &Report<'_>) -> Result<(), RecordingError> {
    let fails = |source| RecordingError::File { action: "write", path: path.into(), source };
    fs::write(path, report.to_string()).map_err(fails)
}

fn progress(states: usize) -> ProgressBar {
    let template = "{pos} of {len} states, {msg}, ETA {eta} {wide_bar}";
    let style =
        ProgressStyle::with_template(template).expect("the template is constant, and was tried");
    let bar = ProgressBar::new(states as u64).with_style(style).with_message("0 failed");
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
