//! Copies of namespaces: each in a file of its own, with an identity of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::error::NamespaceError;
use super::labels::expected_version;
use super::mapped::resolve;
use super::options::NamespaceOptions;
use super::probe::has_region;
use super::zero_runs::zero_runs;
use crate::btt::{self, Btt, Error, Version};
use crate::nvdimm::label::LabelName;
use crate::nvdimm::{
    Claim, ClaimKind, LabelSize, Namespace, NewNamespace, NvdimmFile, Place, Selection,
    label_new_file,
};
use crate::pmem::{DurabilityRequest, Mapping, MediaError, PersistentMemory, clone_range};

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;
/// What zeroes are told apart by: the copy has holes for them.
const PIECE: usize = 4096;

/// The use that is made of shared extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflink {
    /// If the file system can.
    Auto,
    /// It must.
    Always,
    /// It must not.
    Never,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The namespace, or that of the copy.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// It holds what cannot be copied.
    #[error(
        "{path}: {namespace} is in dax mode, whose devices belong to owners: 'nvdimmctl dax export' copies a device"
    )]
    Region {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
    },
    /// The file system shares no extents.
    #[error(
        "{path}: its file system cannot share these bytes with the copy; --reflink=auto copies them where it cannot"
    )]
    NoReflink {
        /// The file that is copied.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace cannot be read.
    #[error("{path}: cannot be read; check the namespace first: 'nvdimmctl check-namespace'")]
    Read {
        /// The file that is copied.
        path: PathBuf,
        /// Why.
        source: MediaError,
    },
    /// The copy cannot be written.
    #[error("{path}: cannot write the copy")]
    Write {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was told to stop.
    #[error("interrupted: there is no copy")]
    Interrupted,
}

/// A namespace that is copied.
pub struct Original {
    path: PathBuf,
    file: NvdimmFile,
    namespace: Namespace,
    medium: Mapping,
    version: Option<Version>,
    /// Keeps writers away; `None`: something else does.
    _claim: Option<Claim>,
}

impl Original {
    /// Claims a namespace, so that no process writes to it meanwhile.
    ///
    /// # Errors
    ///
    /// A process holds it, or it holds a DAX region.
    pub fn claim(options: &NamespaceOptions) -> Result<Original, CopyError> {
        let mut file = options.open_file(ClaimKind::Shared)?;
        let selection = resolve(&file, &options.selection);
        let claim = file.claim_and_keep(&selection).map_err(NamespaceError::from)?;
        let namespace = claim.namespace().clone();
        Original::of(options, file, namespace, Some(claim))
    }

    /// Looks at a namespace that a process holds, and does not write to meanwhile.
    ///
    /// # Errors
    ///
    /// It holds a DAX region.
    pub fn look(options: &NamespaceOptions) -> Result<Original, CopyError> {
        let file = options.open_file(ClaimKind::Shared)?;
        let selection = resolve(&file, &options.selection);
        let namespace = file.select(&selection).map_err(NamespaceError::from)?.clone();
        Original::of(options, file, namespace, None)
    }

    fn of(
        options: &NamespaceOptions,
        file: NvdimmFile,
        namespace: Namespace,
        claim: Option<Claim>,
    ) -> Result<Original, CopyError> {
        let path = options.path.clone();
        let medium = file.map_to_look(&namespace).map_err(NamespaceError::from)?;
        if has_region(&medium) || !namespace.abstraction.may_be_btt() {
            return Err(CopyError::Region { path, namespace: namespace.device_name() });
        }
        let version = expected_version(&namespace, options.version);
        Ok(Original { path, file, namespace, medium, version, _claim: claim })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives `into`, an empty file that is going to be `path`, the bytes of the namespace. Returns whether both
    /// files share them. `progress` is told how many bytes of how many are done, and says whether to go on.
    ///
    /// # Errors
    ///
    /// [`CopyError`]; `into` is of no use then.
    pub fn copy(
        &self,
        path: &Path,
        into: &File,
        reflink: Reflink,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<bool, CopyError> {
        if reflink != Reflink::Never {
            match clone_range(self.file.file(), &self.namespace.range, into) {
                Ok(()) => return Ok(true),
                Err(source) if reflink == Reflink::Always => {
                    return Err(CopyError::NoReflink { path: self.path.clone(), source });
                }
                Err(error) => log::debug!("{}: not shared: {error}", self.path.display()),
            }
        }
        let fails = |source| CopyError::Write { path: path.into(), source };
        let size = self.medium.size();
        into.set_len(size).map_err(fails)?;
        let mut chunk = vec![0; CHUNK as usize];
        let mut position = 0;
        while position < size {
            if !progress(position, size) {
                return Err(CopyError::Interrupted);
            }
            // What the file system knows to be a hole is not read.
            position = self.medium.next_stored(position).min(size) / PIECE as u64 * PIECE as u64;
            let part = &mut chunk[..(size - position).min(CHUNK) as usize];
            let read = self.medium.read_bytes(position, part);
            read.map_err(|source| CopyError::Read { path: self.path.clone(), source })?;
            for run in zero_runs(part, PIECE).iter().filter(|run| !run.is_zero) {
                let bytes = &part[run.start..run.end];
                into.write_all_at(bytes, position + run.start as u64).map_err(fails)?;
            }
            position += part.len() as u64;
        }
        progress(size, size);
        Ok(false)
    }

    /// Makes what was copied to `file`, which is going to be `path`, a namespace of its own, which goes by `uuid`.
    /// What an interrupted write has left is completed in it.
    ///
    /// # Errors
    ///
    /// The BTT is damaged, or the medium fails.
    pub fn become_own(
        &self,
        path: &Path,
        file: &Arc<File>,
        uuid: Uuid,
    ) -> Result<Namespace, CopyError> {
        let whole = NamespaceOptions {
            file: Some(file.clone()),
            version: self.version,
            durability: DurabilityRequest::PageCache,
            ..NamespaceOptions::new(path.into(), Selection::Only, LabelSize::None)
        };
        let Some(area) = self.file.labels() else {
            let claim = claim_whole(&whole)?;
            self.set_identity(&claim, uuid)?;
            return Ok(claim.namespace().clone());
        };
        let size = self.namespace.size();
        let version = area.index.version;
        label_new_file(path, file, size, area.size, version).map_err(NamespaceError::from)?;
        let labelled = NamespaceOptions { label_size: LabelSize::Bytes(area.size), ..whole };
        let editor = labelled.open_file(ClaimKind::Exclusive)?.edit_labels();
        let mut editor = editor.map_err(NamespaceError::from)?;
        let reservation = editor.reserve(&self.label(uuid)).map_err(NamespaceError::from)?;
        self.set_identity(&reservation.claim, uuid)?;
        Ok(editor.commit(&reservation).map_err(NamespaceError::from)?)
    }

    /// What the label of the copy says.
    fn label(&self, uuid: Uuid) -> NewNamespace {
        let label = self.namespace.label.as_ref();
        NewNamespace {
            place: Place::At(0..self.namespace.size()),
            name: label.map_or(LabelName::NONE, |label| label.name),
            uuid,
            abstraction: self.namespace.abstraction,
            sector_size: label.map_or(0, |label| label.lbasize),
            qemu_slot: None,
        }
    }

    /// Gives the BTT in a copy, if there is one, an identity of its own. The uuid of a BTT in a file without labels is
    /// that of the disk.
    fn set_identity(&self, claim: &Claim, uuid: Uuid) -> Result<(), NamespaceError> {
        let fails = |source| NamespaceError::btt(claim, source);
        let map = || claim.map(DurabilityRequest::PageCache);
        let medium = map()?;
        match btt::find(&medium, self.version) {
            // Bytes, in raw mode.
            Err(Error::NotFound) => return Ok(()),
            found => found.map_err(fails)?,
        };
        let options = btt::OpenOptions {
            version: self.version,
            namespace: None,
            read_only: false,
            queues: 1,
            atomic: 0,
        };
        drop(Btt::open(medium, &options).map_err(fails)?);
        let medium = map()?;
        let own = if self.namespace.label.is_some() { Uuid::new_v4() } else { uuid };
        btt::set_identity(&medium, self.version, own, uuid).map_err(fails)?;
        medium.sync().map_err(|source| fails(source.into()))
    }
}

fn claim_whole(options: &NamespaceOptions) -> Result<Claim, NamespaceError> {
    Ok(options.open_file(ClaimKind::Exclusive)?.claim(&Selection::Only)?)
}
