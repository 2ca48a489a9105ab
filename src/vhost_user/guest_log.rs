//! Rate-limited logging of messages that a guest or a frontend can cause.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, log, warn};

/// Lines in [`WINDOW`].
const LINES: u32 = 20;
/// The time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// A log whose lines begin with a name, limited in rate.
#[derive(Debug)]
pub(super) struct LimitedLog {
    name: Arc<str>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    lines: u32,
}

impl LimitedLog {
    /// The log of what is called `name`.
    pub(super) fn new(name: impl Into<Arc<str>>) -> LimitedLog {
        let window = Mutex::new(Window { begun: Instant::now(), lines: 0 });
        LimitedLog { name: name.into(), window }
    }

    /// What its lines begin with.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Logs `message`, unless there were too many before it.
    pub(super) fn line(&self, level: Level, message: &dyn Display) {
        if self.counts(Instant::now()) {
            log!(level, "{}: {message}", self.name);
        }
    }

    /// Counts a line at `now`. Returns whether it is to be written.
    fn counts(&self, now: Instant) -> bool {
        let mut window = self.window();
        self.renew(&mut window, now);
        window.lines = window.lines.saturating_add(1);
        window.lines <= LINES
    }

    /// Begins a new window if the last is over, and says how many lines were left out of it.
    fn renew(&self, window: &mut Window, now: Instant) -> u32 {
        if now.duration_since(window.begun) < WINDOW {
            return 0;
        }
        let left_out = window.lines.saturating_sub(LINES);
        if left_out > 0 {
            warn!("{}: {left_out} similar lines were left out", self.name);
        }
        *window = Window { begun: now, lines: 0 };
        left_out
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Its fields are whole by themselves.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_counted_and_left_out() {
        let log = LimitedLog::new("disk");
        let begun = log.window().begun;
        let written = (0..1000).filter(|_| log.counts(begun)).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(log.renew(&mut log.window(), begun + WINDOW / 2), 0);
        assert_eq!(log.renew(&mut log.window(), begun + WINDOW), 1000 - LINES);
        assert!(log.counts(begun + WINDOW));
        assert_eq!(log.renew(&mut log.window(), begun + 2 * WINDOW), 0);
    }
}
