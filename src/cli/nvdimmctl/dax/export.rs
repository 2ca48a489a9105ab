//! `dax export`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use clap::{Args, ValueEnum};

use super::super::create_file::permissions;
use super::super::export::{Destination, Output};
use super::super::import::CHUNK;
use super::super::{Error, io_error};
use super::frontend::{Frontend, qemu_arguments, shell_line, virt_xml};
use super::{Open, RegionArgs};
use crate::cli::output::{self, remark};
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::dax::DeviceInfo;
use crate::namespace::NamespaceError;
use crate::nvdimm::{Claim, ClaimKind};
use crate::pmem::PersistentMemory;

/// Hand a device to a virtual machine monitor that maps it, or write its bytes to a file
///
/// QEMU from 8.1 on, and libvirt through QEMU's arguments, get one piece of memory for each extent
/// ('create-device --contiguous' makes a device of one extent). A VMM takes no claim of its own. With '--
/// COMMAND...', COMMAND is run with the arguments added, and the claim on the device is held as long as it
/// runs: no other process can have the device or change the namespace, and other devices can be exported.
#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    region: RegionArgs,

    /// The device
    device: String,

    /// What to print, or write
    #[arg(short, long, default_value = "qemu")]
    format: Format,

    /// What the guest sees
    #[arg(long, default_value = "virtio-pmem")]
    frontend: FrontendArg,

    /// Where to write the bytes; the file must not exist yet, and appears when it is complete [default, and
    /// '-': standard output]
    #[arg(short, long, value_name = "NEW-FILE")]
    output: Option<PathBuf>,

    /// Permissions of that file, in octal [default: 600]
    #[arg(long = "mode", value_name = "OCTAL", value_parser = permissions)]
    permissions: Option<u32>,

    /// Print, and hold the claim until killed: for a VMM that another program starts
    #[arg(long, conflicts_with = "command")]
    hold: bool,

    /// The program to run with the arguments added: qemu-system-x86_64 and what it needs
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The value of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Arguments of QEMU
    Qemu,
    /// The same as an element of a libvirt domain
    Libvirt,
    /// Explains why there are none, and what to do instead
    CloudHypervisor,
    /// The bytes of the device, in the order of its offsets
    Raw,
}

/// The value of `--frontend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FrontendArg {
    /// A virtio-pmem device: flushes of the guest reach the file
    VirtioPmem,
    /// An NVDIMM, of a machine with nvdimm=on: durable only where the file is DAX
    Nvdimm,
}

impl Export {
    pub(super) fn run(&self) -> Result<(), Error> {
        self.check_usage()?;
        if self.format == Format::Raw {
            return self.write_bytes(&self.region.open(ClaimKind::Shared)?);
        }
        let (claim, device) = self.region.options().claim_device(&self.device)?;
        if device.extents.is_empty() {
            return Err(Error::EmptyDevice { device: device.name });
        }
        let start = claim.namespace().range.start;
        if self.format == Format::CloudHypervisor {
            let offset = start + device.extents[0].start;
            return Err(Error::NoOffset { device: device.name, offset });
        }
        let path = claim.path().canonicalize().map_err(io_error("find the file's path"))?;
        let Some(path) = path.to_str() else {
            return Err(Error::Usage("the file's path is not UTF-8, and cannot be an argument"));
        };
        let arguments = qemu_arguments(path, start, &device, self.frontend.into());
        if !self.command.is_empty() {
            return Err(self.execute(&claim, &arguments));
        }
        match self.format {
            Format::Libvirt => output::document(&virt_xml(&arguments)),
            _ => output::document(&shell_line(&arguments)),
        }
        self.advise(&device);
        if self.hold { wait_to_be_killed() } else { Ok(()) }
    }

    fn check_usage(&self) -> Result<(), Error> {
        let is_raw = self.format == Format::Raw;
        if is_raw && (self.hold || !self.command.is_empty()) {
            Err(Error::Usage("bytes that are written out need no claim, and no command"))
        } else if !is_raw && self.output.is_some() {
            Err(Error::Usage("--output is for --format raw"))
        } else if !self.command.is_empty() && self.format != Format::Qemu {
            Err(Error::Usage("a command is run for QEMU alone"))
        } else {
            Ok(())
        }
    }

    /// Becomes the command, which keeps the claim; returns only if it cannot.
    fn execute(&self, claim: &Claim, arguments: &[String]) -> Error {
        if let Err(error) = claim.inherit() {
            return NamespaceError::from(error).into();
        }
        let mut command = Command::new(&self.command[0]);
        let source = command.args(&self.command[1..]).args(arguments).exec();
        Error::Io { action: "run the command", source }
    }

    /// What the arguments do not say, for those who read along.
    fn advise(&self, device: &DeviceInfo) {
        let (slots, size) = (device.extents.len(), Size(device.size));
        let nvdimm = match self.frontend {
            FrontendArg::VirtioPmem => "",
            FrontendArg::Nvdimm => "nvdimm=on and ",
        };
        remark!(
            "the machine needs {nvdimm}room for {size} more than its memory: -m SIZE,slots={slots},maxmem=..."
        );
        if !self.hold {
            remark!(
                "no process holds a claim on the device while it is used in this way: see --hold and -- COMMAND"
            );
        }
    }

    fn write_bytes(&self, open: &Open) -> Result<(), Error> {
        let device = open.region.device(&self.device).map_err(|error| open.error(error))?;
        let destination = Destination::open(self.output.as_deref(), self.permissions)?;
        let mut output = Output::new(destination.file()?);
        let progress = Progress::new("exporting", Some(device.size));
        let mut chunk = vec![0; CHUNK];
        for extent in &device.extents {
            let mut position = extent.start;
            while position < extent.end {
                let part = &mut chunk[..(extent.end - position).min(CHUNK as u64) as usize];
                let read = open.region.medium().read_bytes(position, part);
                read.map_err(|error| open.error(error.into()))?;
                output.write(part).map_err(io_error("write the output"))?;
                progress.add(part.len() as u64);
                position += part.len() as u64;
            }
        }
        output.finish().map_err(io_error("write the output"))?;
        destination.publish()?;
        drop(progress);
        remark!("{}: exported {}", self.region.file.display(), Size(device.size));
        Ok(())
    }
}

/// Never returns: the claim ends when the process is killed.
fn wait_to_be_killed() -> ! {
    loop {
        thread::park();
    }
}

impl From<FrontendArg> for Frontend {
    fn from(frontend: FrontendArg) -> Frontend {
        match frontend {
            FrontendArg::VirtioPmem => Frontend::VirtioPmem,
            FrontendArg::Nvdimm => Frontend::Nvdimm,
        }
    }
}
