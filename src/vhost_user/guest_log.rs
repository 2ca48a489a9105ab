//! Log lines that a guest can cause, kept to a rate that a log survives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, log, warn};

/// Lines per [`WINDOW`].
const LINES: u32 = 10;
/// The time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// The log of one queue.
#[derive(Debug)]
pub(super) struct GuestLog {
    title: Arc<str>,
    queue: usize,
    window: Instant,
    lines: u32,
}

impl GuestLog {
    /// The log of queue `queue` of the device that the log calls `title`.
    pub(super) fn new(title: Arc<str>, queue: usize) -> GuestLog {
        GuestLog { title, queue, window: Instant::now(), lines: 0 }
    }

    /// Logs `message`, unless there were too many before it.
    pub(super) fn line(&mut self, level: Level, message: &dyn std::fmt::Display) {
        self.turn_window(Instant::now());
        self.lines = self.lines.saturating_add(1);
        if self.lines <= LINES {
            log!(level, "{}: queue {}: {message}", self.title, self.queue);
        }
    }

    /// Begins a new window if the last is over, and says what was left out of it. Returns how much.
    fn turn_window(&mut self, now: Instant) -> u32 {
        if now.duration_since(self.window) < WINDOW {
            return 0;
        }
        let left_out = self.lines.saturating_sub(LINES);
        if left_out > 0 {
            let (title, queue) = (&self.title, self.queue);
            warn!("{title}: queue {queue}: {left_out} similar lines were left out");
        }
        self.window = now;
        self.lines = 0;
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_counted_and_left_out() {
        let mut log = GuestLog::new("disk".into(), 0);
        for _ in 0..1000 {
            log.line(Level::Warn, &"again");
        }
        assert_eq!(log.turn_window(log.window + WINDOW / 2), 0);
        assert_eq!(log.turn_window(log.window + WINDOW), 1000 - LINES);
        log.line(Level::Warn, &"once more");
        assert_eq!(log.turn_window(log.window + WINDOW), 0);
    }
}
