//! `create-namespace`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use uuid::Uuid;

use super::Error;
use super::create_file::alignment;
use super::dax::device_alignment;
use super::listing::Listing;
use crate::btt::{LbaSize, Version};
use crate::cli::name::{LabelSizeArg, VersionArg};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::dax::Align;
use crate::namespace::{self, Mode, NamespaceError, Provision};
use crate::nvdimm::label::{LabelName, MOST_QEMU_SLOTS};
use crate::nvdimm::{LINUX_ALIGNMENT, LabelSize, Place, Selection};

/// Make a namespace: a disk with atomic sectors (sector mode), memory that is divided into devices (dax
/// mode), or plain bytes (raw mode)
///
/// In a file with labels, the namespace takes the lowest free extent that is large enough. A file without
/// labels is one namespace, and the BTT or DAX region fills it. A crash leaves no namespace or a complete
/// one. 'nvdimmctl dax --help' describes devices in dax mode.
#[derive(Debug, Args)]
pub(super) struct CreateNamespace {
    /// The NVDIMM file
    file: PathBuf,

    /// What the namespace contains
    #[arg(short, long, value_name = "MODE", default_value = "sector")]
    mode: ModeArg,

    /// Its size, a multiple of the alignment [default: that of the largest free extent]
    #[arg(short, long)]
    size: Option<Size>,

    /// Bytes of a sector: 512 or 4096, or with metadata 520, 528, 4104, 4160, 4224 [default: 4096]
    #[arg(short = 'l', long, value_parser = lba_size)]
    sector_size: Option<LbaSize>,

    /// Its name, up to 63 bytes
    #[arg(short, long, value_parser = LabelName::new)]
    name: Option<LabelName>,

    /// Uuid of the namespace; in a file without labels, of the BTT or DAX region [default: random]
    #[arg(short, long)]
    uuid: Option<Uuid>,

    /// Make this namespace again, in its place, with another mode, sector size, name or uuid
    #[arg(short = 'e', long, value_name = "NAMESPACE", conflicts_with_all = ["size", "align"])]
    reconfig: Option<String>,

    /// Alignment of its offset and size; Linux requires 16M [default: 16M]
    #[arg(short, long, value_name = "SIZE", value_parser = alignment)]
    align: Option<u64>,

    /// In dax mode, the default alignment of devices: 4K, 2M or 1G [default: 2M]
    #[arg(long, value_name = "SIZE", value_parser = device_alignment)]
    device_align: Option<Align>,

    /// QEMU's memory slot for the file; Linux ignores namespaces that were made for another slot [default:
    /// that of the other namespaces, or 0; none in dax mode, so that Linux does not make a disk of it]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(..i64::from(MOST_QEMU_SLOTS)))]
    qemu_slot: Option<u32>,

    /// Size of the label storage area at the end of the file, or 'none' [default: detected]
    #[arg(long, value_name = "SIZE")]
    label_size: Option<LabelSizeArg>,

    /// Version of the BTT [default: as Linux: 2.0 with labels of version 1.2, else 1.1]
    #[arg(long, value_name = "VERSION")]
    btt_version: Option<VersionArg>,

    /// Overwrite a BTT, a DAX region or other data that are there; they are lost
    #[arg(short, long)]
    force: bool,

    /// Print JSON: an object, as 'list' has it
    #[arg(short, long)]
    json: bool,
}

/// The value of `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Atomic sectors: a BTT
    Sector,
    /// Memory that is divided into devices which guests map: a DAX region
    Dax,
    /// Plain bytes; sectors are not atomic
    Raw,
}

fn lba_size(text: &str) -> Result<LbaSize, String> {
    let bytes = text.parse::<Size>().ok().and_then(|Size(bytes)| u32::try_from(bytes).ok());
    bytes
        .and_then(LbaSize::new)
        .ok_or_else(|| "not one of 512, 520, 528, 4096, 4104, 4160, 4224".into())
}

impl CreateNamespace {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mode = self.mode()?;
        let mut listing = self.create(mode)?;
        // The holder that was found is this process, whose claim ends with the command.
        listing.holder = None;
        if self.json {
            super::say_json(&listing)?;
        } else {
            say!("{}: created {listing}", self.file.display());
        }
        Ok(())
    }

    fn mode(&self) -> Result<Mode, Error> {
        let version = self.version();
        if self.device_align.is_some() && self.mode != ModeArg::Dax {
            return Err(Error::Usage("only in dax mode there are devices to align"));
        }
        match self.mode {
            ModeArg::Sector => {
                let lba_size = self.sector_size.unwrap_or_default();
                Ok(Mode::Sector { lba_size, version })
            }
            _ if self.sector_size.is_some() || version.is_some() => {
                Err(Error::Usage("only in sector mode there are sectors, and a BTT"))
            }
            ModeArg::Dax => Ok(Mode::Dax { align: self.device_align.unwrap_or_default() }),
            ModeArg::Raw => Ok(Mode::Raw),
        }
    }

    fn label_size(&self) -> LabelSize {
        self.label_size.map(LabelSizeArg::get).unwrap_or_default()
    }

    fn version(&self) -> Option<Version> {
        self.btt_version.map(Version::from)
    }

    fn provision(&self, mode: Mode) -> Provision {
        Provision {
            place: Place::FirstFit {
                size: self.size.map(|size| size.0),
                alignment: self.align.unwrap_or(LINUX_ALIGNMENT),
            },
            mode,
            name: self.name,
            uuid: self.uuid.unwrap_or_else(Uuid::new_v4),
            qemu_slot: self.qemu_slot,
            force: self.force,
        }
    }

    /// Makes the namespace, and describes it while no other process can change it.
    fn create(&self, mode: Mode) -> Result<Listing, Error> {
        let replaced = self.reconfig.clone().map(Selection::Named);
        let progress = Progress::new("clearing the map", None);
        let report = |done, total| progress.set(done, total);
        let provision = self.provision(mode);
        let created =
            namespace::create(&self.file, self.label_size(), &provision, replaced.as_ref(), report);
        let created = created.map_err(|error| match error {
            NamespaceError::WholeFile { .. } => Error::Usage(
                "a file without labels is one namespace, without a name; 'nvdimmctl create --label-size' \
                 makes one for several",
            ),
            error => error.into(),
        })?;
        drop(progress);
        Listing::describe(created.file(), &created.namespace, self.version())
    }
}
