//! `powercut states`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::exit;
use super::junit::{Case, Report};
use super::recording::{self, Folder, RecordingError};
use super::words::describe;
use crate::cli::output::{is_whole, say};
use crate::cli::{complain, one_line};
use crate::powercut::log::Log;
use crate::powercut::states::{
    Check, CheckError, Image, Model, Parts, Plan, Range, State, Verdict,
};

/// Checks the states that a power failure may have left
///
/// The log is one of 'powercut serve --record', of dm-log-writes, or of QEMU's blklogwrites. COMMAND is run for each
/// state, with a disk image in that state in place of {image} and a file with the marks that were set by then, one a
/// line, in place of {marks}. Its exit status says whether the state is right: 0, or anything else.
///
/// Exit status: 0 all states are right; 1 one is not; 2 the command line makes no sense; 4 the log or an image cannot
/// be used; 5 COMMAND cannot be run.
#[derive(Debug, Args)]
pub(super) struct StatesArgs {
    /// What was written
    log: PathBuf,

    /// The image as it was before that
    #[arg(long, value_name = "BASE.raw")]
    base: PathBuf,

    /// Which states: prefix, flush, drop-K, keep-K, random:SEED, torn, atomic:BYTES, request-torn, or ignore-flush,
    /// the control, in which a check that looks at anything has to fail
    #[arg(long, value_name = "MODEL", default_value = "drop-1")]
    model: Model,

    /// Only states from behind this mark on
    #[arg(long, value_name = "MARK")]
    from: Option<String>,

    /// Only states up to this mark
    #[arg(long, value_name = "MARK")]
    to: Option<String>,

    /// No more than so many states, spread over all
    #[arg(long, value_name = "N")]
    budget: Option<usize>,

    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,

    /// Only part I of N: the states I, I + N, I + 2 N ...
    #[arg(long, value_name = "I/N", value_parser = shard, default_value = "1/1")]
    shard: (usize, usize),

    /// Only this state, as a report has it
    #[arg(long, value_name = "STATE", conflicts_with_all = ["from", "to", "budget", "shard"])]
    state: Option<State>,

    /// Write the image of --state here
    #[arg(long, value_name = "IMAGE.raw", requires = "state")]
    out: Option<PathBuf>,

    /// Write a report for CI here
    #[arg(long, value_name = "OUT.xml")]
    junit: Option<PathBuf>,

    /// COMMAND writes to the image: give it a copy for each state
    #[arg(long)]
    copy: bool,

    /// How long COMMAND may take for a state, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,

    /// Go on after so many failures; only the first three are made small
    #[arg(long, value_name = "N", default_value_t = 100)]
    most_failures: usize,

    /// Show what COMMAND prints
    #[arg(long)]
    verbose: bool,

    /// What checks a state
    #[arg(last = true, required_unless_present = "out")]
    command: Vec<String>,
}

/// Failures that are made small.
const MINIMISED: usize = 3;

/// Parses `I/N`.
fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(index, count)| {
        Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
    });
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => Ok((index, count)),
        _ => Err("not I/N, with I from 1 to N".into()),
    }
}

/// What came of the states.
#[derive(Default)]
struct Results {
    cases: Vec<Case>,
    checked: usize,
    failed: Vec<State>,
}

impl StatesArgs {
    pub(super) fn run(&self) -> ExitCode {
        let failed = match self.check() {
            Ok(failed) => failed,
            Err(error) => {
                complain(format_args!("powercut: {}", one_line(&error)));
                return ExitCode::from(error.status());
            }
        };
        match (failed, is_whole()) {
            (0, true) => ExitCode::SUCCESS,
            (0, false) => ExitCode::from(exit::BAD_INPUT),
            _ => ExitCode::from(exit::STATE_FAILED),
        }
    }

