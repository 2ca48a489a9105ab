//! The command line of `nvdimmctl`, in the words of ndctl.

mod administer;
mod backup;
mod check;
mod check_labels;
mod clone;
mod contents;
mod create_file;
mod create_namespace;
mod dax;
mod defragment;
mod destroy_namespace;
mod dimm;
mod export;
mod grow_namespace;
mod image;
mod import;
mod inspect;
mod json;
mod list;
mod listing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::logging::LogLevel;
use super::output::{self, remark};
use super::{escape, one_line};
use crate::amount::amount;
use crate::namespace::{CopyError, NamespaceError};
use crate::nvdimm::{self, Claim, Content};
use crate::pmem::{Mapping, MediaError};
use crate::vhost_user;
use crate::vhost_user::control::ClientError;

/// Makes, lists, checks and destroys the namespaces of NVDIMM files.
///
/// Every command takes the file that it works on. A namespace that another process holds, a daemon or another
/// nvdimmctl, is busy; 'list' names the process.
#[derive(Debug, Parser)]
#[command(name = "nvdimmctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct ToolArgs {
    #[command(subcommand)]
    command: Command,

    /// Which messages are shown on standard error
    #[arg(long, value_name = "LEVEL", default_value = "warn", global = true)]
    log_level: LogLevel,

    /// Send the command to the daemon that listens at PATH and holds the namespace (dax resize-device, defragment)
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
    Defragment(defragment::Defragment),
    Clone(clone::CloneNamespace),
    Dax(dax::Dax),
    #[command(flatten)]
    Ask(administer::DaemonCommand),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or the claim.
    #[error(transparent)]
    Nvdimm(#[from] nvdimm::Error),
    /// The namespace, or what is in it.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A device that is not empty is to go, or a part of it.
    #[error(
        "{path}: device {device:?} holds data{}{place}; --force discards them",
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
    #[error("{path}: pages of owner {owner} hold data; --force discards them")]
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
    /// A socket for a daemon.
    #[error(transparent)]
    Socket(Box<vhost_user::Error>),
    /// A copy of a namespace.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The daemon serves something else.
    #[error(
        "{path}: the daemon that was asked does not serve {namespace}: name its control socket, or leave --control \
         out if no process holds the namespace"
    )]
    NotServed {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
    },
    /// What was copied has changed meanwhile.
    #[error(
        "the device went on before it was copied: there is no copy; give the copy more time by --time-limit"
    )]
    WentOn {
        /// What the daemon says.
        source: ClientError,
    },
    /// Reading or writing sectors.
    #[error("{path}")]
    Sectors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
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
    /// There is nothing to import.
    #[error("the input is empty: nothing was imported")]
    EmptyInput,
    /// What is imported does not fit.
    #[error(
        "the input is larger than the disk, which has {size} bytes{}",
        if *written == 0 { String::new() } else { format!("; its first {written} were written over") }
    )]
    InputTooLarge {
        /// Bytes of the disk.
        size: u64,
        /// Bytes of the disk that were written before that was known.
        written: u64,
    },
    /// A device of a namespace that is held.
    #[error(
        "{busy}; a daemon with a control socket resizes the devices of the namespace that it holds: \
         'nvdimmctl --control PATH dax resize-device ...'"
    )]
    AskTheDaemon {
        /// The process that holds it.
        busy: NamespaceError,
    },
    /// A file that is to be made.
    #[error("cannot create {path}")]
    NewFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Sectors that cannot be read, in an export.
    #[error("{path}: cannot be read; with --skip-unreadable, what cannot be read becomes zeroes")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: crate::btt::Error,
    },
    /// A check that could not be made.
    #[error(
        "{path}: {namespace} could not be checked; that may pass, and says nothing of what the \
         namespace holds: check again when the file can be read; if it never can, --force takes what \
         cannot be read for lost"
    )]
    NotChecked {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What could not be read.
        source: MediaError,
    },
    /// An image that has to be converted, or unpacked, before it can be imported.
    #[error(
        "{image} is {content}, not the bytes of a disk: {advice}; --raw imports its bytes as they are"
    )]
    NotRaw {
        /// The image.
        image: String,
        /// What it is.
        content: Content,
        /// What to do.
        advice: String,
    },
    /// An image that was made for sectors of another size.
    #[error(
        "the image begins with {content}, which needs sectors of {needed} bytes, and those of {path} have \
         {sector_size}: a guest could not use it; make the namespace with '-l {needed}' \
         ('create-namespace -e NAMESPACE --force -l {needed}' makes it again, its data are lost), or import \
         with --force{}", served_with(*.needed, *.sector_size)
    )]
    UnfitImage {
        /// The NVDIMM file.
        path: PathBuf,
        /// What is in the image.
        content: Content,
        /// The size of sectors that it needs, in bytes.
        needed: u32,
        /// The size of the sectors of the disk, in bytes.
        sector_size: u32,
    },
    /// A drawing into a file that exists.
    #[error("{path} exists; --force replaces it")]
    DrawingExists {
        /// The file.
        path: PathBuf,
    },
    /// A drawing into the file that is drawn.
    #[error("{path} is the file that is inspected, and is not written over")]
    DrawingOverInput {
        /// The file.
        path: PathBuf,
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
        "{path}: no namespace without a label has the uuid {uuid}; 'check-labels' lists those that there are"
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
    /// A size that is not a multiple of what namespaces are aligned to.
    #[error(
        "{} is misaligned: not a multiple of {} ({by}); the sizes next to it are {} and {}",
        amount(*.size), amount(*.alignment), amount(.size / .alignment * .alignment),
        amount(.size.div_ceil(*.alignment).saturating_mul(*.alignment))
    )]
    MisalignedSize {
        /// The size.
        size: u64,
        /// What it has to be a multiple of.
        alignment: u64,
        /// What asks for that.
        by: &'static str,
    },
}

