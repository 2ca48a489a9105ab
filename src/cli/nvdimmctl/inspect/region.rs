//! What `inspect` shows of a namespace in dax mode.

use std::path::PathBuf;

use serde::Serialize;

use super::super::Error;
use crate::cli::output::say;
use crate::cli::size::Size;
use crate::dax::check::{Report, check};
use crate::dax::{DeviceInfo, OwnedBlock, OwnerInfo, PAGE_SIZE, RegionInfo};
use crate::dax::{PAGES_OFFSET, Region as OpenRegion};
use crate::namespace::{NamespaceError, NamespaceOptions};
use crate::nvdimm::{ClaimKind, Namespace};

/// A region, and what the check of it says.
pub(super) struct Region {
    pub namespace: Namespace,
    pub info: RegionInfo,
    pub devices: Vec<DeviceInfo>,
    pub owners: Vec<(OwnerInfo, Vec<OwnedBlock>)>,
    pub report: Report,
}

impl Region {
    /// Reads a region that no process changes meanwhile.
    pub(super) fn read(options: &NamespaceOptions) -> Result<Region, Error> {
        let (claim, medium) = options.map_region(ClaimKind::Shared)?;
        let report = check(&medium);
        let error = |source| NamespaceError::region(claim.path(), claim.namespace(), source);
        let region = OpenRegion::open(medium, true).map_err(error)?;
        let owners = region.owners().into_iter().map(|owner| {
            let blocks = region.pages_of(owner.uuid).map_err(error)?;
            Ok((owner, blocks))
        });
        Ok(Region {
            namespace: claim.namespace().clone(),
            info: region.info(),
            devices: region.devices(),
            owners: owners.collect::<Result<_, Error>>()?,
            report,
        })
    }

    /// What is shown of it in words and numbers.
    pub(super) fn describe(&self, file: PathBuf) -> InspectedRegion {
        let RegionInfo { uuid, size, align, free, available, largest, .. } = self.info;
        InspectedRegion {
            file,
            dev: self.namespace.device_name(),
            uuid: uuid.to_string(),
            pages_offset: PAGES_OFFSET,
            pages: size / PAGE_SIZE,
            page_size: PAGE_SIZE,
            align: align.bytes(),
            journal_offset: self.info.journal.start,
            journal_size: self.info.journal.end - self.info.journal.start,
            pending_stores: self.report.pending,
            free_metadata_pages: self.info.free_metadata_pages,
            owners: self.owners.len(),
            devices: self.devices.len(),
            extents: self.devices.iter().map(|device| device.extents.len()).sum(),
            free_size: free,
            available_size: available,
            max_available_extent: largest,
            free_extents: self.info.free_extents.len(),
            fragmentation: self.info.fragmentation(),
            findings: self.report.findings.len(),
        }
    }
}

/// What is shown of a region.
#[derive(Debug, Serialize)]
pub(super) struct InspectedRegion {
    #[serde(serialize_with = "super::super::path_to_json")]
    file: PathBuf,
    dev: String,
    uuid: String,
    /// First byte of the pages in the namespace.
    pages_offset: u64,
    pages: u64,
    page_size: u64,
    /// Default alignment of devices, in bytes.
    align: u64,
    journal_offset: u64,
    journal_size: u64,
    /// Stores of a change that was cut off.
    pending_stores: usize,
    /// Of 2046.
    free_metadata_pages: usize,
    owners: usize,
    devices: usize,
    /// Of all devices.
    extents: usize,
    free_size: u64,
    /// In free extents of the default alignment, and these.
    available_size: u64,
    max_available_extent: u64,
    free_extents: usize,
    fragmentation: f64,
    /// What the check has found.
    findings: usize,
}

impl InspectedRegion {
    pub(super) fn print(&self) {
        say!("{}: {}, DAX region {}", self.file.display(), self.dev, self.uuid);
        let line = |name: &str, text: String| say!("  {name:18}  {text}");
        line(
            "pages",
            format!(
                "{} of {} bytes from byte {:#x} on",
                self.pages, self.page_size, self.pages_offset
            ),
        );
        line("align", Size(self.align).to_string());
        line(
            "journal",
            format!(
                "{} at byte {:#x}, {} stores pending",
                Size(self.journal_size),
                self.journal_offset,
                self.pending_stores
            ),
        );
        line("metadata", format!("{} of 2046 pages free", self.free_metadata_pages));
        line("owners", self.owners.to_string());
        line("devices", format!("{} in {} extents", self.devices, self.extents));
        line(
            "free",
            format!(
                "{}; {} in {} extents of the default alignment, largest {}, {:.0} % fragmented",
                Size(self.free_size),
                Size(self.available_size),
                self.free_extents,
                Size(self.max_available_extent),
                self.fragmentation * 100.0
            ),
        );
        match self.findings {
            0 => line("checked", "clean".into()),
            count => line("checked", format!("{count} problems (see nvdimmctl dax check)")),
        }
    }
}
