//! Making and destroying namespaces, with what is in them.
//!
//! A namespace exists while its label does, and the label is written and taken away in one step
//! ([`LabelEditor`]). So that a crash leaves no namespace, or a whole one:
//!
//! * to make one, the BTT (or the DAX region) comes first, complete and durable, and then the label;
//! * to destroy one, the label goes first, and then what says that there was a BTT;
//! * to change what one holds, or its uuid, it is destroyed and made again in the same place.
//!
//! What a crash in between leaves is a BTT in bytes that are free. Nothing refers to it, but it may
//! also be what is left of a namespace whose label was lost: it is overwritten only if that is forced.

mod whole_file;

use std::ops::Range;
use std::path::Path;

use uuid::Uuid;

use super::error::NamespaceError;
use super::labels;
use super::mapped;
use super::options::refuse_ambiguity;
use super::probe::{Signature, erase, probe};
use crate::btt::{self, ARENA_MAX_SIZE, ARENA_MIN_SIZE, CreateOptions, Error, LbaSize, Version};
use crate::dax::{self, Align};
use crate::nvdimm::label::LabelName;
use crate::nvdimm::{
    self, Abstraction, Claim, ClaimKind, Content, InitOptions, Initialized, LabelEditor, LabelSize,
    Namespace, NewNamespace, NvdimmFile, Place, Reservation, Selection, StrayLabels, first_stored,
};
use crate::pmem::{DurabilityRequest, Mapping, MediaError, PersistentMemory};

/// What a namespace is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes, nothing else: sectors are not atomic.
    Raw,
    /// A DAX region.
    Dax {
        /// Default alignment of its devices.
        align: Align,
    },
    /// A BTT.
    Sector {
        /// Bytes of its sectors.
        lba_size: LbaSize,
        /// Its version; `None`: the one that Linux makes with labels of the file's version.
        version: Option<Version>,
    },
}

/// A namespace to make.
#[derive(Debug, Clone)]
pub struct Provision {
    /// Where; of no concern to a namespace that is made again.
    pub place: Place,
    /// What it holds.
    pub mode: Mode,
    /// Its name; `None`: as before, or none.
    pub name: Option<LabelName>,
    /// Its uuid.
    pub uuid: Uuid,
    /// QEMU's memory slot for the file; `None`: that of the other namespaces, or 0; in dax mode none.
    pub qemu_slot: Option<u32>,
    /// Write over a BTT, or something else, that is there.
    pub force: bool,
}

/// What is made in detail, after the labels' version has decided.
#[derive(Debug, Clone, Copy)]
struct Plan {
    abstraction: Abstraction,
    /// What the label has as sector size.
    label_sector_size: u64,
    contents: Contents,
}

/// What a namespace is to hold.
#[derive(Debug, Clone, Copy)]
enum Contents {
    Bytes,
    Region(Align),
    Btt(LbaSize, Version),
}

impl Plan {
    /// What a label of the file that `editor` has open says of a namespace in this mode.
    fn with_label(editor: &LabelEditor, mode: Mode) -> Result<Plan, NamespaceError> {
        let Mode::Sector { lba_size, version } = mode else { return Ok(Plan::of(mode)) };
        let version = version.unwrap_or_else(|| labels::default_version(editor.version()));
        let abstraction = labels::abstraction(editor.version(), version)
            .ok_or_else(|| NamespaceError::OldLabels { path: editor.file().path().into() })?;
        Ok(Plan { abstraction, ..Plan::of(Mode::Sector { lba_size, version: Some(version) }) })
    }

    /// In a file without labels, Linux looks for a BTT of version 1.1. As ndctl has it, the label of a
    /// namespace in another mode than sector mode says that sectors have 512 bytes.
    fn of(mode: Mode) -> Plan {
        let (abstraction, label_sector_size, contents) = match mode {
            Mode::Raw => (Abstraction::Raw, 512, Contents::Bytes),
            Mode::Dax { align } => (Abstraction::Dax, 512, Contents::Region(align)),
            Mode::Sector { lba_size, version } => {
                let contents = Contents::Btt(lba_size, version.unwrap_or(Version::V1_1));
                (Abstraction::Unstated, lba_size.in_label(), contents)
            }
        };
        Plan { abstraction, label_sector_size, contents }
    }

