//! The command line of `nvdimmctl`, in the words of ndctl.

mod check;
mod contents;
mod create_file;
mod create_namespace;
mod dax;
mod destroy_namespace;
mod export;
mod grow_namespace;
mod import;
mod inspect;
mod list;
mod listing;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::logging::LogLevel;
use super::{one_line, output};
use crate::btt::NamespaceError;
use crate::nvdimm;

/// Makes, shows, checks and destroys the namespaces of NVDIMM files.
///
/// Every command takes the file it works on. A namespace that somebody else holds, a daemon or another
/// nvdimmctl, is busy; 'list' says who.
#[derive(Debug, Parser)]
#[command(name = "nvdimmctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct ToolArgs {
    #[command(subcommand)]
    command: Command,

    /// Which messages are shown on standard error
    #[arg(long, value_name = "LEVEL", default_value = "warn", global = true)]
    log_level: LogLevel,
}

const EXIT_CODES: &str =
    "Exit status: 0 done, 1 failed, 2 wrong usage; check-namespace has its own.";

#[derive(Debug, Subcommand)]
enum Command {
    Create(create_file::CreateFile),
    InitLabels(create_file::InitLabels),
    CreateNamespace(create_namespace::CreateNamespace),
    DestroyNamespace(destroy_namespace::DestroyNamespace),
    RenameNamespace(destroy_namespace::RenameNamespace),
    GrowNamespace(grow_namespace::GrowNamespace),
    List(list::List),
    Inspect(inspect::Inspect),
    CheckNamespace(check::CheckNamespace),
    Import(import::Import),
    Export(export::Export),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or the claim.
    #[error(transparent)]
    Nvdimm(#[from] nvdimm::Error),
    /// The namespace, or the BTT in it.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Reading or writing sectors.
    #[error("{path}: {source}")]
    Sectors {
        /// The file.
        path: PathBuf,
        /// What is wrong; part of the message.
        source: crate::btt::Error,
    },
    /// The other side of an import or export, or standard output.
    #[error("cannot {action}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// What is imported does not fit.
    #[error("the input is larger than the disk, which has {size} bytes")]
    InputTooLarge {
        /// Bytes of the disk.
        size: u64,
    },
    /// A repair is to be taken back, and something else was written since.
    #[error(
        "{path}: byte {offset:#x} of the namespace was written to since the repair: what was there \
         before it does not fit any more, and is not put back"
    )]
    ChangedSince {
        /// The file.
        path: PathBuf,
        /// The first such byte.
        offset: u64,
    },
    /// A file that is no backup of this namespace.
    #[error("{path}, line {line}: {reason}")]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Options that make no sense together, or for this file.
    #[error("{0} (see --help)")]
    Usage(&'static str),
    /// A size that no file can usefully have.
    #[error("{size} bytes: {reason}")]
    BadSize {
        /// The size.
        size: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl ToolArgs {
    /// Carries the command out, and says what became of it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.log_level.start_logging();
        let done = match self.command {
            Command::CheckNamespace(command) => {
                let verdict = command.run().unwrap_or_else(|error| could_not_check(&error));
                return if output::is_whole() { verdict } else { ExitCode::from(NOT_CHECKED) };
            }
            Command::Create(command) => command.run(),
            Command::InitLabels(command) => command.run(),
            Command::CreateNamespace(command) => command.run(),
            Command::DestroyNamespace(command) => command.run(),
            Command::RenameNamespace(command) => command.run(),
            Command::GrowNamespace(command) => command.run(),
            Command::List(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Import(command) => command.run(),
            Command::Export(command) => command.run(),
        };
        match done {
            Ok(()) if output::is_whole() => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
            Err(error) => {
                complain(&error);
                match error {
                    Error::Usage(_) => ExitCode::from(2),
                    _ => ExitCode::FAILURE,
                }
            }
        }
    }
}

fn complain(error: &Error) {
    eprintln!("nvdimmctl: {}", one_line(error));
}

/// Exit status of a check that could not be made, as of fsck.
const NOT_CHECKED: u8 = 8;

fn could_not_check(error: &Error) -> ExitCode {
    complain(error);
    ExitCode::from(NOT_CHECKED)
}

/// Readable JSON.
fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Error::Io { action: "write JSON", source: error.into() })
}

/// The error of an input or output operation.
fn io_error(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}
