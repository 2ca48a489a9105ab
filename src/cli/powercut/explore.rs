//! `powercut explore`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::exhaustive::Exhaustive;
use super::exit;
use super::recording::{self, Folder, RecordingError};
use super::results::{Checker, Trial};
use super::shown::Shown;
use super::states::shard;
use crate::cli::output::is_whole;
use crate::cli::{complain, one_line};
use crate::powercut::explore::{Explorer, Given, Limits, Moments, Stage};
use crate::powercut::log::Log;
use crate::powercut::states::{ImageError, Model, Plan, Range, State, Timeline, Verdict};

/// What stands for the socket of the disk in a command.
const DISK: &str = "{disk}";
/// What stands for the socket of the disk of marks.
const MARKS: &str = "{marks}";
/// Runs of the check for each moment, unless something else is said.
const RUNS: u64 = 10_000;

/// Covers all states that a power failure may have left, by what the check reads
///
/// COMMAND is a guest, or another client of vhost-user-blk, that checks one state after another. It gets the sockets of
/// two disks in place of {disk} and {marks}. A sector of the first whose content is not certain is decided when the
/// guest first reads it; when the guest has given its verdict, the last decision is taken differently. What the guest
/// writes is forgotten after each state.
///
/// The guest talks to the second disk (serial number 'marks'), in sectors of 512 bytes: it writes NEXT to get a state,
/// and PASS, or FAIL and a reason, when it has checked it. The disk reads as the marks that were set by then, one a
/// line. Before NEXT, the guest has to drop what it has cached of the first disk (blockdev --flushbufs). A guest that
/// ends without a verdict has failed the state, one that gives none in time has hung; it is started again.
///
/// Exit status: as that of 'powercut states'.
#[derive(Debug, Args)]
pub(super) struct ExploreArgs {
    /// What was written
    log: PathBuf,

    /// The image as it was before that
    #[arg(long, value_name = "BASE.raw")]
    base: PathBuf,

    /// Not all states, but those of this model, as 'powercut states' has them; ignore-flush is the control, in which a
    /// check that looks at anything has to fail
    #[arg(long, value_name = "MODEL")]
    model: Option<Model>,

    /// Only states from behind this mark on
    #[arg(long, value_name = "MARK")]
    from: Option<String>,

    /// Only states up to this mark
    #[arg(long, value_name = "MARK")]
    to: Option<String>,

    /// No more than so many runs of the check for each moment of the log (10000 by default); with --model, no more
    /// than so many states, spread over all
    #[arg(long, value_name = "N")]
    budget: Option<u64>,

    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,

    /// With --model, only part I of N: the states I, I + N, I + 2 N ...
    #[arg(long, value_name = "I/N", value_parser = shard, requires = "model")]
    shard: Option<(usize, usize)>,

    /// With --model, go on after so many states that have not passed; only the first three are made small
    #[arg(long, value_name = "N", default_value_t = 100, requires = "model")]
    most_failures: usize,

    /// COMMAND checks one state, without NEXT, and its exit status is the verdict
    #[arg(long)]
    once: bool,

    /// The check looks at the marks: a moment is checked again when there are more of them
    #[arg(long)]
    with_marks: bool,

    /// Write a report for CI here
    #[arg(long, value_name = "OUT.xml")]
    junit: Option<PathBuf>,

    /// How long COMMAND may take to start, and for a state, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,

    /// Show what COMMAND prints
    #[arg(long)]
    verbose: bool,

    /// What checks states
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl ExploreArgs {
    pub(super) fn run(&self) -> ExitCode {
        match self.explore() {
            Ok(0) if !is_whole() => ExitCode::from(exit::BAD_INPUT),
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                complain(format_args!("powercut: {}", one_line(&error)));
                ExitCode::from(error.status())
            }
        }
    }

    /// Explores the states. Returns the exit status that says what came of it.
    fn explore(&self) -> Result<u8, RecordingError> {
        let log = Arc::new(recording::open(&self.log, &self.base)?);
        let stage = Arc::new(self.stage(&log)?);
        let folder = Folder::new()?;
        let (disk, marks) = (folder.0.join("disk.sock"), folder.0.join("marks.sock"));
        let explorer = self.explorer(stage.clone(), &disk, &marks);
        let shown = Shown::begin(&stage, &disk, &marks)?;
        // The check ends before its disks do.
        let status = match self.model {
            Some(model) => self.explore_model(&log, model, explorer),
            None => self.explore_all(&log, explorer),
        };
        shown.end()?;
        status
    }

    /// Opens the base image, to be shown in the states of `log`.
    fn stage(&self, log: &Arc<Log>) -> Result<Stage, RecordingError> {
        let sector_size = log.sector_size();
        if ![512, 4096].contains(&sector_size) {
            return Err(RecordingError::SectorSize(sector_size));
        }
        let fails =
            |action| move |source| RecordingError::File { action, path: self.base.clone(), source };
        let base = File::open(&self.base).map_err(fails("open"))?;
        let size = base.metadata().map_err(fails("look at"))?.len();
        let sectors = size / u64::from(sector_size);
        let extent = Timeline::extent(log);
        if extent > sectors * u64::from(sector_size) {
            return Err(ImageError::TooSmall { path: self.base.clone(), size, extent }.into());
        }
        Ok(Stage::new(log.clone(), base, sectors))
    }

    fn explorer(&self, stage: Arc<Stage>, disk: &Path, marks: &Path) -> Explorer {
        let (disk, marks) = (disk.to_string_lossy(), marks.to_string_lossy());
        let words = self.command.iter();
        let command = words.map(|word| word.replace(DISK, &disk).replace(MARKS, &marks)).collect();
        Explorer {
            stage,
            command,
            limit: Duration::from_secs(self.timeout),
            is_once: self.once,
            shows_output: self.verbose,
            child: None,
        }
    }

    fn range(&self) -> Range {
        Range { from: self.from.clone(), to: self.to.clone() }
    }

    fn explore_all(&self, log: &Log, explorer: Explorer) -> Result<u8, RecordingError> {
        let time = self.time.map(Duration::from_secs);
        let limits = Limits {
            runs: self.budget.unwrap_or(RUNS),
            deadline: time.and_then(|time| Instant::now().checked_add(time)),
        };
        let positions = self.range().positions(log)?;
        let search = Exhaustive {
            log,
            log_path: &self.log,
            base: &self.base,
            limits,
            junit: self.junit.as_deref(),
        };
        search.run(Moments::new(log, positions, self.with_marks), explorer)
    }

    fn explore_model(
        &self,
        log: &Log,
        model: Model,
        explorer: Explorer,
    ) -> Result<u8, RecordingError> {
        let positions = self.range().positions(log)?;
        let budget = self.budget.map(|budget| usize::try_from(budget).unwrap_or(usize::MAX));
        let (index, count) = self.shard.unwrap_or((1, 1));
        let wanted = budget.map(|budget| budget.saturating_mul(count));
        let plan = Plan::new(log, model, &positions, self.with_marks, wanted)?;
        let trial = Trial {
            log,
            log_path: &self.log,
            base: &self.base,
            model,
            plan: plan.part(index - 1, count, budget),
            time: self.time,
            most_failures: self.most_failures,
            junit: self.junit.as_deref(),
        };
        trial.run(&mut Given::new(explorer, log, model.ignores_flushes()))
    }
}

impl Checker for Given<'_> {
    fn check(&mut self, state: &State) -> Result<Verdict, RecordingError> {
        Ok(Given::check(self, state)?)
    }

    fn smallest(&mut self, state: &State) -> Result<State, RecordingError> {
        Ok(Given::smallest(self, state)?)
    }
}
