//! Growing a namespace, and the BTT or the DAX region in it.
//!
//! The label, or the size of a file without labels, comes first: a BTT in a namespace that is larger
//! than it needs is a BTT all the same. Then the BTT grows into the new bytes (the module `grow`). A
//! crash in between leaves the second step to be done again.

use std::ops::Range;

use super::error::NamespaceError;
use super::make::refuse_contents;
use super::mapped::{MappedNamespace, resolve};
use super::options::NamespaceOptions;
use crate::btt::{self, ARENA_MAX_SIZE, FoundArena, Growth, Version};
use crate::dax;
use crate::nvdimm::{
    self, Claim, ClaimKind, Holder, LINUX_ALIGNMENT, Namespace, NvdimmFile, Selection, grow_file,
    grow_open_file,
};
use crate::pmem::{DurabilityRequest, MediaError, PersistentMemory};

/// What became of a namespace that was to grow.
#[derive(Debug)]
pub struct Grown {
    /// The namespace, with its new size.
    pub namespace: Namespace,
    /// What became of what is in it.
    pub contents: Contents,
}

/// What became of what is in a namespace that has grown.
#[derive(Debug)]
pub enum Contents {
    /// The BTT has grown.
    Grown(Growth),
    /// The BTT fills the namespace already, or as good as.
    Full,
    /// The DAX region has grown, or fills the namespace already.
    Region(dax::Growth),
    /// There is no BTT.
    Raw,
    /// A process holds the namespace: the BTT can grow when none does.
    Held(Holder),
}

/// Gives a namespace `size` bytes in all; `None`: all that are free behind it, or that a file without
/// labels has. Then the BTT in it grows, or the DAX region, unless a process holds the namespace.
///
/// # Errors
///
/// The new size is smaller, misaligned, or not free; what is free holds a BTT that has lost its label,
/// and `force` does not give it up; a file without labels has data behind its BTT or region, likewise; the
/// BTT is damaged; another process holds a DAX region.
pub fn grow_namespace(
    options: &NamespaceOptions,
    size: Option<u64>,
    force: bool,
    progress: impl FnMut(u64, u64),
) -> Result<Grown, NamespaceError> {
    let file = options.open_file(ClaimKind::Exclusive)?;
    let selection = resolve(&file, &options.selection);
    let has_labels = file.labels().is_some();
    let region = claim_region(file, &selection)?;
    let namespace = if has_labels {
        let mut editor = options.open_file(ClaimKind::Exclusive)?.edit_labels()?;
        let growth = editor.growth(&selection, size, LINUX_ALIGNMENT)?;
        if !force && !growth.is_empty() {
            editor.refuse_unknown_places()?;
            refuse_remains(editor.file(), &growth)?;
        }
        editor.grow(&selection, &growth)?
    } else {
        if !force {
            refuse_data_behind(options, &selection)?;
        }
        grow_whole_file(options, &selection, size)?
    };
    if let Some(claim) = region {
        let contents = Contents::Region(grow_region(&claim.renew(options.label_size)?)?);
        return Ok(Grown { namespace, contents });
    }
    let by_uuid = namespace.uuid.map(|uuid| Selection::Named(uuid.to_string()));
    let options = NamespaceOptions { selection: by_uuid.unwrap_or(selection), ..options.clone() };
    let contents = match options.map(ClaimKind::Exclusive) {
        Ok(mapped) => mapped.grow(progress)?,
        Err(NamespaceError::Nvdimm(nvdimm::Error::Busy { holder, .. })) => Contents::Held(holder),
        Err(NamespaceError::NotSector { .. }) => Contents::Raw,
        Err(error) => return Err(error),
    };
    Ok(Grown { namespace, contents })
}

/// Refuses free bytes that hold something: the BTT of a namespace whose label was lost, or any other data.
fn refuse_remains(file: &NvdimmFile, range: &Range<u64>) -> Result<(), NamespaceError> {
    let medium = file.map_bytes_to_look(range.clone())?;
    refuse_contents(file.path(), range, &medium)
}

/// Refuses to let what fills a file without labels, as far as it does, grow over data behind it.
fn refuse_data_behind(
    options: &NamespaceOptions,
    selection: &Selection,
) -> Result<(), NamespaceError> {
    let path = options.path.as_path();
    let file = whole(options).open_unchecked(ClaimKind::Shared)?;
    let namespace = file.select(selection)?;
    let medium = file.map_to_look(namespace)?;
    let cannot_look = |source| nvdimm::Error::FreeMedia { path: path.into(), source };
    if btt::find(&medium, None).is_ok_and(|found| had_label(&found)) {
        return Err(NamespaceError::LabelsLost { path: path.into() });
    }
    let (what, offset) = if super::region::find_in(&file, namespace).is_some() {
        ("DAX region", first_behind_region(&medium).map_err(cannot_look)?)
    } else {
        // What is wrong with a BTT is said when it grows.
        ("BTT", btt::first_foreign(&medium, None, ARENA_MAX_SIZE).unwrap_or(None))
    };
    let path = path.into();
    offset.map_or(Ok(()), |offset| Err(NamespaceError::DataBehind { path, what, offset }))
}

/// Returns whether the namespace of a BTT had a label when the BTT was made.
fn had_label(found: &[FoundArena]) -> bool {
    found.iter().any(|arena| !arena.info.parent_uuid.is_nil())
}