    /// Refuses a place that is too small, before anything is written.
    fn check_size(&self, claim: &Claim) -> Result<(), NamespaceError> {
        let size = claim.namespace().size();
        match self.contents {
            Contents::Btt(_, version) => {
                let needed = version.first_arena() + ARENA_MIN_SIZE;
                let too_small = || NamespaceError::btt(claim, Error::TooSmall { size, needed });
                if size < needed { Err(too_small()) } else { Ok(()) }
            }
            Contents::Region(align) => {
                let needed =
                    region_options(claim.namespace().uuid, claim.namespace().range.start, align)
                        .least_size();
                let too_small =
                    || NamespaceError::claimed_region(claim, dax::Error::TooSmall { size, needed });
                if size < needed { Err(too_small()) } else { Ok(()) }
            }
            Contents::Bytes => Ok(()),
        }
    }
}

/// Opens a file to make and destroy namespaces in it, and locks its labels.
///
/// # Errors
///
/// The file has no labels, or might have none ([`NamespaceError::Ambiguous`]), or another process
/// is changing them.
pub fn edit_labels(path: &Path, label_size: LabelSize) -> Result<LabelEditor, NamespaceError> {
    let file = NvdimmFile::open(path, ClaimKind::Exclusive, label_size)?;
    refuse_ambiguity(&file)?;
    Ok(file.edit_labels()?)
}

/// Makes a label storage area at the end of a file that exists ([`nvdimm::init_labels`]).
///
/// # Errors
///
/// As there; and a BTT that fills the file is not given up unless forced.
pub fn init_labels(path: &Path, options: &InitOptions) -> Result<Initialized, NamespaceError> {
    // Labels that are at the end already, damaged or not, are looked at there.
    let file = NvdimmFile::open_quietly(path, ClaimKind::Exclusive, LabelSize::Detect);
    if let (Ok(file), false) = (file, options.force)
        && file.labels().is_none()
    {
        refuse_stray_labels(&file)?;
        let claim = file.claim(&Selection::Only)?;
        check_dispensable(&claim, &claim.map(DurabilityRequest::PageCache)?, false)?;
    }
    Ok(nvdimm::init_labels(path, options)?)
}

/// Refuses a file whose labels seem to be somewhere else than at its end.
///
/// # Errors
///
/// [`NamespaceError::StrayLabels`].
pub fn refuse_stray_labels(file: &NvdimmFile) -> Result<(), NamespaceError> {
    match file.stray_labels() {
        Some(StrayLabels { start, file_size }) => {
            Err(NamespaceError::StrayLabels { path: file.path().into(), start, file_size })
        }
        None => Ok(()),
    }
}

/// A namespace that was made, and that no other process can change while this is held.
#[derive(Debug)]
pub struct Made {
    /// The namespace.
    pub namespace: Namespace,
    holder: MadeIn,
}

/// What keeps other processes away.
#[derive(Debug)]
enum MadeIn {
    Labels(LabelEditor),
    WholeFile { file: NvdimmFile, _claim: Claim },
}

impl Made {
    /// The file that the namespace is in.
    #[must_use]
    pub fn file(&self) -> &NvdimmFile {
        match &self.holder {
            MadeIn::Labels(editor) => editor.file(),
            MadeIn::WholeFile { file, .. } => file,
        }
    }
}

/// Makes a namespace, a new one or one in place of `replaced`, in a file with labels or without;
/// `progress` is told how many bytes of how many are done.
///
/// # Errors
///
/// As [`create_namespace`] and [`reconfigure_namespace`]. A file without labels is one namespace, which has
/// neither a name nor a slot, and cannot but be made again: [`NamespaceError::WholeFile`].
pub fn create(
    path: &Path,
    label_size: LabelSize,
    provision: &Provision,
    replaced: Option<&Selection>,
    progress: impl FnMut(u64, u64),
) -> Result<Made, NamespaceError> {
    let file = NvdimmFile::open(path, ClaimKind::Exclusive, label_size)?;
    if file.labels().is_none() {
        let selection = replaced.cloned().unwrap_or(Selection::Only);
        return whole_file::create(file, &selection, provision, progress);
    }
    refuse_ambiguity(&file)?;
    let mut editor = file.edit_labels()?;
    let namespace = match replaced {
        Some(old) => reconfigure_namespace(&mut editor, old, provision, progress)?,
        None => create_namespace(&mut editor, provision, progress)?,
    };
    Ok(Made { namespace, holder: MadeIn::Labels(editor) })
}

