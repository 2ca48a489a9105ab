//! `create-namespace`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use uuid::Uuid;

use super::Error;
use super::create_file::alignment;
use super::dax::device_alignment;
use super::listing::Listing;
use crate::btt::{ARENA_MAX_SIZE, CreateOptions, LbaSize, Version};
use crate::cli::name::{LabelSizeArg, NamespaceArgs, VersionArg};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::dax::Align;
use crate::namespace::{self, MappedNamespace, Mode, Provision};
use crate::nvdimm::label::{LabelName, MOST_QEMU_SLOTS};
use crate::nvdimm::{ClaimKind, LINUX_ALIGNMENT, LabelSize, NvdimmFile, Place, Selection};
use crate::pmem::DurabilityRequest;

/// Make a namespace: a disk with atomic sectors (sector mode), memory that is divided into devices (dax
/// mode), or plain bytes (raw mode)
///
/// In a file with labels, the namespace takes the lowest free extent that is large enough. A file without
/// labels is one namespace, and the BTT or DAX region fills it. A crash leaves no namespace or a complete
/// one. 'nvdimmctl dax --help' describes devices in dax mode.
#[derive(Debug, Args)]
pub struct CreateNamespace {
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
        let file = NvdimmFile::open(&self.file, ClaimKind::Exclusive, self.label_size())?;
        let has_labels = file.labels().is_some();
        drop(file);
        let mut listing =
            if has_labels { self.in_labels(mode)? } else { self.in_whole_file(mode)? };
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

    /// Makes a namespace with a label, and describes it while no other process can change it.
    fn in_labels(&self, mode: Mode) -> Result<Listing, Error> {
        let mut editor = namespace::edit_labels(&self.file, self.label_size())?;
        let provision = Provision {
            place: Place::FirstFit {
                size: self.size.map(|size| size.0),
                alignment: self.align.unwrap_or(LINUX_ALIGNMENT),
            },
            mode,
            name: self.name,
            uuid: self.uuid.unwrap_or_else(Uuid::new_v4),
            qemu_slot: self.qemu_slot,
            force: self.force,
        };
        let progress = Progress::new("clearing the map", None);
        let report = |done, total| progress.set(done, total);
        let created = match &self.reconfig {
            Some(old) => {
                let old = Selection::Named(old.clone());
                namespace::reconfigure_namespace(&mut editor, &old, &provision, report)?
            }
            None => namespace::create_namespace(&mut editor, &provision, report)?,
        };
        drop(progress);
        Listing::describe(editor.file(), &created, self.version())
    }

    /// Makes a BTT or a DAX region that fills a file without labels, or takes away the one that does; describes
    /// what is there then.
    fn in_whole_file(&self, mode: Mode) -> Result<Listing, Error> {
        if self.size.is_some() || self.name.is_some() || self.qemu_slot.is_some() {
            let reason = "a file without labels is one namespace, without a name; 'nvdimmctl create \
                          --label-size' makes one for several";
            return Err(Error::Usage(reason));
        }
        let arguments = NamespaceArgs {
            namespace: self.reconfig.clone(),
            label_size: self.label_size,
            btt_version: self.btt_version,
        };
        let options = arguments.options(&self.file, DurabilityRequest::Strict);
        let mapped = options.map(ClaimKind::Exclusive)?;
        if !self.force {
            let file = NvdimmFile::open_quietly(&self.file, ClaimKind::Shared, self.label_size())?;
            namespace::refuse_stray_labels(&file)?;
        }
        let uuid = self.uuid.unwrap_or_else(Uuid::new_v4);
        let (lba_size, version) = match mode {
            Mode::Sector { lba_size, version } => (lba_size, version),
            Mode::Dax { align } => {
                mapped.create_region(uuid, align, self.force)?;
                return self.describe_whole_file(&mapped);
            }
            Mode::Raw => {
                mapped.erase(self.force)?;
                return self.describe_whole_file(&mapped);
            }
        };
        let create = CreateOptions {
            lba_size,
            version: version.unwrap_or(Version::V1_1),
            uuid,
            parent_uuid: Uuid::nil(),
            arena_size: ARENA_MAX_SIZE,
            force: self.force,
        };
        let progress = Progress::new("clearing the map", None);
        mapped.create(&create, |done, total| progress.set(done, total))?;
        drop(progress);
        self.describe_whole_file(&mapped)
    }

    /// Describes the only namespace of a file without labels, which this process still holds.
    fn describe_whole_file(&self, mapped: &MappedNamespace) -> Result<Listing, Error> {
        let file = NvdimmFile::open(&self.file, ClaimKind::Shared, self.label_size())?;
        Listing::describe(&file, mapped.claim.namespace(), self.version())
    }
}
