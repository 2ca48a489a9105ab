//! The programs' command lines: from arguments to validated configuration, and from results to
//! text, JSON, progress bars and exit codes.

#![forbid(unsafe_code)]

mod arguments;
pub mod daemon;
mod disk;
mod escape;
mod human;
pub mod keeper;
mod key_value;
mod logging;
mod name;
pub mod nvdimmctl;
mod output;
pub mod powercut;
mod progress;
mod rate;
mod sandbox;
mod service;
mod serving;
mod signals;
mod size;
mod window;
mod xml;

pub use crate::error_chain::in_one_line as one_line;
pub use arguments::parse;
pub use keeper::keep_devices;
pub use logging::LogLevel;
pub use output::{complain, print_document};
pub use serving::serve_devices;
pub use signals::outlive_file_size_limit;
pub use size::{Size, SizeError};
