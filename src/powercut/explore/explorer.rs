//! Runs the check on one state of a moment after another.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::super::log::LogError;
use super::super::states::{
    Choice, Content, Parts, Pending, Piece, Sectors, State, Timeline, Verdict,
};
use super::moments::Moments;
use super::search::{Search, Undecided};
use super::stage::{Run, Stage};
use crate::pmem::cache_model::Random;

/// How often it is noticed that the command has ended.
const PAUSE: Duration = Duration::from_millis(20);
/// Random states that are tried when the check is not deterministic.
const RANDOM_STATES: u64 = 32;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ExploreError {
    /// The command cannot be run.
    #[error("cannot run {program:?}")]
    CannotRun {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The command does not do its part.
    #[error("the command {what}: it has to write 'NEXT' to the disk of marks")]
    NeverAsked {
        /// What it did instead.
        what: &'static str,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Runs the check, which is one process for many states, or one for each.
pub struct Explorer {
    /// What the check sees.
    pub stage: Arc<Stage>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long the check may take to start, and for a state.
    pub limit: Duration,
    /// The command checks one state, and its exit status is the verdict.
    pub is_once: bool,
    /// Its output is shown.
    pub shows_output: bool,
    /// The process, while it runs.
    pub child: Option<Child>,
}

/// What came of a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Sectors that the check may see in several versions.
    pub undecided: usize,
    /// Logarithm to base 2 of the number of states.
    pub states_log2: f64,
    /// Runs of the check.
    pub runs: u64,
    /// The part of all states that they have covered; `None`: the check is not deterministic.
    pub covered: Option<f64>,
    /// The first state that has not passed. The search ends there.
    pub stopped: Option<(State, Verdict)>,
}

/// How much a search may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Runs of the check for each moment.
    pub runs: u64,
    /// When the last run begins.
    pub deadline: Option<Instant>,
}

impl Limits {
    /// Returns whether no run begins any more.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl Explorer {
    /// Searches the states of the moment where `moments` stands.
    ///
    /// # Errors
    ///
    /// The check cannot be run.
    pub fn explore(
        &mut self,
        moments: &Moments<'_>,
        undecided: Undecided,
        limits: Limits,
    ) -> Result<Outcome, ExploreError> {
        let timeline = moments.timeline();
        let run = Explorer::first_run(timeline, undecided);
        let undecided = run.undecided.clone();
        let states_log2 =
            undecided.values().map(|versions| f64::from(versions.len() as u32).log2()).sum();
        let mut outcome = Outcome {
            undecided: undecided.len(),
            states_log2,
            runs: 0,
            covered: Some(0.0),
            stopped: None,
        };
        let mut search = Search::new();
        while let Some(fixed) = search.next() {
            if outcome.runs >= limits.runs || limits.is_late() {
                break;
            }
            let fixed = contents(&undecided, &fixed);
            let (verdict, read) = self.run(Run { fixed: fixed.clone(), ..run.clone() })?;
            outcome.runs += 1;
            if verdict != Verdict::Passed {
                outcome.stopped = Some((state_of(timeline, &fixed), verdict));
                return Ok(outcome);
            }
            if search.learn(&read, &undecided).is_err() {
                outcome.covered = None;
                self.try_some(timeline, &run, &mut outcome)?;
                return Ok(outcome);
            }
            outcome.covered = Some(if search.is_finished() { 1.0 } else { search.covered() });
        }
        Ok(outcome)
    }

    fn first_run(timeline: &Timeline<'_>, undecided: Undecided) -> Run {
        Run {
            durable: Arc::new(timeline.point().all_durable().collect()),
            undecided: Arc::new(undecided),
            fixed: BTreeMap::new(),
            torn: None,
            marks: Arc::new(timeline.point().marks.clone()),
        }
    }

    /// Tries random states, for want of a search.
    fn try_some(
        &mut self,
        timeline: &Timeline<'_>,
        run: &Run,
        outcome: &mut Outcome,
    ) -> Result<(), ExploreError> {
        let mut random = Random::new(timeline.point().position as u64);
        for _ in 0..RANDOM_STATES {
            let any = |versions: &Vec<Content>| random.within(0..versions.len() as u64) as usize;
            let versions = run.undecided.values().map(any);
            let fixed: BTreeMap<u64, usize> = run.undecided.keys().copied().zip(versions).collect();
            let fixed = contents(&run.undecided, &fixed);
            let (verdict, _) = self.run(Run { fixed: fixed.clone(), ..run.clone() })?;
            outcome.runs += 1;
            if verdict != Verdict::Passed {
                outcome.stopped = Some((state_of(timeline, &fixed), verdict));
                break;
            }
        }
        Ok(())
    }

    /// Has `state` checked, of the point where `timeline` stands.
    ///
    /// # Errors
    ///
    /// The check cannot be run.
    pub fn check(
        &mut self,
        timeline: &Timeline<'_>,
        state: &State,
    ) -> Result<Verdict, ExploreError> {
        let Sectors { contents, torn } = state.choice.sectors(timeline);
        let run = Explorer::first_run(timeline, Undecided::new());
        let mut certain = HashMap::clone(&run.durable);
        certain.extend(contents);
        Ok(self.run(Run { durable: Arc::new(certain), torn, ..run })?.0)
    }

    /// The smallest state that fails like `state`, of the point where `timeline` stands.
    ///
    /// # Errors
    ///
    /// The check cannot be run.
    pub fn smallest(
        &mut self,
        timeline: &Timeline<'_>,
        state: &State,
    ) -> Result<State, ExploreError> {
        let Some(parts) = Parts::of(timeline, &state.choice) else { return Ok(state.clone()) };
        parts.reproducer(&mut |state| Ok(self.check(timeline, &state)?.is_failure()))
    }

    /// Has `run` checked. Returns the verdict, and the undecided sectors that were read, in order.
    fn run(&mut self, run: Run) -> Result<(Verdict, Vec<u64>), ExploreError> {
        self.stage.offer(run, self.is_once);
        self.start()?;
        let verdict = self.wait()?;
        if self.is_once {
            self.stop();
        }
        Ok((verdict, self.stage.close()))
    }

    fn wait(&mut self) -> Result<Verdict, ExploreError> {
        let (mut begun, mut has_begun) = (Instant::now(), false);
        loop {
            if let Some(verdict) = self.stage.verdict(PAUSE) {
                return Ok(verdict);
            }
            if !has_begun && self.stage.has_begun() {
                (begun, has_begun) = (Instant::now(), true);
            }
            if let Some(status) = self.ended() {
                self.child = None;
                // It may have given its verdict just before it ended.
                return match self.stage.verdict(Duration::ZERO) {
                    Some(verdict) => Ok(verdict),
                    None if self.is_once && status.success() => Ok(Verdict::Passed),
                    None if has_begun || self.stage.has_begun() => {
                        Ok(Verdict::Failed("the command has ended without a verdict".into()))
                    }
                    None => Err(ExploreError::NeverAsked {
                        what: "has ended and never asked for a state",
                    }),
                };
            }
            if begun.elapsed() > self.limit {
                self.stop();
                let limit = self.limit.as_secs();
                return if has_begun {
                    Ok(Verdict::Hung(format!("no verdict within {limit} seconds")))
                } else {
                    Err(ExploreError::NeverAsked { what: "has not asked for a state in time" })
                };
            }
        }
    }

    fn start(&mut self) -> Result<(), ExploreError> {
        if self.child.is_some() {
            return Ok(());
        }
        let mut words = self.command.iter();
        let program = words.next().cloned().unwrap_or_default();
        let output = || if self.shows_output { Stdio::inherit() } else { Stdio::null() };
        let child = Command::new(&program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .spawn();
        self.child = Some(child.map_err(|source| ExploreError::CannotRun { program, source })?);
        Ok(())
    }

    /// Returns whether the command is one that will ask for another state.
    fn is_asking(&mut self) -> bool {
        !self.is_once && self.child.is_some() && self.ended().is_none()
    }

    /// The exit status of the command, if it has ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Ends the command and all that it has started.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // It may have ended meanwhile, and is there until it is waited for.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }
}

impl Drop for Explorer {
    fn drop(&mut self) {
        self.stage.end();
        let begun = Instant::now();
        while self.is_asking() && begun.elapsed() < self.limit && !self.stage.has_told(PAUSE) {}
        self.stop();
    }
}

fn contents(undecided: &Undecided, numbers: &BTreeMap<u64, usize>) -> BTreeMap<u64, Content> {
    let content =
        |(sector, number): (&u64, &usize)| Some((*sector, *undecided.get(sector)?.get(*number)?));
    numbers.iter().filter_map(content).collect()
}

/// The state with these contents, and all else there that was written.
fn state_of(timeline: &Timeline<'_>, fixed: &BTreeMap<u64, Content>) -> State {
    let mut dropped = Vec::new();
    for (sector, content) in fixed {
        let versions = timeline.versions().get(sector).map(Vec::as_slice).unwrap_or_default();
        let newer = versions.iter().rev().take_while(|version| *version != content);
        dropped.extend(newer.filter_map(|version| match *version {
            Content::Written { entry, .. } => {
                Some(Piece::Sector(Pending { entry, sector: *sector }))
            }
            Content::Base => None,
        }));
    }
    State { position: timeline.point().position, choice: Choice::Drop(dropped) }
}
