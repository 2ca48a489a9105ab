//! A thread that fills the page tables of a disk's medium, and has its memory mapped by huge pages.
//!
//! After a start, the guest's first access to each page would fault. The thread goes through the medium once
//! and enters what is in memory into the page tables ([`Pages`]). Then it goes through it again and again, if
//! the kernel has huge pages for the file, because a disk that fills up gets more of them.
//!
//! It takes at most half of a CPU's time in the first pass, a quarter in the passes that collapse, and a
//! twentieth over the pauses between these. It stops after the part of 2 MiB that it has in hand.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{debug, info};
use nix::errno::Errno;

use super::control::PagesReport;
use crate::pmem::{Collapse, Pages};
use crate::sandbox::{ThreadKind, enter_thread};

/// The shortest pause between two passes.
const PAUSE: Duration = Duration::from_secs(10);
/// A pause is at least this many times as long as the pass before it.
const PAUSE_FACTOR: u32 = 5;
/// Work is interrupted for a rest once it has taken so long.
const STRETCH: Duration = Duration::from_millis(5);
/// How many refusals show that the kernel has no huge pages for a file, if it has given none.
const MOST_REFUSALS: u32 = 4;

/// The page tables of a disk that is served.
#[derive(Debug)]
pub(super) struct PageTables {
    /// What the log calls the disk.
    log_name: String,
    wants_huge: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Those that no thread has begun to fill.
    pages: Option<Pages>,
    is_over: bool,
    report: PagesReport,
    /// There is something to report: the medium is a page cache.
    has_report: bool,
}

/// The thread at work, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Filling {
    tables: Arc<PageTables>,
    thread: Option<JoinHandle<()>>,
}

/// What a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Page table entries.
    Fill,
    /// Huge pages.
    Collapse,
}

/// Why a pass has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The whole medium was gone through.
    Through,
    /// The kernel cannot do it for this file.
    Refused(Errno),
    /// The disk is not served any more, or has been given another medium.
    Over,
}