/// Makes a namespace; `progress` is told how many bytes of how many are done.
pub fn create_namespace(
    editor: &mut LabelEditor,
    provision: &Provision,
    progress: impl FnMut(u64, u64),
) -> Result<Namespace, NamespaceError> {
    let plan = Plan::with_label(editor, provision.mode)?;
    if !provision.force {
        editor.refuse_unknown_places()?;
    }
    let reservation = reserve(editor, &plan, provision, provision.place.clone())?;
    plan.check_size(&reservation.claim)?;
    let medium = reservation.claim.map(DurabilityRequest::Strict)?;
    if !provision.force {
        let range = &reservation.claim.namespace().range;
        refuse_contents(editor.file().path(), range, &medium)?;
    }
    fill(editor, &reservation, &medium, &plan, progress)
}

/// Makes a namespace again, in its place: what it held is lost.
///
/// A crash leaves the old one, none, or the new one.
///
/// # Errors
///
/// A process holds it, or it holds something that `force` does not give up.
pub fn reconfigure_namespace(
    editor: &mut LabelEditor,
    selection: &Selection,
    provision: &Provision,
    progress: impl FnMut(u64, u64),
) -> Result<Namespace, NamespaceError> {
    let plan = Plan::with_label(editor, provision.mode)?;
    let claim = editor.claim(&mapped::resolve(editor.file(), selection))?;
    let old = claim.namespace().clone();
    let name = provision.name.or_else(|| old.label.as_ref().map(|label| label.name));
    let provision = Provision { name, ..provision.clone() };
    // All that could fail comes before the old one is gone.
    editor.check_unique(provision.uuid, name.unwrap_or(LabelName::NONE), old.uuid)?;
    plan.check_size(&claim)?;
    let medium = claim.map(DurabilityRequest::Strict)?;
    check_dispensable(&claim, &medium, provision.force)?;
    editor.delete(&claim)?;
    let reservation = reserve(editor, &plan, &provision, Place::At(old.range))?;
    fill(editor, &reservation, &medium, &plan, progress)
}

/// Destroys a namespace, and returns what it was. Its bytes go back to the file system, where that takes
/// them; otherwise its data stay where they are until something else is made there.
///
/// # Errors
///
/// A process holds it, or it holds something that `force` does not give up.
pub fn destroy_namespace(
    editor: &mut LabelEditor,
    selection: &Selection,
    force: bool,
) -> Result<Namespace, NamespaceError> {
    let claim = editor.claim(&mapped::resolve(editor.file(), selection))?;
    let medium = claim.map(DurabilityRequest::Strict)?;
    check_dispensable(&claim, &medium, force)?;
    unmake(&medium, || editor.delete(&claim))
        .map_err(|source| NamespaceError::btt(&claim, source.into()))??;
    // Also, so that what was given up here does not have to be given up again by what is made next.
    medium.discard().map_err(|source| NamespaceError::btt(&claim, source.into()))?;
    Ok(claim.namespace().clone())
}

fn reserve(
    editor: &LabelEditor,
    plan: &Plan,
    provision: &Provision,
    place: Place,
) -> Result<Reservation, NamespaceError> {
    let new = NewNamespace {
        place,
        name: provision.name.unwrap_or(LabelName::NONE),
        uuid: provision.uuid,
        abstraction: plan.abstraction,
        sector_size: plan.label_sector_size,
        qemu_slot: provision.qemu_slot,
    };
    Ok(editor.reserve(&new)?)
}

/// Makes what a reserved namespace is to hold, and then its label.
fn fill(
    editor: &mut LabelEditor,
    reservation: &Reservation,
    medium: &Mapping,
    plan: &Plan,
    progress: impl FnMut(u64, u64),
) -> Result<Namespace, NamespaceError> {
    let claim = &reservation.claim;
    let Namespace { uuid, range, .. } = claim.namespace();
    let identity = Identity::Label(uuid.unwrap_or_default());
    let place = (identity, range.start);
    let made = make(medium, plan.contents, place, progress, || editor.commit(reservation));
    Ok(made.map_err(|error| error.of(claim))??)
}

/// Why what a namespace is to hold cannot be made.
#[derive(Debug)]
enum MakeError {
    Btt(Error),
    Region(dax::Error),
}

impl MakeError {
    fn of(self, claim: &Claim) -> NamespaceError {
        match self {
            MakeError::Btt(source) => NamespaceError::btt(claim, source),
            MakeError::Region(source) => NamespaceError::claimed_region(claim, source),
        }
    }
}

impl<E: Into<Error>> From<E> for MakeError {
    fn from(error: E) -> MakeError {
        MakeError::Btt(error.into())
    }
}

/// Options of a region in a namespace at byte `file_offset` of its file.
fn region_options(uuid: Option<Uuid>, file_offset: u64, align: Align) -> dax::CreateOptions {
    let uuid = uuid.unwrap_or_else(Uuid::new_v4);
    dax::CreateOptions { align, file_offset, ..dax::CreateOptions::new(uuid) }
}

