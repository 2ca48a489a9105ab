//! `powercut mark`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::complain;
use crate::powercut::image::send_mark;

/// Sets a mark in a recording
///
/// A mark is in the log behind all that was flushed before it was set: a mark that is set after an fsync has returned
/// says of every later state that the file is there.
#[derive(Debug, Args)]
pub(super) struct MarkArgs {
    /// The socket that 'powercut serve --image' got with --control
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The text
    text: String,
}

impl MarkArgs {
    pub(super) fn run(&self) -> ExitCode {
        match send_mark(&self.control, &self.text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(format_args!("powercut: {}: {error}", self.control.display()));
                ExitCode::FAILURE
            }
        }
    }
}
