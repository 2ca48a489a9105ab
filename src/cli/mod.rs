//! The two programs' command lines: from arguments to validated configuration, and from results to
//! text, JSON, progress bars and exit codes.

#![forbid(unsafe_code)]

pub mod daemon;
mod disk;
#[cfg(feature = "power-fail")]
mod injection;
mod key_value;
mod logging;
mod name;
pub mod nvdimmctl;
mod output;
mod progress;
mod size;
mod window;
mod xml;

pub use logging::LogLevel;
pub use size::{Size, SizeError};

use std::error::Error;

/// An error and what caused it, on one line.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A message that is wholly its cause's says nothing more.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
