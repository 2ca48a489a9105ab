//! Which namespace of which file is meant.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::btt::{self, Copies, FoundArena, Version};
use crate::nvdimm::{ClaimKind, LabelSize, NvdimmFile, Selection};
use crate::pmem::DurabilityRequest;

use super::error::NamespaceError;
use super::probe::find_region;

/// Selects a namespace, and says how it is used.
#[derive(Debug, Clone)]
pub struct NamespaceOptions {
    /// The NVDIMM file.
    pub path: PathBuf,
    /// The file, if the caller has opened it; `None`: it is opened by its path. Locks on it belong
    /// to all that use it.
    pub file: Option<Arc<File>>,
    /// The namespace in it.
    pub selection: Selection,
    /// Where its labels are.
    pub label_size: LabelSize,
    /// Version of its BTT, where the namespace's label does not say and there could be two.
    pub version: Option<Version>,
    /// What a fence makes durable in its BTT. Changes of a DAX region are always durable.
    pub durability: DurabilityRequest,
}

impl NamespaceOptions {
    /// Selects a namespace, with a BTT of any version and the durability that its file allows.
    #[must_use]
    pub fn new(path: PathBuf, selection: Selection, label_size: LabelSize) -> NamespaceOptions {
        let (version, durability) = (None, DurabilityRequest::Auto);
        NamespaceOptions { path, file: None, selection, label_size, version, durability }
    }

    /// Opens the file for what `kind` needs.
    pub(super) fn open_file(&self, kind: ClaimKind) -> Result<NvdimmFile, NamespaceError> {
        let file = self.open_unchecked(kind)?;
        refuse_ambiguity(&file)?;
        Ok(file)
    }

    /// As `open_file`, also if the labels may be a guest's.
    pub(super) fn open_unchecked(&self, kind: ClaimKind) -> Result<NvdimmFile, NamespaceError> {
        let opened = match &self.file {
            Some(file) => NvdimmFile::of(&self.path, file, kind, self.label_size),
            None => NvdimmFile::open(&self.path, kind, self.label_size),
        };
        Ok(opened?)
    }
}

/// Refuses a file that has labels, as it seems, and an intact BTT or a DAX region that reaches beyond
/// their start: either it is left from before the labels, or a guest has written labels into its disk.
pub(super) fn refuse_ambiguity(file: &NvdimmFile) -> Result<(), NamespaceError> {
    let Some(area) = file.labels().filter(|_| file.label_size() == LabelSize::Detect) else {
        return Ok(());
    };
    let labels = file.size() - area.size;
    let medium = file.map_whole_to_look()?;
    let reaches_labels = |arena: &FoundArena| {
        arena.copies == Copies::Intact && arena.start + arena.info.geometry.size() > labels
    };
    let has_btt = btt::find(&medium, None).is_ok_and(|found| found.iter().any(reaches_labels));
    if has_btt || find_region(&medium).is_ok_and(|found| found.end > labels) {
        return Err(NamespaceError::Ambiguous { path: file.path().into() });
    }
    Ok(())
}
