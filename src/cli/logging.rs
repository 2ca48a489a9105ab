//! Logging: which messages go to standard error, and how they look.

use std::io::Write as _;

use clap::ValueEnum;
use log::LevelFilter;

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
        env_logger::Builder::new()
            .filter_level(LevelFilter::Trace)
            .format(|line, record| {
                let (time, level) = (line.timestamp(), record.level());
                let message = record.args().to_string();
                writeln!(line, "[{time} {level:<5}] {}", OneLine(&message))
            })
            .init();
        // The level that can be changed later.
        log::set_max_level(filter);
    }
}
