//! `dax`: the devices of a namespace in dax mode, in the words of daxctl.

mod check;
mod devices;
mod export;
mod frontend;
mod list;
mod listing;
mod owners;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Error;
use crate::cli::name::LabelSizeArg;
use crate::cli::size::Size;
use crate::dax::{self, Align, Region};
use crate::namespace::{NamespaceError, NamespaceOptions};
use crate::nvdimm::{Claim, ClaimKind, Selection};
use crate::pmem::Mapping;

/// Divide a namespace in dax mode into devices: parts of its memory that guests map
///
/// A device has a name, a uuid, and a size that can be changed. It consists of one extent or several, and is
/// zero where nothing was written. Every command is a transaction. 'create-namespace --mode dax' makes such a
/// namespace.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Dax {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example:
  nvdimmctl create pool.nvdimm --size 4G --label-size 128K
  nvdimmctl create-namespace pool.nvdimm --mode dax --name memory
  nvdimmctl dax create-device pool.nvdimm cache --size 1G
  nvdimmctl dax list pool.nvdimm
  nvdimmctl dax export pool.nvdimm cache -- qemu-system-x86_64 ...";

#[derive(Debug, Subcommand)]
enum Command {
    CreateDevice(devices::CreateDevice),
    ResizeDevice(devices::ResizeDevice),
    DestroyDevice(devices::DestroyDevice),
    RenameDevice(devices::RenameDevice),
    AlignDevice(devices::AlignDevice),
    List(list::List),
    Owners(owners::Owners),
    FreePages(owners::FreePages),
    Check(check::Check),
    Export(export::Export),
}

impl Dax {
    /// Returns whether the exit status is that of a check.
    pub(super) fn is_check(&self) -> bool {
        matches!(self.command, Command::Check(_))
    }

    /// Returns whether it is carried out for what it changes, and not for what it prints.
    pub(super) fn is_change(&self) -> bool {
        !matches!(
            self.command,
            Command::List(_) | Command::Owners(_) | Command::Check(_) | Command::Export(_)
        )
    }

    /// Returns whether a daemon can be asked to do it.
    pub(super) fn knows_control(&self) -> bool {
        matches!(self.command, Command::ResizeDevice(_))
    }

    pub(super) fn run(&self, control: Option<&Path>) -> Result<ExitCode, Error> {
        match &self.command {
            Command::CreateDevice(command) => command.run()?,
            Command::ResizeDevice(command) => command.run(control)?,
            Command::DestroyDevice(command) => command.run()?,
            Command::RenameDevice(command) => command.run()?,
            Command::AlignDevice(command) => command.run()?,
            Command::List(command) => command.run()?,
            Command::Owners(command) => command.run()?,
            Command::FreePages(command) => command.run()?,
            Command::Check(command) => return command.run(),
            Command::Export(command) => command.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Which namespace of a file.
#[derive(Debug, Clone, Args)]
struct RegionArgs {
    /// The NVDIMM file
    file: PathBuf,

    /// The namespace, by name, uuid or device name; not needed where only one is in dax mode
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Size of the label storage area at the end of the file, or 'none' [default: detected]
    #[arg(long, value_name = "SIZE")]
    label_size: Option<LabelSizeArg>,
}

impl RegionArgs {
    fn options(&self) -> NamespaceOptions {
        let selection = self.namespace.clone().map_or(Selection::Only, Selection::Named);
        let label_size = self.label_size.map(LabelSizeArg::get).unwrap_or_default();
        NamespaceOptions::new(self.file.clone(), selection, label_size)
    }

    /// Opens the region, to change it or to read what is in it.
    fn open(&self, kind: ClaimKind) -> Result<Open, Error> {
        let (claim, region) = self.options().open_region(kind)?;
        Ok(Open { claim, region })
    }
}

/// A region that no other process can change.
struct Open {
    claim: Claim,
    region: Region<Mapping>,
}

impl Open {
    /// The error that says in which namespace it was.
    fn error(&self, source: dax::Error) -> Error {
        NamespaceError::region(self.claim.path(), self.claim.namespace(), source).into()
    }

    /// Returns whether something was stored in the device's bytes from `offset` on, as far as is known
    /// without reading them.
    fn is_written_from(&self, name: &str, offset: u64) -> Result<bool, Error> {
        let device = self.region.device(name).map_err(|error| self.error(error))?;
        Ok(behind(&device.extents, offset)
            .any(|bytes| self.region.next_stored(bytes.start) < bytes.end))
    }
}

/// Returns the rest of `extents` after the first `offset` bytes.
fn behind(
    extents: &[std::ops::Range<u64>],
    offset: u64,
) -> impl Iterator<Item = std::ops::Range<u64>> {
    let mut before = offset;
    extents.iter().filter_map(move |extent| {
        let skipped = before.min(extent.end - extent.start);
        before -= skipped;
        let rest = extent.start + skipped..extent.end;
        (!rest.is_empty()).then_some(rest)
    })
}

/// The value of `--device-align`, and of a device's `--align`.
pub(super) fn device_alignment(text: &str) -> Result<Align, String> {
    let Size(bytes) = text.parse().map_err(|error: crate::cli::SizeError| error.to_string())?;
    Align::of_bytes(bytes).ok_or_else(|| "not one of 4K, 2M, 1G".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_an_offset_is_what_a_device_loses() {
        let extents = [100..110, 50..60, 200..205];
        let rest = |offset| behind(&extents, offset).collect::<Vec<_>>();
        assert_eq!(rest(0), extents);
        assert_eq!(rest(5), [105..110, 50..60, 200..205]);
        assert_eq!(rest(10), [50..60, 200..205]);
        assert_eq!(rest(13), [53..60, 200..205]);
        assert_eq!(rest(25), []);
        assert_eq!(rest(99), []);
    }
}
