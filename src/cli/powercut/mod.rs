//! The command line of `powercut`.

mod exhaustive;
mod exit;
mod explore;
mod guest;
mod junit;
mod mark;
mod recording;
mod results;
mod serve;
mod serve_image;
mod show;
mod shown;
mod states;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::explore::ExploreArgs;
use self::guest::GuestArgs;
use self::mark::MarkArgs;
use self::serve::ServeArgs;
use self::show::ShowArgs;
use self::states::StatesArgs;

pub(super) use self::serve_image::DiskOptions;

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
    Mark(MarkArgs),
    States(Box<StatesArgs>),
    Explore(Box<ExploreArgs>),
    Show(ShowArgs),
    Guest(GuestArgs),
}

impl PowercutArgs {
    /// Does what the command says.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => args.run(),
            Command::Mark(args) => args.run(),
            Command::States(args) => args.run(),
            Command::Explore(args) => args.run(),
            Command::Show(args) => args.run(),
            Command::Guest(args) => args.run(),
        }
    }
}
