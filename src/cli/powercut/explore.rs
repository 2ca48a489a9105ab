//! `powercut explore`.

use std::fs::{self, File};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::exit;
use super::junit::{Case, Report};
use super::recording::{self, Folder, RecordingError};
use super::serve_image::{device, device_of_marks, server};
use super::words::{between, describe};
use crate::cli::output::{is_whole, say};
use crate::cli::{complain, one_line};
use crate::powercut::explore::{Explorer, Moments, Outcome, Stage, StageDisk};
use crate::powercut::image::MarkDisk;
use crate::powercut::log::Log;
use crate::powercut::states::{ImageError, Range, State, Timeline};
use crate::vhost_user::{Devices, Error, Stop, raise_descriptor_limit};
use crate::virtio::block::Serial;

/// Requests that fit into a queue.
const QUEUE_SIZE: u16 = 1024;
/// What stands for the socket of the disk in a command.
const DISK: &str = "{disk}";
/// What stands for the socket of the disk of marks.
const MARKS: &str = "{marks}";

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
/// gives no verdict in time, or ends without one, has failed the state, and is started again.
///
/// Exit status: as that of 'powercut states'.
#[derive(Debug, Args)]
pub(super) struct ExploreArgs {
    /// What was written
    log: PathBuf,

    /// The image as it was before that
    #[arg(long, value_name = "BASE.raw")]
    base: PathBuf,

    /// Only states from behind this mark on
    #[arg(long, value_name = "MARK")]
    from: Option<String>,

    /// Only states up to this mark
    #[arg(long, value_name = "MARK")]
    to: Option<String>,

    /// No more than so many runs of the check for each moment of the log
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    budget: u64,

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

/// What came of all moments.
#[derive(Default)]
struct Total {
    moments: usize,
    runs: u64,
    failed: usize,
    /// Moments of which not all states are covered.
    open: usize,
}

impl AddAssign<&Outcome> for Total {
    fn add_assign(&mut self, outcome: &Outcome) {
        self.moments += 1;
        self.runs += outcome.runs;
        self.failed += usize::from(outcome.failure.is_some());
        self.open += usize::from(outcome.failure.is_none() && outcome.covered != Some(1.0));
    }
}

impl ExploreArgs {
    pub(super) fn run(&self) -> ExitCode {
        match self.explore() {
            Ok(0) if is_whole() => ExitCode::SUCCESS,
            Ok(0) => ExitCode::from(exit::BAD_INPUT),
            Ok(_) => ExitCode::from(exit::STATE_FAILED),
            Err(error) => {
                complain(format_args!("powercut: {}", one_line(&error)));
                ExitCode::from(error.status())
            }
        }
    }

    /// Explores the moments. Returns at how many of them a state failed.
    fn explore(&self) -> Result<usize, RecordingError> {
        let log = Arc::new(recording::open(&self.log, &self.base)?);
        let range = Range { from: self.from.clone(), to: self.to.clone() };
        let positions = range.positions(&log)?;
        let stage = Arc::new(self.stage(&log)?);
        let folder = Folder::new()?;
        let (disk, marks) = (folder.0.join("disk.sock"), folder.0.join("marks.sock"));
        let mut explorer = self.explorer(stage.clone(), &disk, &marks);
        let moments = Moments::new(&log, positions, self.with_marks);
        let served = Served::begin(&stage, &disk, &marks)?;
        let failed = self.explore_all(&log, moments, &mut explorer);
        // The check ends before its disks do.
        drop(explorer);
        served.end()?;
        failed
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

    fn explore_all(
        &self,
        log: &Log,
        mut moments: Moments<'_>,
        explorer: &mut Explorer,
    ) -> Result<usize, RecordingError> {
        let (mut total, mut cases) = (Total::default(), Vec::new());
        while let Some(undecided) = moments.advance()? {
            let begun = Instant::now();
            let outcome = explorer.explore(&moments, undecided.clone(), self.budget)?;
            let position = moments.timeline().point().position;
            say!("{}", summary(log, position, &outcome));
            let seconds = begun.elapsed().as_secs_f64();
            let failure = outcome.failure.as_ref().map(|(_, how)| how.clone());
            cases.push(Case { name: format!("p={position}"), seconds, failure });
            total += &outcome;
            if let Some((state, how)) = outcome.failure {
                let small = explorer.smallest(&moments, undecided, &state)?;
                self.report(log, &state, &how, &small);
            }
        }
        let Total { moments, runs, failed, open } = total;
        let rest = if open > 0 { format!(", {open} not covered") } else { String::new() };
        say!("exhaustive: {moments} moments in {runs} runs, {failed} failed{rest}");
        if let Some(path) = &self.junit {
            let report = Report { suite: "powercut exhaustive".into(), cases: &cases };
            let fails =
                |source| RecordingError::File { action: "write", path: path.clone(), source };
            fs::write(path, report.to_string()).map_err(fails)?;
        }
        Ok(failed)
    }

    fn report(&self, log: &Log, state: &State, how: &str, small: &State) {
        say!("FAILED {state}: {how}");
        say!("  {} makes the check fail", describe(log, small));
        say!(
            "  again: powercut states {} --base {} --state '{small}' --out bad.raw",
            self.log.display(),
            self.base.display()
        );
    }
}

/// What was covered of a moment, in words.
fn summary(log: &Log, position: usize, outcome: &Outcome) -> String {
    let Outcome { undecided, states_log2, runs, covered, failure } = outcome;
    let covered = match covered {
        _ if failure.is_some() => "a state failed".into(),
        None => "the check is not deterministic, random states were tried".into(),
        Some(1.0) => "all are covered".into(),
        Some(part) => format!("{:.3} % are covered", part * 100.0),
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

/// The two disks, while they are served.
struct Served {
    stops: Vec<Stop>,
    thread: thread::JoinHandle<Result<(), Error>>,
}

impl Served {
    fn begin(stage: &Arc<Stage>, disk: &Path, marks: &Path) -> Result<Served, Error> {
        raise_descriptor_limit();
        let fails = |source| Error::System { action: "cannot serve the disks", source };
        let stops = [Stop::new().map_err(fails)?, Stop::new().map_err(fails)?];
        let serial = |name| Serial::new(name).unwrap_or(Serial::from_uuid(uuid::Uuid::nil()));
        let (shown, queues) = StageDisk::open(stage.clone());
        let shown = device(&shown, serial("powercut"), 1, QUEUE_SIZE);
        let (told, mark_queues) = MarkDisk::open(stage.clone());
        let told = device_of_marks(&told, serial("marks"), QUEUE_SIZE);
        let servers = vec![
            server("disk", shown, queues, disk, stops[0].clone())?,
            server("marks", told, mark_queues, marks, stops[1].clone())?,
        ];
        let run = move || Devices::of(servers).run();
        let thread = thread::Builder::new().name("disks".into()).spawn(run).map_err(fails)?;
        Ok(Served { stops: stops.into(), thread })
    }

    fn end(self) -> Result<(), Error> {
        self.stops.iter().for_each(Stop::stop);
        self.thread.join().unwrap_or(Ok(()))
    }
}