    /// Checks the states. Returns how many failed.
    fn check(&self) -> Result<usize, RecordingError> {
        let log = recording::open(&self.log, &self.base)?;
        if let (Some(state), Some(out)) = (&self.state, &self.out) {
            let mut image = Image::create(&log, self.model.ignores_flushes(), &self.base, out)?;
            image.set(state)?;
            say!("{}: {}", out.display(), describe(&log, state));
            if self.command.is_empty() {
                return Ok(0);
            }
        }
        let folder = Folder::new()?;
        let check = Check {
            command: self.command.clone(),
            limit: Duration::from_secs(self.timeout),
            copies: self.copy,
            shows_output: self.verbose,
            folder: folder.0.clone(),
        };
        let plan = self.plan(&log, &check)?;
        let path = folder.0.join("state.raw");
        let mut image = Image::create(&log, self.model.ignores_flushes(), &self.base, &path)?;
        let results = self.check_all(&plan, &check, &mut image)?;
        self.report(&log, &plan, &check, &mut image, &results)?;
        Ok(results.failed.len())
    }

    fn plan(&self, log: &Log, check: &Check) -> Result<Plan, RecordingError> {
        if let Some(state) = &self.state {
            return Ok(Plan { states: vec![state.clone()], duplicates: 0 });
        }
        let range = Range { from: self.from.clone(), to: self.to.clone() };
        let positions = range.positions(log)?;
        let (index, count) = self.shard;
        let wanted = self.budget.map(|budget| budget.saturating_mul(count));
        let plan = Plan::new(log, self.model, &positions, check.sees_marks(), wanted)?;
        Ok(plan.part(index - 1, count, self.budget))
    }

    fn check_all(
        &self,
        plan: &Plan,
        check: &Check,
        image: &mut Image<'_>,
    ) -> Result<Results, RecordingError> {
        let (bar, begun) = (progress(plan.states.len()), Instant::now());
        let mut results = Results::default();
        for state in &plan.states {
            let is_late = self.time.is_some_and(|limit| begun.elapsed().as_secs() >= limit);
            if is_late || results.failed.len() >= self.most_failures {
                break;
            }
            let started = Instant::now();
            let verdict = check.run(image, state)?;
            results.checked += 1;
            let failure = match verdict {
                Verdict::Passed => None,
                Verdict::Failed(how) => {
                    results.failed.push(state.clone());
                    Some(how)
                }
            };
            let seconds = started.elapsed().as_secs_f64();
            results.cases.push(Case { name: state.to_string(), seconds, failure });
            bar.set_message(format!("{} failed", results.failed.len()));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(results)
    }

    /// Says what came of it, and makes the first failures small.
    fn report(
        &self,
        log: &Log,
        plan: &Plan,
        check: &Check,
        image: &mut Image<'_>,
        results: &Results,
    ) -> Result<(), RecordingError> {
        let Results { cases, checked, failed } = results;
        for state in failed.iter().take(MINIMISED) {
            let small = smallest(check, image, state)?;
            say!("FAILED {state}");
            say!("  {} makes the check fail", describe(log, &small));
            say!(
                "  again: powercut states {} --base {} --state '{small}' --out bad.raw",
                self.log.display(),
                self.base.display()
            );
        }
        for state in failed.iter().skip(MINIMISED) {
            say!("FAILED {state}");
        }
        let unchecked = plan.states.len() - checked;
        let rest = if unchecked > 0 { format!(", {unchecked} not checked") } else { String::new() };
        say!(
            "{}: {checked} states checked, {} failed{rest}, {} duplicates",
            self.model,
            failed.len(),
            plan.duplicates
        );
        if let Some(path) = &self.junit {
            let report = Report { suite: format!("powercut {}", self.model), cases };
            let fails =
                |source| RecordingError::File { action: "write", path: path.clone(), source };
            fs::write(path, report.to_string()).map_err(fails)?;
        }
        Ok(())
    }
}

/// The smallest state that fails like `state`.
fn smallest(check: &Check, image: &mut Image<'_>, state: &State) -> Result<State, CheckError> {
    image.set(state)?;
    let Some(parts) = Parts::of(image.timeline(), &state.choice) else { return Ok(state.clone()) };
    parts.reproducer(&mut |state| Ok(check.run(image, &state)? != Verdict::Passed))
}

fn progress(states: usize) -> ProgressBar {
    let template = "{pos} of {len} states, {msg}, ETA {eta} {wide_bar}";
    let style =
        ProgressStyle::with_template(template).expect("the template is constant, and was tried");
    let bar = ProgressBar::new(states as u64).with_style(style).with_message("0 failed");
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
