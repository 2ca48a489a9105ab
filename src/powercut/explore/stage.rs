//! The run that is going on: the disk that the check sees, what it has read, and its verdict.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::image::Marks;
use super::super::log::Log;
use super::super::states::{Content, Tear, Verdict};
use super::search::Undecided;

/// A run of the check.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Sectors whose content is certain, and not as in the base image.
    pub durable: Arc<HashMap<u64, Content>>,
    /// All others.
    pub undecided: Arc<Undecided>,
    /// What a sector has; the newest version where nothing is said.
    pub fixed: BTreeMap<u64, Content>,
    /// A sector that is torn, what it held before, and how it is torn.
    pub torn: Option<(u64, Content, Tear)>,
    /// The marks that were set by then.
    pub marks: Arc<Vec<String>>,
}

/// How far the check is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// There is no run for it.
    Idle,
    /// A run waits for the check to ask for it.
    Offered,
    /// The check is looking at the disk.
    Running,
    /// It has said what it thinks of it.
    Judged(Verdict),
    /// There will be no other run.
    Ended,
    /// The check has asked for one all the same, and knows.
    Told,
}

#[derive(Debug)]
struct State {
    run: Run,
    phase: Phase,
    /// The undecided sectors that were read, in order.
    read: Vec<u64>,
    is_read: HashSet<u64>,
    /// What the check has written.
    written: HashMap<u64, Vec<u8>>,
}

