//! Namespaces of files without labels: such a file is one namespace, and cannot but have it.

use std::path::Path;

use super::{
    Identity, Made, MadeIn, Plan, Provision, check_dispensable, make, refuse_stray_labels,
};
use crate::namespace::error::NamespaceError;
use crate::namespace::mapped::{self, MappedNamespace};
use crate::namespace::probe::erase;
use crate::nvdimm::{NvdimmFile, Place, Selection};
use crate::pmem::DurabilityRequest;

/// Makes what fills a file without labels, in place of what it holds.
pub(super) fn create(
    mut file: NvdimmFile,
    selection: &Selection,
    provision: &Provision,
    progress: impl FnMut(u64, u64),
) -> Result<Made, NamespaceError> {
    check_provision(file.path(), provision)?;
    let selection = mapped::resolve(&file, selection);
    let claim = file.claim_and_keep(&selection)?;
    let medium = claim.map(DurabilityRequest::Strict)?;
    if !provision.force {
        refuse_stray_labels(&file)?;
    }
    let plan = Plan::of(provision.mode);
    plan.check_size(&claim)?;
    check_dispensable(&claim, &medium, provision.force)?;
    let place = (Identity::Contents(provision.uuid), claim.namespace().range.start);
    make(&medium, plan.contents, place, progress, || ()).map_err(|error| error.of(&claim))?;
    let namespace = claim.namespace().clone();
    Ok(Made { namespace, holder: MadeIn::WholeFile { file, _claim: claim } })
}

/// Refuses what takes a label to be said.
fn check_provision(path: &Path, provision: &Provision) -> Result<(), NamespaceError> {
    let fills_file = matches!(provision.place, Place::FirstFit { size: None, .. });
    if fills_file && provision.name.is_none() && provision.qemu_slot.is_none() {
        return Ok(());
    }
    Err(NamespaceError::WholeFile { path: path.into() })
}

impl MappedNamespace {
    /// Erases the signatures of what a namespace of a file without labels holds: it is raw then. Its bytes
    /// go back to the file system, where that takes them.
    ///
    /// # Errors
    ///
    /// The namespace holds something that `force` does not give up.
    pub fn empty(&self, force: bool) -> Result<(), NamespaceError> {
        check_dispensable(&self.claim, &self.medium, force)?;
        erase(&self.medium).map_err(|source| NamespaceError::btt(&self.claim, source.into()))?;
        self.medium.discard().map_err(|source| NamespaceError::btt(&self.claim, source.into()))
    }
}
