//! Progress bars, which are shown on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts bytes, on standard error; finished and taken away when dropped.
pub(super) struct Progress {
    bar: ProgressBar,
}

/// The template while the number of bytes is unknown.
const WITHOUT_TOTAL: &str = "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}";
const WITH_TOTAL: &str =
    "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constant, and were tried")
}

impl Progress {
    /// A bar for `total` bytes of `what`; `None`: their number is unknown, or not known yet.
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Progress {
        let bar = ProgressBar::no_length().with_style(style(WITHOUT_TOTAL)).with_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        let progress = Progress { bar };
        if let Some(total) = total {
            progress.set(0, total);
        }
        progress
    }

    /// `done` of `total` bytes are done.
    pub(super) fn set(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_style(style(WITH_TOTAL));
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    /// What is done is `what` from now on.
    pub(super) fn say(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// `bytes` more are done.
    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