impl PageTables {
    /// Those of `pages`, of the disk whose log name is `log_name`.
    pub(super) fn new(log_name: String, pages: Option<Pages>, wants_huge: bool) -> PageTables {
        let has_report = pages.is_some();
        let state = State { pages, is_over: false, report: PagesReport::default(), has_report };
        PageTables { log_name, wants_huge, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The disk has been given another medium.
    pub(super) fn are_of(&self, pages: Option<Pages>) {
        let mut state = self.state();
        state.has_report = pages.is_some();
        state.pages = pages;
        state.report = PagesReport::default();
        self.changed.notify_all();
    }

    /// What has been done. `None`: there is nothing to do.
    pub(super) fn report(&self) -> Option<PagesReport> {
        let state = self.state();
        state.has_report.then_some(state.report)
    }

    /// Begins to fill them in a thread of their own. `None`: there is nothing to fill, or no thread to be had.
    pub(super) fn fill(self: Arc<PageTables>) -> Option<Filling> {
        self.state().pages.as_ref()?;
        let tables = self.clone();
        let run = move || {
            enter_thread(ThreadKind::Pages);
            tables.run();
        };
        match thread::Builder::new().name("pages".into()).spawn(run) {
            Ok(thread) => Some(Filling { tables: self, thread: Some(thread) }),
            Err(error) => {
                info!("{}: page tables are not filled ahead: {error}", self.log_name);
                None
            }
        }
    }

    /// Fills the page tables of one medium after another, until it is over.
    fn run(&self) {
        while let Some(pages) = self.next_pages() {
            self.go_through(&pages);
        }
    }

    /// Waits for page tables to fill. `None`: it is over.
    fn next_pages(&self) -> Option<Pages> {
        let mut state = self.state();
        loop {
            if state.is_over {
                return None;
            }
            if let Some(pages) = state.pages.take() {
                return Some(pages);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fills the page tables of a medium, and collapses them for as long as that is of use.
    fn go_through(&self, pages: &Pages) {
        let begun = Instant::now();
        match self.pass(pages, Aim::Fill) {
            End::Through => {
                let (filled, taken) = (self.state().report.filled, begun.elapsed());
                info!("{}: {} MiB of it are in memory and mapped", self.log_name, filled >> 20);
                debug!("{}: page tables were filled in {taken:?}", self.log_name);
            }
            End::Refused(errno) => {
                info!("{}: the kernel does not fill page tables ahead: {errno}", self.log_name);
            }
            End::Over => return,
        }
        let mut known = 0;
        while self.wants_huge && pages.is_mapped() {
            let begun = Instant::now();
            match self.pass(pages, Aim::Collapse) {
                End::Through => {}
                End::Refused(errno) => {
                    info!("{}: no pages of 2 MiB for this file: {errno}", self.log_name);
                    return;
                }
                End::Over => return,
            }
            let huge = self.state().report.huge;
            if known == 0 && huge > 0 {
                info!("{}: {} MiB of it are mapped by pages of 2 MiB", self.log_name, huge >> 20);
            }
            known = huge;
            if self.is_over_after(PAUSE.max(begun.elapsed() * PAUSE_FACTOR)) {
                return;
            }
        }
    }

    /// Goes through a medium once.
    fn pass(&self, pages: &Pages, aim: Aim) -> End {
        let (mut offset, mut bytes, mut refusals) = (0, 0, 0);
        let mut begun = Instant::now();
        while let Some(part) = pages.next_part(offset) {
            offset = part.end;
            let is_huge = pages.is_huge(&part);
            let Some(resident) = pages.resident(part) else { return End::Over };
            match aim {
                Aim::Fill => match resident.populate() {
                    Ok(()) => bytes += resident.bytes(),
                    Err(errno @ (Errno::EINVAL | Errno::ENOSYS)) => return End::Refused(errno),
                    Err(errno) => debug!("{}: page tables at {offset}: {errno}", self.log_name),
                },
                Aim::Collapse if !is_huge => {}
                Aim::Collapse => match resident.collapse() {
                    Collapse::Huge => bytes += resident.bytes(),
                    Collapse::NotNow => {}
                    Collapse::Refused(errno) => {
                        refusals += 1;
                        if bytes == 0 && refusals == MOST_REFUSALS {
                            return End::Refused(errno);
                        }
                    }
                },
            }
            // The mapping is not to be kept during a rest.
            drop(resident);
            if self.is_over_after(rest(aim, &mut begun)) {
                return End::Over;
            }
        }
        if !pages.is_mapped() {
            return End::Over;
        }
        self.note(aim, bytes);
        End::Through
    }

    /// Notes how many bytes a pass has come to.
    fn note(&self, aim: Aim, bytes: u64) {
        let mut state = self.state();
        // The figures would be those of another medium.
        if state.pages.is_some() {
            return;
        }
        state.report.passes += 1;
        match aim {
            Aim::Fill => state.report.filled = bytes,
            Aim::Collapse => state.report.huge = bytes,
        }
    }

    /// Waits for `time`. Returns whether there is no more to do for the medium.
    fn is_over_after(&self, time: Duration) -> bool {
        let state = self.state();
        let goes_on = |state: &mut State| !state.is_over && state.pages.is_none();
        if time.is_zero() {
            return state.is_over || state.pages.is_some();
        }
        let waited = self.changed.wait_timeout_while(state, time, goes_on);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_over || state.pages.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to rest after the work that was `begun`, which begins anew after the rest.
fn rest(aim: Aim, begun: &mut Instant) -> Duration {
    let worked = begun.elapsed();
    if worked < STRETCH {
        return Duration::ZERO;
    }
    let rest = match aim {
        Aim::Fill => worked,
        Aim::Collapse => worked * 3,
    };
    *begun = Instant::now() + rest;
    rest
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.tables.state().is_over = true;
        self.tables.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}
