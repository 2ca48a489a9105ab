//! `create` and `create-namespace`.

use std::fs::OpenOptions;
use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::Error;
use crate::btt::{ARENA_MAX_SIZE, CreateOptions, LbaSize, Version};
use crate::cli::name::NamespaceArgs;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::nvdimm::{self, ClaimKind};
use crate::pmem::{DurabilityRequest, PAGE};

/// Smallest file that is worth making: it has room for a BTT of either version.
const LEAST_SIZE: u64 = 17 << 20;

/// Make an NVDIMM file: sparse, without labels, one raw namespace
#[derive(Debug, Args)]
pub struct CreateFile {
    /// The file; it must not exist yet
    file: PathBuf,

    /// Its size, a multiple of 4 KiB; of 16 MiB, if Linux is ever to use it as an NVDIMM
    #[arg(short, long)]
    size: Size,
}

impl CreateFile {
    pub(super) fn run(&self) -> Result<(), Error> {
        let bad = |reason| Err(Error::BadSize { size: self.size.0, reason });
        if self.size.0 < LEAST_SIZE {
            return bad("a namespace with atomic sectors needs 17 MiB at least");
        }
        if !self.size.0.is_multiple_of(PAGE) {
            return bad("not a multiple of 4 KiB");
        }
        let fails =
            |action| move |source| nvdimm::Error::File { action, path: self.file.clone(), source };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.file)
            .map_err(fails("create"))?;
        if let Err(error) = file.set_len(self.size.0).and_then(|()| file.sync_all()) {
            // Nobody else knows of the file yet, and it is of no use; the first error counts.
            let _ = std::fs::remove_file(&self.file);
            return Err(fails("size")(error).into());
        }
        println!("{}: created, {}", self.file.display(), self.size);
        println!("next: nvdimmctl create-namespace {}", self.file.display());
        Ok(())
    }
}

/// Make a namespace with atomic sectors (sector mode): a BTT that fills the file
#[derive(Debug, Args)]
pub struct CreateNamespace {
    /// The NVDIMM file
    file: PathBuf,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Bytes of a sector: 512 or 4096, or with metadata 520, 528, 4104, 4160, 4224
    #[arg(short = 'l', long, default_value = "4096", value_parser = lba_size)]
    sector_size: LbaSize,

    /// Uuid of the BTT [default: a random one]
    #[arg(short, long)]
    uuid: Option<Uuid>,

    /// Write over a BTT that is there already; its data are lost
    #[arg(short, long)]
    force: bool,
}

fn lba_size(text: &str) -> Result<LbaSize, String> {
    text.parse()
        .ok()
        .and_then(LbaSize::new)
        .ok_or_else(|| "not one of 512, 520, 528, 4096, 4104, 4160, 4224".into())
}

impl CreateNamespace {
    pub(super) fn run(&self) -> Result<(), Error> {
        let options = self.namespace.options(&self.file, DurabilityRequest::Auto);
        let mapped = options.map(ClaimKind::Exclusive)?;
        let namespace = mapped.claim.namespace();
        let requested = self.namespace.btt_version.map(Version::from);
        let create = CreateOptions {
            lba_size: self.sector_size,
            version: mapped.version.or(requested).unwrap_or(Version::V1_1),
            uuid: self.uuid.unwrap_or_else(Uuid::new_v4),
            parent_uuid: namespace.uuid.unwrap_or_default(),
            arena_size: ARENA_MAX_SIZE,
            force: self.force,
        };
        let progress = Progress::new("clearing the map", None);
        mapped.create(&create, |done, total| progress.set(done, total))?;
        drop(progress);
        println!(
            "{}: {} is in sector mode now: sectors of {} bytes, BTT {} with uuid {}",
            self.file.display(),
            namespace.device_name(),
            self.sector_size,
            create.version,
            create.uuid,
        );
        Ok(())
    }
}
