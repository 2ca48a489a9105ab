//! A region in a namespace of an NVDIMM file: from a path to an open region.
//!
//! A label says `dax`, with the guid that Linux's device-DAX has too, or says nothing (version 1.1, or
//! no label at all). Which of the two it is tells the superblock: where Linux keeps its own info block
//! there is none of ours, and the other way round.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::error::NamespaceError;
use super::options::NamespaceOptions;
use super::probe::find_region;
use crate::btt;
use crate::dax::{DeviceInfo, Error, Found, PAGES_OFFSET, Region};
use crate::nvdimm::{Abstraction, Claim, ClaimKind, Namespace, NvdimmFile, Selection};
use crate::pmem::{DurabilityRequest, Mapping};

/// How regions are mapped: whatever the file is on, what changes a region is ordered and durable. What
/// guests store to their windows goes through mappings of their own and is as durable as they make it.
const DURABILITY: DurabilityRequest = DurabilityRequest::Strict;

impl NamespaceOptions {
    /// Claims the namespace, which is to hold a region, and maps it.
    pub fn map_region(&self, kind: ClaimKind) -> Result<(Claim, Mapping), NamespaceError> {
        let file = self.open_file(kind)?;
        let selection = resolve(&file, &self.selection);
        let claim = file.claim(&selection)?;
        let medium = claim.map(DURABILITY)?;
        refuse_other_mode(claim.path(), claim.namespace(), &medium)?;
        Ok((claim, medium))
    }

    /// Claims the namespace and opens the region in it: to change it, or for reading only if the
    /// claim is shared.
    pub fn open_region(&self, kind: ClaimKind) -> Result<(Claim, Region<Mapping>), NamespaceError> {
        let (claim, medium) = self.map_region(kind)?;
        let opened = Region::open(medium, kind == ClaimKind::Shared);
        let region = opened.map_err(|source| NamespaceError::claimed_region(&claim, source))?;
        Ok((claim, region))
    }

    /// Claims the device `name` alone, for a program that maps it: no other process can claim it or
    /// change the region, but other devices can be claimed.
    pub fn claim_device(&self, name: &str) -> Result<(Claim, DeviceInfo), NamespaceError> {
        let file = self.open_file(ClaimKind::Exclusive)?;
        let selection = resolve(&file, &self.selection);
        let claim = file.claim_head(&selection, PAGES_OFFSET)?;
        let medium = claim.map(DURABILITY)?;
        refuse_other_mode(claim.path(), claim.namespace(), &medium)?;
        let device = Region::open(medium, true).and_then(|region| region.device(name));
        let device = device.map_err(|source| NamespaceError::claimed_region(&claim, source))?;
        device.extents.iter().try_for_each(|extent| claim.add(extent.clone()))?;
        Ok((claim, device))
    }

    /// Opens the region for reading only and without a claim, also while another process changes it: as it
    /// is at one moment.
    pub fn look_at_region(&self) -> Result<(Namespace, Region<Mapping>), NamespaceError> {
        let mut before = None;
        loop {
            let (path, namespace, medium) = self.map_region_to_look()?;
            match Region::look_at(medium) {
                Ok(region) => return Ok((namespace, region)),
                // It may have grown after its label was read.
                Err(_) if before.as_ref() != Some(&namespace) => before = Some(namespace),
                Err(source) => return Err(NamespaceError::region(&path, &namespace, source)),
            }
        }
    }

    fn map_region_to_look(&self) -> Result<(PathBuf, Namespace, Mapping), NamespaceError> {
        let file = self.open_file(ClaimKind::Shared)?;
        let namespace = file.select(&resolve(&file, &self.selection))?;
        let medium = file.map_to_look(namespace)?;
        refuse_other_mode(file.path(), namespace, &medium)?;
        Ok((file.path().into(), namespace.clone(), medium))
    }
}

fn refuse_other_mode(
    path: &Path,
    namespace: &Namespace,
    medium: &Mapping,
) -> Result<(), NamespaceError> {
    let abstraction = namespace.abstraction;
    let may_be = matches!(abstraction, Abstraction::Unstated | Abstraction::Dax);
    if may_be && find_region(medium) != Err(Error::NotFound) {
        return Ok(());
    }
    let mode = if btt::is_signed(medium) { "sector" } else { abstraction.mode() };
    let (path, namespace) = (path.into(), namespace.device_name());
    Err(NamespaceError::NotDax { path, namespace, mode })
}

/// Looks for a region in a namespace of a file, without claiming it.
#[must_use]
pub fn find_in(file: &NvdimmFile, namespace: &Namespace) -> Option<Found> {
    let may_be = matches!(namespace.abstraction, Abstraction::Unstated | Abstraction::Dax);
    let medium = file.map_to_look(namespace).ok().filter(|_| may_be);
    medium.and_then(|medium| find_region(&medium).ok())
}

/// What is meant by `selection` where it is the uuid of a region in a file without labels: the whole
/// file. (Elsewhere, region and namespace have the same uuid.) Where nothing is selected: the only
/// namespace in dax mode.
#[must_use]
pub fn resolve(file: &NvdimmFile, selection: &Selection) -> Selection {
    let named = |namespace: &Namespace| {
        let uuid = namespace.uuid.map(|uuid| uuid.to_string());
        Selection::Named(uuid.unwrap_or_else(|| namespace.device_name()))
    };
    let meant = match selection {
        Selection::Only => {
            let mut regions = file.namespaces().iter().filter(|one| find_in(file, one).is_some());
            regions.next().filter(|_| regions.next().is_none())
        }
        Selection::Named(name) => {
            let wanted = Uuid::try_parse(name).ok();
            let whole = file.namespaces().first().filter(|_| file.labels().is_none());
            whole.filter(|whole| {
                wanted.is_some() && find_in(file, whole).map(|found| found.uuid) == wanted
            })
        }
    };
    meant.map_or_else(|| selection.clone(), named)
}
