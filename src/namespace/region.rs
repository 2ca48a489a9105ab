//! A region in a namespace of an NVDIMM file: from a path to an open region.
//!
//! A label says `dax`, with the guid that Linux's device-DAX has too, or says nothing (version 1.1, or
//! no label at all). Which of the two it is tells the superblock: where Linux keeps its own info block
//! there is none of ours, and the other way round.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::probe::find_region;
use crate::btt;
use crate::dax::{DeviceInfo, Error, Found, PAGES_OFFSET, Region};
use crate::nvdimm::{
    self, Abstraction, Claim, ClaimKind, LabelSize, Namespace, NvdimmFile, Selection,
};
use crate::pmem::{DurabilityRequest, Mapping};

/// Which namespace, and how.
#[derive(Debug, Clone)]
pub struct NamespaceOptions {
    /// The NVDIMM file.
    pub path: PathBuf,
    /// The namespace in it.
    pub selection: Selection,
    /// Where its labels are.
    pub label_size: LabelSize,
}

/// How regions are mapped: whatever the file is on, what changes a region is ordered and durable. What
/// guests store to their windows goes through mappings of their own and is as durable as they make it.
const DURABILITY: DurabilityRequest = DurabilityRequest::Strict;

/// Why the region in a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The file, or the claim.
    #[error(transparent)]
    Nvdimm(#[from] nvdimm::Error),
    /// The region.
    #[error("{path}: {namespace}: {source}")]
    Region {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What is wrong; part of the message.
        source: Box<Error>,
    },
    /// The namespace holds something else.
    #[error(
        "{path}: {namespace} is in {mode} mode, not in dax mode; 'nvdimmctl create-namespace --mode \
         dax' makes one that is"
    )]
    NotDax {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// Its mode, as far as its label tells.
        mode: &'static str,
    },
    /// The file can be read in two ways.
    #[error(
        "{path}: there are labels at the end of the file, and a DAX region that takes up the whole \
         file; say with --label-size whether it has labels ('none', or their size)"
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
    },
}

impl NamespaceOptions {
    /// Claims the namespace, which is to hold a region, and maps it.
    pub fn map(&self, kind: ClaimKind) -> Result<(Claim, Mapping), NamespaceError> {
        let file = NvdimmFile::open(&self.path, kind, self.label_size)?;
        refuse_ambiguity(&file, self.label_size)?;
        let selection = resolve(&file, &self.selection);
        let claim = file.claim(&selection)?;
        let medium = claim.map(DURABILITY)?;
        refuse_other_mode(claim.path(), claim.namespace(), &medium)?;
        Ok((claim, medium))
    }

    /// Claims the namespace and opens the region in it: to change it, or for reading only if the
    /// claim is shared.
    pub fn open(&self, kind: ClaimKind) -> Result<(Claim, Region<Mapping>), NamespaceError> {
        let (claim, medium) = self.map(kind)?;
        let opened = Region::open(medium, kind == ClaimKind::Shared);
        let region =
            opened.map_err(|source| region_error(claim.path(), claim.namespace(), source))?;
        Ok((claim, region))
    }

    /// Claims the device `name` alone, for a program that maps it: nobody else can claim it, and nobody
    /// can change the region, but others can claim other devices.
    pub fn claim_device(&self, name: &str) -> Result<(Claim, DeviceInfo), NamespaceError> {
        let file = NvdimmFile::open(&self.path, ClaimKind::Exclusive, self.label_size)?;
        refuse_ambiguity(&file, self.label_size)?;
        let selection = resolve(&file, &self.selection);
        let claim = file.claim_head(&selection, PAGES_OFFSET)?;
        let medium = claim.map(DURABILITY)?;
        refuse_other_mode(claim.path(), claim.namespace(), &medium)?;
        let device = Region::open(medium, true).and_then(|region| region.device(name));
        let device =
            device.map_err(|source| region_error(claim.path(), claim.namespace(), source))?;
        device.extents.iter().try_for_each(|extent| claim.add(extent.clone()))?;
        Ok((claim, device))
    }

    /// Opens the region for reading only and without a claim, also while another process changes it: as it
    /// is at one moment.
    pub fn look(&self) -> Result<(Namespace, Region<Mapping>), NamespaceError> {
        let mut before = None;
        loop {
            let (path, namespace, medium) = self.map_to_look()?;
            match Region::look_at(medium) {
                Ok(region) => return Ok((namespace, region)),
                // It may have grown after its label was read.
                Err(_) if before.as_ref() != Some(&namespace) => before = Some(namespace),
                Err(source) => return Err(region_error(&path, &namespace, source)),
            }
        }
    }

    fn map_to_look(&self) -> Result<(PathBuf, Namespace, Mapping), NamespaceError> {
        let file = NvdimmFile::open(&self.path, ClaimKind::Shared, self.label_size)?;
        refuse_ambiguity(&file, self.label_size)?;
        let namespace = file.select(&resolve(&file, &self.selection))?;
        let medium = file.map_to_look(namespace)?;
        refuse_other_mode(file.path(), namespace, &medium)?;
        Ok((file.path().into(), namespace.clone(), medium))
    }
}

/// What went wrong with the region in a namespace.
#[must_use]
pub fn region_error(path: &Path, namespace: &Namespace, source: Error) -> NamespaceError {
    let (path, namespace) = (path.into(), namespace.device_name());
    NamespaceError::Region { path, namespace, source: source.into() }
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

/// Whether a file that has labels, as it seems, holds a region that reaches beyond their start: either
/// the region is left from before the labels, or a guest has written labels into its device.
pub fn is_ambiguous(file: &NvdimmFile, label_size: LabelSize) -> Result<bool, nvdimm::Error> {
    let (Some(area), LabelSize::Detect) = (file.labels(), label_size) else {
        return Ok(false);
    };
    let labels = file.size() - area.size;
    let whole = NvdimmFile::open(file.path(), ClaimKind::Shared, LabelSize::None)?;
    let medium = whole.map_to_look(whole.select(&Selection::Only)?)?;
    Ok(find_region(&medium).is_ok_and(|found| found.end > labels))
}

fn refuse_ambiguity(file: &NvdimmFile, label_size: LabelSize) -> Result<(), NamespaceError> {
    if is_ambiguous(file, label_size)? {
        return Err(NamespaceError::Ambiguous { path: file.path().into() });
    }
    Ok(())
}
