//! The two programs' command lines: from arguments to validated configuration, and from results to
//! text, JSON, progress bars and exit codes.

#![forbid(unsafe_code)]

mod arguments;
pub mod daemon;
mod disk;
mod escape;
mod human;
#[cfg(feature = "power-fail")]
mod injection;
mod key_value;
mod logging;
mod name;
pub mod nvdimmctl;
mod output;
mod progress;
mod rate;
pub mod service;
mod signals;
mod size;
mod window;
mod xml;

pub use crate::error_chain::in_one_line as one_line;
pub use arguments::parse;
pub use logging::LogLevel;
pub use output::{complain, print_document};
pub use signals::{StopSignals, outlive_file_size_limit};
pub use size::{Size, SizeError};