/// Whose uuid it is that a namespace is made with.
#[derive(Debug, Clone, Copy)]
enum Identity {
    /// The namespace's, as its label has it. A BTT names it as its parent; a DAX region has the same.
    Label(Uuid),
    /// That of the BTT or the DAX region: without a label, the namespace has none.
    Contents(Uuid),
}

/// Makes what a namespace of this identity, at this byte of its file, is to hold, complete and durable, and
/// then its label.
fn make<M: PersistentMemory, T>(
    medium: &M,
    contents: Contents,
    (identity, file_offset): (Identity, u64),
    progress: impl FnMut(u64, u64),
    write_label: impl FnOnce() -> T,
) -> Result<T, MakeError> {
    erase(medium)?;
    match contents {
        Contents::Bytes => {}
        Contents::Region(align) => {
            let (Identity::Label(uuid) | Identity::Contents(uuid)) = identity;
            let options = region_options(Some(uuid), file_offset, align);
            dax::create(medium, &options).map_err(MakeError::Region)?;
        }
        Contents::Btt(lba_size, version) => {
            let (uuid, parent_uuid) = match identity {
                Identity::Label(namespace) => (Uuid::new_v4(), namespace),
                Identity::Contents(uuid) => (uuid, Uuid::nil()),
            };
            let arena_size = ARENA_MAX_SIZE;
            let options = CreateOptions { lba_size, version, uuid, parent_uuid, arena_size };
            btt::create(medium, &options, progress)?;
        }
    }
    medium.sync()?;
    Ok(write_label())
}

/// Takes the label of a namespace away, and then what says that it held something.
fn unmake<M: PersistentMemory, E>(
    medium: &M,
    take_label: impl FnOnce() -> Result<(), E>,
) -> Result<Result<(), E>, MediaError> {
    let taken = take_label();
    if taken.is_ok() {
        erase(medium)?;
    }
    Ok(taken)
}

/// Refuses to give up what a namespace holds, unless forced.
fn check_dispensable(claim: &Claim, medium: &Mapping, force: bool) -> Result<(), NamespaceError> {
    if force {
        return Ok(());
    }
    let namespace = claim.namespace();
    let what = match (namespace.abstraction, signature_of(claim, medium)?) {
        (Abstraction::Pfn | Abstraction::Dax | Abstraction::Unknown(_), Signature::Nothing) => {
            format!("what Linux keeps in {} mode", namespace.abstraction.mode())
        }
        (_, Signature::Nothing) => {
            let found = found_content(medium)
                .map_err(|source| NamespaceError::btt(claim, source.into()))?;
            let Some(what) = found else { return Ok(()) };
            what
        }
        (_, remains) => remains.to_string(),
    };
    let (path, namespace) = (claim.path().into(), namespace.device_name());
    Err(NamespaceError::HoldsData { path, namespace, what })
}

/// Refuses free bytes of a file with labels that hold anything but zeroes.
///
/// What Linux leaves of a BTT that it destroys is an exception: its second info block, and the sectors.
pub(super) fn refuse_contents<M: PersistentMemory>(
    path: &Path,
    range: &Range<u64>,
    medium: &M,
) -> Result<(), NamespaceError> {
    let cannot_look = |source| nvdimm::Error::FreeMedia { path: path.into(), source };
    let (path, start, end) = (path.to_path_buf(), range.start, range.end);
    match probe(medium).map_err(&cannot_look)? {
        Signature::SecondInfo(_) => Ok(()),
        Signature::Nothing => match found_content(medium).map_err(cannot_look)? {
            Some(what) => Err(NamespaceError::FreeBytesHold { path, start, end, what }),
            None => Ok(()),
        },
        what => Err(NamespaceError::Remains { path, start, end, what }),
    }
}

/// Says what a medium holds that nothing here has made; `None`: nothing but zeroes.
fn found_content<M: PersistentMemory>(medium: &M) -> Result<Option<String>, MediaError> {
    let Some(first) = first_stored(medium)? else { return Ok(None) };
    let known = Content::find_in(medium)?;
    Ok(Some(known.map_or_else(|| format!("data, from byte {first} on"), |known| known.to_string())))
}

fn signature_of(claim: &Claim, medium: &Mapping) -> Result<Signature, NamespaceError> {
    probe(medium).map_err(|source| NamespaceError::btt(claim, source.into()))
}

#[cfg(test)]
mod tests;
