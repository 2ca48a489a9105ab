//! The command line of `powercut`.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::serve::ServeArgs;

/// Tests what guests make of power failures.
#[derive(Debug, Parser)]
#[command(name = "powercut", version, max_term_width = 100)]
pub struct PowercutArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<ServeArgs>),
}

impl PowercutArgs {
    /// Does what the command says.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => args.run(),
        }
    }
}
