//! Logging: which messages go to standard error, and how they look.

use std::io::{self, Write as _};

use clap::ValueEnum;
use log::{Level, LevelFilter};

use super::escape::OneLine;

/// Which log lines are shown (`--log-level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogLevel {
    /// None.
    Off,
    /// Failures.
    Error,
    /// And what is suspicious.
    Warn,
    /// And events: start, connections, recovery.
    #[default]
    Info,
    /// And details for debugging.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Sends log lines of this level and above to standard error, each on one line, without control characters.
    pub fn start_logging(self) {
        let filter = match self {
            LogLevel::Off => LevelFilter::Off,
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
            LogLevel::Trace => LevelFilter::Trace,
        };
        let is_journal = goes_to_journal();
        env_logger::Builder::new()
            .filter_level(LevelFilter::Trace)
            .format(move |line, record| {
                let (time, level) = (line.timestamp(), record.level());
                let message = record.args().to_string();
                if is_journal {
                    // The journal has the time.
                    writeln!(line, "<{}>{}", priority(level), OneLine(&message))
                } else {
                    writeln!(line, "[{time} {level:<5}] {}", OneLine(&message))
                }
            })
            .init();
        // The level that can be changed later.
        log::set_max_level(filter);
    }
}

/// The priority that a line has in the journal (`sd-daemon(3)`, `syslog(3)`).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Returns whether standard error is a stream of the journal: the service manager names its device and inode
/// (`systemd.exec(5)`).
fn goes_to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stream) = rustix::fs::fstat(io::stderr()) else { return false };
    named == format!("{}:{}", stream.st_dev, stream.st_ino)
}
