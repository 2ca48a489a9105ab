//! `powercut states`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::exit;
use super::recording::{self, Folder, RecordingError};
use super::results::{Checker, Trial};
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
/// be used; 5 COMMAND cannot be run; 6 no state is wrong, but COMMAND has not ended in time on one.
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

/// Parses `I/N`.
pub(super) fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(index, count)| {
        Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
    });
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => Ok((index, count)),
        _ => Err("not I/N, with I from 1 to N".into()),
    }
}

impl StatesArgs {
    pub(super) fn run(&self) -> ExitCode {
        match self.check() {
            Ok(0) if !is_whole() => ExitCode::from(exit::BAD_INPUT),
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                complain(format_args!("powercut: {}", one_line(&error)));
                ExitCode::from(error.status())
            }
        }
    }

    /// Checks the states. Returns the exit status that says what came of it.
    fn check(&self) -> Result<u8, RecordingError> {
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
        let trial = Trial {
            log: &log,
            log_path: &self.log,
            base: &self.base,
            model: self.model,
            plan: self.plan(&log, &check)?,
            time: self.time,
            most_failures: self.most_failures,
            junit: self.junit.as_deref(),
        };
        let path = folder.0.join("state.raw");
        let image = Image::create(&log, self.model.ignores_flushes(), &self.base, &path)?;
        trial.run(&mut Images { check, image })
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
}

/// States that are images, which a command looks at.
struct Images<'l> {
    check: Check,
    image: Image<'l>,
}

impl Checker for Images<'_> {
    fn check(&mut self, state: &State) -> Result<Verdict, RecordingError> {
        Ok(self.check.run(&mut self.image, state)?)
    }

    fn smallest(&mut self, state: &State) -> Result<State, RecordingError> {
        let Images { check, image } = self;
        image.set(state)?;
        let Some(parts) = Parts::of(image.timeline(), &state.choice) else {
            return Ok(state.clone());
        };
        let small = parts.reproducer(&mut |state| Ok(check.run(image, &state)?.is_failure()));
        small.map_err(|error: CheckError| error.into())
    }
}
