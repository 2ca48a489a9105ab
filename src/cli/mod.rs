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

pub use crate::error_chain::in_one_line as one_line;
pub use logging::LogLevel;
pub use size::{Size, SizeError};
