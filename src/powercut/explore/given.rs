//! States that a model has chosen, for a check that looks at one after another.

use super::super::log::Log;
use super::super::states::{State, Timeline, Verdict};
use super::explorer::{ExploreError, Explorer};

/// A check, and where it stands in the log.
pub struct Given<'l> {
    explorer: Explorer,
    log: &'l Log,
    ignores_flushes: bool,
    timeline: Timeline<'l>,
}

impl<'l> Given<'l> {
    /// Has `explorer` check states of `log`. `ignores_flushes`: in these, flushes have made nothing durable.
    #[must_use]
    pub fn new(explorer: Explorer, log: &'l Log, ignores_flushes: bool) -> Given<'l> {
        Given { explorer, log, ignores_flushes, timeline: Timeline::new(log, ignores_flushes) }
    }

    /// Has `state` checked.
    ///
    /// # Errors
    ///
    /// The check cannot be run, or the log cannot be read.
    pub fn check(&mut self, state: &State) -> Result<Verdict, ExploreError> {
        self.go_to(state.position)?;
        self.explorer.check(&self.timeline, state)
    }

    /// The smallest state that fails like `state`.
    ///
    /// # Errors
    ///
    /// As those of [`check`](Self::check).
    pub fn smallest(&mut self, state: &State) -> Result<State, ExploreError> {
        self.go_to(state.position)?;
        self.explorer.smallest(&self.timeline, state)
    }

    fn go_to(&mut self, position: usize) -> Result<(), ExploreError> {
        if position < self.timeline.point().position {
            self.timeline = Timeline::new(self.log, self.ignores_flushes);
        }
        while self.timeline.point().position < position && self.timeline.advance()?.is_some() {}
        Ok(())
    }
}