/// What the disk and the disk of marks show, and what comes of it.
#[derive(Debug)]
pub struct Stage {
    log: Arc<Log>,
    base: File,
    sectors: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Stage {
    /// Shows states of a disk that was `base`, of `sectors` sectors, before `log`.
    #[must_use]
    pub fn new(log: Arc<Log>, base: File, sectors: u64) -> Stage {
        let state = State {
            run: Run::default(),
            phase: Phase::Idle,
            read: Vec::new(),
            is_read: HashSet::new(),
            written: HashMap::new(),
        };
        Stage { log, base, sectors, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Number of sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Bytes of a sector.
    #[must_use]
    pub fn sector_size(&self) -> u32 {
        self.log.sector_size()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows `run`. If it `has_begun`, the check need not ask for it.
    pub fn offer(&self, run: Run, has_begun: bool) {
        let mut state = self.state();
        state.run = run;
        state.phase = if has_begun { Phase::Running } else { Phase::Offered };
        state.read.clear();
        state.is_read.clear();
        state.written.clear();
        self.changed.notify_all();
    }

    /// Returns whether the check has asked for the run.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.state().phase != Phase::Offered
    }

    /// The verdict of the run, if there is one within `patience`.
    #[must_use]
    pub fn verdict(&self, patience: Duration) -> Option<Verdict> {
        let is_open = |state: &mut State| !matches!(state.phase, Phase::Judged(_));
        let waited = self.changed.wait_timeout_while(self.state(), patience, is_open);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.phase {
            Phase::Judged(verdict) => Some(verdict.clone()),
            _ => None,
        }
    }

    /// Ends the run. Returns the undecided sectors that it has read, in order.
    #[must_use]
    pub fn close(&self) -> Vec<u64> {
        let mut state = self.state();
        state.phase = Phase::Idle;
        std::mem::take(&mut state.read)
    }

    /// There is no other run: a check that asks for one gets an error.
    pub fn end(&self) {
        self.state().phase = Phase::Ended;
        self.changed.notify_all();
    }

    /// Returns whether the check knows within `patience` that there is no other run.
    #[must_use]
    pub fn has_told(&self, patience: Duration) -> bool {
        let is_open = |state: &mut State| state.phase != Phase::Told;
        let waited = self.changed.wait_timeout_while(self.state(), patience, is_open);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.phase == Phase::Told
    }

    /// Reads whole sectors as they are in this run.
    ///
    /// # Errors
    ///
    /// The base image or the log cannot be read.
    pub fn read(&self, first: u64, into: &mut [u8]) -> io::Result<()> {
        let size = self.sector_size() as usize;
        let mut state = self.state();
        for (sector, bytes) in (first..).zip(into.chunks_mut(size)) {
            if let Some(written) = state.written.get(&sector) {
                bytes.copy_from_slice(written);
            } else {
                self.read_content(sector, state.decide(sector), bytes)?;
                self.tear(&state.run, sector, bytes)?;
            }
        }
        Ok(())
    }

    /// Makes of `bytes`, which `sector` holds, what is left of them if it is torn.
    fn tear(&self, run: &Run, sector: u64, bytes: &mut [u8]) -> io::Result<()> {
        let torn = run.torn.filter(|(torn, ..)| *torn == sector);
        let Some((_, before, tear)) = torn else { return Ok(()) };
        let new = bytes.to_vec();
        self.read_content(sector, before, bytes)?;
        tear.apply(bytes, &new);
        Ok(())
    }

    fn read_content(&self, sector: u64, content: Content, into: &mut [u8]) -> io::Result<()> {
        match content {
            Content::Base => self.base.read_exact_at(into, sector * into.len() as u64),
            Content::Written { entry, index } => {
                let entry = &self.log.entries()[entry];
                self.log.read_sector(entry, index, into).map_err(io::Error::other)
            }
        }
    }

    /// Keeps whole sectors that the check writes, until the next run.
    pub fn write(&self, first: u64, bytes: &[u8]) {
        let mut state = self.state();
        for (sector, bytes) in (first..).zip(bytes.chunks(self.sector_size() as usize)) {
            state.written.insert(sector, bytes.to_vec());
        }
    }

    /// The check asks for a run: waits until there is one.
    fn begin(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.phase == Phase::Running {
            self.judge(
                &mut state,
                Verdict::Failed("it asked for the next state without a verdict".into()),
            );
        }
        let is_early =
            |state: &mut State| !matches!(state.phase, Phase::Offered | Phase::Ended | Phase::Told);
        let mut state =
            self.changed.wait_while(state, is_early).unwrap_or_else(PoisonError::into_inner);
        if state.phase != Phase::Offered {
            state.phase = Phase::Told;
            self.changed.notify_all();
            return Err(io::Error::other("all states are checked"));
        }
        state.phase = Phase::Running;
        // What was read before is no part of the check.
        state.read.clear();
        state.is_read.clear();
        Ok(())
    }

    fn judge(&self, state: &mut State, verdict: Verdict) {
        if state.phase == Phase::Running {
            state.phase = Phase::Judged(verdict);
            self.changed.notify_all();
        }
    }
}

impl State {
    /// What a sector holds in this run; from here on it is decided.
    fn decide(&mut self, sector: u64) -> Content {
        let Some(versions) = self.run.undecided.get(&sector) else {
            return self.run.durable.get(&sector).copied().unwrap_or(Content::Base);
        };
        if self.phase == Phase::Running && self.is_read.insert(sector) {
            self.read.push(sector);
        }
        self.run.fixed.get(&sector).or(versions.first()).copied().unwrap_or(Content::Base)
    }
}

impl Marks for Stage {
    /// `NEXT` asks for a state; `PASS`, or `FAIL` with a reason, is the verdict on it.
    fn set(&self, text: &str) -> io::Result<()> {
        let (word, reason) = text.split_once(' ').unwrap_or((text, ""));
        let verdict = match word {
            "NEXT" => return self.begin(),
            "PASS" => Verdict::Passed,
            "FAIL" => Verdict::Failed(format!("FAIL {reason}").trim().to_owned()),
            _ => return Ok(()),
        };
        self.judge(&mut self.state(), verdict);
        Ok(())
    }

    /// The marks that were set by then, one a line, followed by zeroes.
    fn read(&self, offset: u64, into: &mut [u8]) {
        let text: String =
            self.state().run.marks.iter().flat_map(|mark| [mark.as_str(), "\n"]).collect();
        let rest = text.as_bytes().get(usize::try_from(offset).unwrap_or(usize::MAX)..);
        let rest = rest.unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        into[length..].fill(0);
    }
}
