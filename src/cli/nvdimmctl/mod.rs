//! The command line of `nvdimmctl`, in the words of ndctl.

mod backup;
mod check;
mod check_labels;
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

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::logging::LogLevel;
use super::{one_line, output};
use crate::btt::NamespaceError;
use crate::dax::NamespaceError as NoRegion;
use crate::nvdimm;
use crate::vhost_user::control::ClientError;

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

    /// Ask the daemon that listens at PATH, and holds the namespace: for 'dax resize-device'
    #[arg(long, value_name = "PATH", global = true)]
    control: Option<PathBuf>,
}

const EXIT_CODES: &str = "Exit status: 0 done, 1 failed, 2 wrong usage; check-labels, check-namespace and dax check have their own.";

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
    CheckLabels(check_labels::CheckLabels),
    CheckNamespace(check::CheckNamespace),
    Import(import::Import),
    Export(export::Export),
    Dax(dax::Dax),
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
    /// The DAX region in a namespace.
    #[error(transparent)]
    Dax(#[from] NoRegion),
    /// A device that is not empty is to go, or a part of it.
    #[error(
        "{path}: device {device:?} holds data{}{place}; --force gives them up",
        if place.is_empty() { "" } else { " " }
    )]
    DeviceHoldsData {
        /// The file.
        path: PathBuf,
        /// The device.
        device: String,
        /// Where in it; empty: anywhere.
        place: &'static str,
    },
    /// Pages of an owner hold something.
    #[error("{path}: pages of owner {owner} hold data; --force gives them up")]
    PagesHoldData {
        /// The file.
        path: PathBuf,
        /// The owner.
        owner: uuid::Uuid,
    },
    /// A device of size 0.
    #[error("device {device:?} has no bytes yet: 'nvdimmctl dax resize-device' gives it some")]
    EmptyDevice {
        /// The device.
        device: String,
    },
    /// A frontend that maps whole files only.
    #[error(
        "cloud-hypervisor maps a file from its first byte on ('--pmem file=...' has no offset), and \
         device {device:?} begins at byte {offset}: serve it as a window ('vhost-user-btt --window'), \
         or copy it to a file of its own ('--format raw --output FILE')"
    )]
    NoOffset {
        /// The device.
        device: String,
        /// Its first byte in the file.
        offset: u64,
    },
    /// The daemon that was asked has not done it.
    #[error(transparent)]
    Control(#[from] ClientError),
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
    /// A namespace that is not to be found among those without a label.
    #[error(
        "{path}: nothing that has no label is of namespace {uuid}; 'check-labels' says what is"
    )]
    NoOrphan {
        /// The file.
        path: PathBuf,
        /// The namespace.
        uuid: uuid::Uuid,
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
        let is_check = self.command.is_check();
        let failure = || if is_check { ExitCode::from(NOT_CHECKED) } else { ExitCode::FAILURE };
        match self.command.run(self.control.as_deref()) {
            Ok(status) if output::is_whole() => status,
            Ok(_) => failure(),
            Err(error) => {
                eprintln!("nvdimmctl: {}", one_line(&error));
                match error {
                    Error::Usage(_) if !is_check => ExitCode::from(2),
                    _ => failure(),
                }
            }
        }
    }
}

impl Command {
    /// Whether the exit status is that of a check.
    fn is_check(&self) -> bool {
        match self {
            Command::CheckLabels(_) | Command::CheckNamespace(_) => true,
            Command::Dax(dax) => dax.is_check(),
            _ => false,
        }
    }

    fn run(self, control: Option<&Path>) -> Result<ExitCode, Error> {
        if control.is_some() && !matches!(&self, Command::Dax(dax) if dax.knows_control()) {
            return Err(Error::Usage("--control is for 'dax resize-device' alone"));
        }
        let done = match self {
            Command::CheckLabels(command) => return command.run(),
            Command::CheckNamespace(command) => return command.run(),
            Command::Dax(command) => return command.run(control),
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
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Exit status of a check: something was repaired, and nothing is wrong any more.
const REPAIRED: u8 = 1;
/// Exit status of a check: problems were found, and are still there.
const PROBLEMS_LEFT: u8 = 2;
/// Exit status of a check that could not be made, as of fsck.
const NOT_CHECKED: u8 = 8;

/// Readable JSON.
fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Error::Io { action: "write JSON", source: error.into() })
}

/// The error of an input or output operation.
fn io_error(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}