/// How a disk with sectors of `sector_size` bytes can be served for an image that needs `needed`.
fn served_with(needed: u32, sector_size: u32) -> String {
    if needed < sector_size {
        format!(" and have the daemon serve the disk with '--logical-block-size={needed}'")
    } else {
        String::new()
    }
}

impl ToolArgs {
    /// Carries the command out, and says what became of it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.log_level.start_logging();
        let (is_check, is_change) = (self.command.is_check(), self.command.is_change());
        let failure = || if is_check { ExitCode::from(NOT_CHECKED) } else { ExitCode::FAILURE };
        match self.command.run(self.control.as_deref()) {
            Ok(status) if output::is_whole() => status,
            // A caller that closed standard output wants no report. The change is made, so this is no error.
            Ok(status) if is_change && output::was_closed() => status,
            Ok(_) => failure(),
            Err(error) => {
                remark!("nvdimmctl: {}", one_line(&error));
                match error {
                    Error::Usage(_) if !is_check => ExitCode::from(2),
                    _ => failure(),
                }
            }
        }
    }
}

impl Command {
    /// Returns whether the exit status is that of a check.
    fn is_check(&self) -> bool {
        match self {
            Command::CheckLabels(_) | Command::CheckNamespace(_) => true,
            Command::Dax(dax) => dax.is_check(),
            _ => false,
        }
    }

    /// Returns whether it is carried out for what it changes, and not for what it prints.
    fn is_change(&self) -> bool {
        match self {
            Command::Create(_)
            | Command::InitLabels(_)
            | Command::CreateNamespace(_)
            | Command::DestroyNamespace(_)
            | Command::RenameNamespace(_)
            | Command::GrowNamespace(_)
            | Command::Defragment(_)
            | Command::Import(_)
            | Command::Clone(_) => true,
            Command::Dax(dax) => dax.is_change(),
            Command::Ask(asked) => asked.is_change(),
            Command::List(_)
            | Command::Inspect(_)
            | Command::CheckLabels(_)
            | Command::CheckNamespace(_)
            | Command::Export(_) => false,
        }
    }

    /// Returns whether a daemon can be asked to do it, and it can be done without one.
    fn knows_control(&self) -> bool {
        match self {
            Command::Dax(dax) => dax.knows_control(),
            Command::Clone(_) | Command::Defragment(_) => true,
            _ => false,
        }
    }

    fn run(mut self, control: Option<&Path>) -> Result<ExitCode, Error> {
        if let Command::Ask(command) = &self {
            let control =
                control.ok_or(Error::Usage("--control=PATH says which daemon is meant"))?;
            return command.run(control).map(|()| ExitCode::SUCCESS);
        }
        if control.is_some() && !self.knows_control() {
            return Err(Error::Usage("--control is for what a daemon is asked to do"));
        }
        match &mut self {
            Command::CheckNamespace(command) => command.place_namespace(),
            Command::GrowNamespace(command) => command.place_namespace(),
            Command::Inspect(command) => command.place_namespace(),
            Command::Defragment(command) => command.place_namespace(),
            _ => {}
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
            Command::Defragment(command) => command.run(control),
            Command::Clone(command) => command.run(control),
            // Answered above.
            Command::Ask(_) => Ok(()),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Exit status of a check: nothing was wrong.
const CLEAN: u8 = 0;
/// Exit status of a check: something was repaired, and nothing is wrong any more.
const REPAIRED: u8 = 1;
/// Exit status of a check: problems were found, and are still there.
const PROBLEMS_LEFT: u8 = 2;
/// Exit status of a check that could not be made, as of fsck.
const NOT_CHECKED: u8 = 8;

/// Refuses to take for damage what could not be read of a file: that may pass.
///
/// # Errors
///
/// A read of `medium` has failed.
fn refuse_unread(claim: &Claim, medium: &Mapping) -> Result<(), Error> {
    match medium.failed_read() {
        Some(source) => {
            let (path, namespace) = (claim.path().into(), claim.namespace().device_name());
            Err(Error::NotChecked { path, namespace, source })
        }
        None => Ok(()),
    }
}

/// Prints a value as readable JSON.
fn say_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Io { action: "write JSON", source: error.into() })?;
    output::document(&escape::json(&json));
    Ok(())
}

/// Writes a path to JSON, which has text only: bytes that are not UTF-8 become U+FFFD.
fn path_to_json<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// Writes a path, or `null`, to JSON, as [`path_to_json`].
#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn some_path_to_json<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path_to_json(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// The error of an input or output operation.
fn io_error(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}