/// Offset of the first byte behind the region in `medium` that is not zero: growth writes nothing there.
fn first_behind_region<M: PersistentMemory>(medium: &M) -> Result<Option<u64>, MediaError> {
    let end = dax::end(medium).unwrap_or(medium.size());
    nvdimm::first_stored_from(medium, end)
}

/// The claim on a namespace that holds a DAX region; `None`: it holds none. Unlike a BTT, it grows only
/// while no process has it open, which is checked before the namespace grows.
fn claim_region(file: NvdimmFile, selection: &Selection) -> Result<Option<Claim>, NamespaceError> {
    let namespace = file.select(selection)?;
    if super::region::find_in(&file, namespace).is_none() {
        return Ok(None);
    }
    match file.claim(selection) {
        Ok(claim) => Ok(Some(claim)),
        Err(nvdimm::Error::Busy { path, namespace, holder }) => {
            Err(NamespaceError::RegionHeld { path, namespace, holder })
        }
        Err(error) => Err(error.into()),
    }
}

fn grow_region(claim: &Claim) -> Result<dax::Growth, NamespaceError> {
    let medium = claim.map(DurabilityRequest::Strict)?;
    dax::grow(&medium).map_err(|source| NamespaceError::claimed_region(claim, source))
}

/// The same file, as one that has no labels.
fn whole(options: &NamespaceOptions) -> NamespaceOptions {
    NamespaceOptions { label_size: nvdimm::LabelSize::None, ..options.clone() }
}

fn grow_whole_file(
    options: &NamespaceOptions,
    selection: &Selection,
    size: Option<u64>,
) -> Result<Namespace, NamespaceError> {
    match (&options.file, size) {
        (Some(file), Some(size)) => grow_open_file(&options.path, file, size)?,
        (None, Some(size)) => grow_file(&options.path, size)?,
        (_, None) => {}
    }
    let file = whole(options).open_unchecked(ClaimKind::Exclusive)?;
    Ok(file.select(selection)?.clone())
}

/// Lets the BTT of the namespace that `claim` holds grow into the bytes that the namespace has by now.
/// Returns the namespace as it is to be opened again; `None`: it is as large as before.
///
/// The engine that has the BTT open through `claim` must not write to it meanwhile; it goes on with the BTT
/// as it was if this fails.
///
/// # Errors
///
/// The labels cannot be read, another process holds some of the new bytes, or the BTT is damaged.
pub fn grow_claimed(
    options: &NamespaceOptions,
    claim: &Claim,
    version: Option<Version>,
) -> Result<Option<MappedNamespace>, NamespaceError> {
    let renewed = claim.renew(options.label_size)?;
    let has_grown = renewed.namespace().size() > claim.namespace().size();
    // A label that gives a BTT more than it has was written in order to let it grow. The rest of a
    // file without labels may be anything, unless it has come since.
    if !has_grown && renewed.namespace().label.is_none() {
        return Ok(None);
    }
    // However the disk is served: a power failure leaves the old BTT, or the new one.
    let medium = renewed.map(DurabilityRequest::Strict)?;
    let namespace = MappedNamespace { claim: renewed, medium, version };
    if namespace.has_room()? {
        namespace.refuse_data_behind()?;
        namespace.grow(|_, _| {})?;
    } else if !has_grown {
        return Ok(None);
    }
    let claim = namespace.claim;
    let medium = claim.map(options.durability)?;
    Ok(Some(MappedNamespace { claim, medium, version }))
}

impl MappedNamespace {
    /// Returns whether there are bytes behind the BTT into which it could grow.
    pub fn has_room(&self) -> Result<bool, NamespaceError> {
        btt::has_room(&self.medium, self.version)
            .map_err(|error| NamespaceError::btt(&self.claim, error))
    }

    /// Refuses to grow over data, in a file without labels. A label says whose the bytes are.
    fn refuse_data_behind(&self) -> Result<(), NamespaceError> {
        if self.claim.namespace().label.is_some() {
            return Ok(());
        }
        self.refuse_lost_labels()?;
        let found = btt::first_foreign(&self.medium, self.version, ARENA_MAX_SIZE)
            .map_err(|error| NamespaceError::btt(&self.claim, error))?;
        let (path, what) = (self.claim.path().into(), "BTT");
        found.map_or(Ok(()), |offset| Err(NamespaceError::DataBehind { path, what, offset }))
    }

    /// Refuses the BTT of a namespace that had a label, in a file that has none any more: behind it are
    /// other namespaces, whose labels were lost as well.
    fn refuse_lost_labels(&self) -> Result<(), NamespaceError> {
        if self.claim.namespace().label.is_none() && had_label(&self.find()?) {
            return Err(NamespaceError::LabelsLost { path: self.claim.path().into() });
        }
        Ok(())
    }

    /// Lets the BTT grow until it fills the namespace.
    pub fn grow(&self, progress: impl FnMut(u64, u64)) -> Result<Contents, NamespaceError> {
        if self.is_raw() {
            return Ok(Contents::Raw);
        }
        self.refuse_lost_labels()?;
        match btt::grow(&self.medium, self.version, ARENA_MAX_SIZE, progress) {
            Ok(growth) => Ok(Contents::Grown(growth)),
            Err(btt::Error::NoRoom { .. }) => Ok(Contents::Full),
            Err(error) => Err(NamespaceError::btt(&self.claim, error)),
        }
    }
}
