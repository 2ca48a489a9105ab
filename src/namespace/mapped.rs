//! A BTT in a namespace of an NVDIMM file: from a path to an open disk.

use std::path::PathBuf;

use uuid::Uuid;

use super::labels::expected_version;
use super::probe::{Signature, has_region};
use crate::btt::{
    self, Btt, Copies, Error, FoundArena, Geometry, OpenOptions, Opened, Version, largest_group,
};
use crate::dax;
use crate::nvdimm::{
    self, Abstraction, Claim, ClaimKind, Holder, LabelSize, Namespace, NvdimmFile, Selection,
};
use crate::pmem::{DurabilityRequest, MapError, Mapping, PersistentMemory};

/// Which namespace, and how.
#[derive(Debug, Clone)]
pub struct NamespaceOptions {
    /// The NVDIMM file.
    pub path: PathBuf,
    /// The namespace in it.
    pub selection: Selection,
    /// Where its labels are.
    pub label_size: LabelSize,
    /// Version of the BTT, where the namespace's label does not say and there could be two.
    pub version: Option<Version>,
    /// What a fence is to make durable.
    pub durability: DurabilityRequest,
}

/// Why the BTT in a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Writes of so many bytes cannot be all or nothing.
    #[error(
        "{path}: writes of {atomic} bytes cannot be all or nothing with {queues} queues, of {most} bytes at most{}",
        match .fewer { 0 => String::new(), fewer => format!("; with {fewer} queues or fewer they can be") }
    )]
    Atomic {
        /// The NVDIMM file.
        path: PathBuf,
        /// Bytes, as asked for.
        atomic: u32,
        /// Most bytes that can be.
        most: u32,
        /// Number of queues.
        queues: usize,
        /// The most queues with which it would do; 0: none.
        fewer: usize,
    },
    /// The file, or the claim.
    #[error(transparent)]
    Nvdimm(#[from] nvdimm::Error),
    /// The BTT.
    #[error("{path}: {namespace}: {source}")]
    Btt {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What is wrong; part of the message.
        source: Box<Error>,
    },
    /// The DAX region that is to be made.
    #[error("{path}: {namespace}: {source}")]
    Region {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What is wrong; part of the message.
        source: Box<dax::Error>,
    },
    /// A DAX region that somebody has open cannot grow.
    #[error(
        "{path}: {namespace} is held by {holder}, and a DAX region grows only while no process holds it: end \
         that first, and start it again afterwards"
    )]
    RegionHeld {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// Who holds it.
        holder: Holder,
    },
    /// The namespace holds something else by its label.
    #[error("{path}: {namespace} is in {mode} mode, not in sector mode")]
    NotSector {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// Its mode.
        mode: &'static str,
    },
    /// The file can be read in two ways.
    #[error(
        "{path}: there are labels at the end of the file, and an intact BTT or DAX region that takes up \
         the whole file; say with --label-size whether it has labels ('none', or their size)"
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
    },
    /// The namespace holds something that was not to be given up.
    #[error("{path}: {namespace} holds {what}; --force discards it")]
    HoldsData {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What it holds.
        what: String,
    },
    /// The file has labels somewhere else than at its end.
    #[error(
        "{path}: there are labels at byte {start}, and not at the end: the file seems to have been made \
         longer or shorter; 'truncate -s {file_size} {path}' makes it as it was, '--label-size none' says \
         that it has no labels, and --force discards them"
    )]
    StrayLabels {
        /// The file.
        path: PathBuf,
        /// Where they are.
        start: u64,
        /// The size of the file that they belong to.
        file_size: u64,
    },
    /// Bytes of a namespace without a label, behind what is in it, hold something that nothing here has made.
    #[error(
        "{path}: there are data behind the {what} that is to grow, from byte {offset:#x} on; \
         'grow-namespace --force' overwrites them"
    )]
    DataBehind {
        /// The file.
        path: PathBuf,
        /// What is to grow.
        what: &'static str,
        /// Where the data begin.
        offset: u64,
    },
    /// Bytes that belong to no namespace hold something that nothing here has made.
    #[error(
        "{path}: bytes {start:#x} to {end:#x} belong to no namespace, but hold {what}; --force writes \
         over it"
    )]
    FreeBytesHold {
        /// The file.
        path: PathBuf,
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
        /// What is there.
        what: String,
    },
    /// Bytes without a label hold something.
    #[error(
        "{path}: bytes {start:#x} to {end:#x} belong to no namespace, but hold {what}, left by a \
         namespace whose making or destruction was interrupted, or whose label was lost; --force \
         overwrites it"
    )]
    Remains {
        /// The file.
        path: PathBuf,
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
        /// What is there.
        what: Signature,
    },
    /// What takes a label to be said was asked for.
    #[error("{path}: a file without labels is one namespace, without a name")]
    WholeFile {
        /// The file.
        path: PathBuf,
    },
    /// What is behind the BTT may belong to others.
    #[error(
        "{path}: the BTT in this file is that of a namespace with a label, and the file has no labels: \
         they were lost, or --label-size does not say where they are; what is behind the BTT may \
         belong to other namespaces, so it does not grow"
    )]
    LabelsLost {
        /// The file.
        path: PathBuf,
    },
    /// A BTT that Linux does not look for.
    #[error("{path}: with labels of version 1.1, Linux finds a BTT of version 1.1 alone")]
    OldLabels {
        /// The file.
        path: PathBuf,
    },
}

/// A claimed namespace, mapped.
#[derive(Debug)]
pub struct MappedNamespace<M = Mapping> {
    /// The claim.
    pub claim: Claim,
    /// The namespace's bytes.
    pub medium: M,
    /// The version that its BTT has to have; `None`: either.
    pub version: Option<Version>,
}

impl NamespaceOptions {
    /// Claims and maps the namespace.
    pub fn map(&self, kind: ClaimKind) -> Result<MappedNamespace, NamespaceError> {
        let file = NvdimmFile::open(&self.path, kind, self.label_size)?;
        refuse_ambiguity(&file, self.label_size)?;
        let selection = resolve(&file, &self.selection);
        let claim = file.claim(&selection)?;
        let medium = claim.map(self.durability)?;
        let version = self.version_for(&claim, &medium)?;
        Ok(MappedNamespace { claim, medium, version })
    }

    /// The version that the BTT of a namespace has to have, by its label or by request.
    fn version_for(
        &self,
        claim: &Claim,
        medium: &Mapping,
    ) -> Result<Option<Version>, NamespaceError> {
        let namespace = claim.namespace();
        if namespace.abstraction.may_be_btt() {
            Ok(expected_version(namespace, self.version))
        } else {
            Err(not_sector(claim, medium))
        }
    }
}

fn not_sector<M: PersistentMemory>(claim: &Claim, medium: &M) -> NamespaceError {
    let labelled = claim.namespace().abstraction.mode();
    NamespaceError::NotSector {
        path: claim.path().into(),
        namespace: claim.namespace().device_name(),
        mode: if has_region(medium) { "dax" } else { labelled },
    }
}

impl<M: PersistentMemory> MappedNamespace<M> {
    /// The namespace on what `change` makes of its medium.
    pub fn with_medium<N: PersistentMemory>(
        self,
        change: impl FnOnce(M) -> Result<N, MapError>,
    ) -> Result<MappedNamespace<N>, NamespaceError> {
        let MappedNamespace { claim, medium, version } = self;
        match change(medium) {
            Ok(medium) => Ok(MappedNamespace { claim, medium, version }),
            Err(source) => Err(nvdimm::Error::Map { path: claim.path().into(), source }.into()),
        }
    }

    /// The arenas of the BTT, without opening it.
    pub fn find(&self) -> Result<Vec<FoundArena>, NamespaceError> {
        self.refuse_other_modes()?;
        btt::find(&self.medium, self.version).map_err(|source| btt_error(&self.claim, source))
    }

    /// Whether the label says that the namespace is in raw mode, and it is: Linux makes such a
    /// namespace one in sector mode by putting a BTT into it.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.claim.namespace().abstraction == Abstraction::Raw
            && btt::find(&self.medium, self.version) == Err(Error::NotFound)
    }

    /// Whether it holds a DAX region, and no BTT.
    #[must_use]
    pub fn is_region(&self) -> bool {
        has_region(&self.medium) && btt::find(&self.medium, self.version) == Err(Error::NotFound)
    }

    /// Refuses a namespace in raw mode, or in dax mode.
    pub fn refuse_other_modes(&self) -> Result<(), NamespaceError> {
        if self.is_raw() || self.is_region() {
            return Err(not_sector(&self.claim, &self.medium));
        }
        Ok(())
    }

    /// Opens the BTT for `queues` queues; read-only if the claim is shared, or if asked for. Aligned writes of
    /// up to `atomic` bytes are all or nothing, if it is not 0.
    ///
    /// # Errors
    ///
    /// So large a write cannot be; what is wrong with the BTT.
    pub fn open(
        self,
        read_only: bool,
        queues: usize,
        atomic: u32,
    ) -> Result<(Claim, Opened<M>), NamespaceError> {
        self.refuse_other_modes()?;
        self.check_atomic(queues, atomic)?;
        let MappedNamespace { claim, medium, version } = self;
        let namespace = claim.namespace().uuid;
        let read_only = read_only || claim.kind() == ClaimKind::Shared;
        let options = OpenOptions { version, namespace, read_only, queues, atomic };
        match Btt::open(medium, &options) {
            Ok(opened) => Ok((claim, opened)),
            Err(source) => Err(btt_error(&claim, source)),
        }
    }

    /// Refuses to promise that writes of `atomic` bytes are all or nothing where they cannot be.
    fn check_atomic(&self, queues: usize, atomic: u32) -> Result<(), NamespaceError> {
        if atomic == 0 {
            return Ok(());
        }
        let found = btt::find(&self.medium, self.version);
        let found = found.map_err(|source| btt_error(&self.claim, source))?;
        let arenas: Vec<Geometry> = found.iter().map(|arena| arena.info.geometry).collect();
        let most = largest_group(&arenas, queues);
        if atomic <= most {
            return Ok(());
        }
        let fewer = (1..queues).rev().find(|queues| largest_group(&arenas, *queues) >= atomic);
        let path = self.claim.path().into();
        Err(NamespaceError::Atomic { path, atomic, most, queues, fewer: fewer.unwrap_or(0) })
    }
}

pub(super) fn btt_error(claim: &Claim, source: Error) -> NamespaceError {
    NamespaceError::Btt {
        path: claim.path().into(),
        namespace: claim.namespace().device_name(),
        source: source.into(),
    }
}

pub(super) fn region_error(claim: &Claim, source: dax::Error) -> NamespaceError {
    let (path, namespace) = (claim.path().into(), claim.namespace().device_name());
    NamespaceError::Region { path, namespace, source: source.into() }
}

/// What is meant by `selection` where it is the uuid of a BTT, which is what ndctl lists for a namespace
/// in sector mode: the namespace that the BTT is in. Likewise for a DAX region in a file without labels.
#[must_use]
pub fn resolve(file: &NvdimmFile, selection: &Selection) -> Selection {
    let Selection::Named(name) = selection else { return Selection::Only };
    let Ok(wanted) = Uuid::try_parse(name) else { return selection.clone() };
    let holds = |namespace: &&Namespace| {
        namespace.abstraction.may_be_btt()
            && file.map_to_look(namespace).is_ok_and(|medium| {
                let version = expected_version(namespace, None);
                btt::find(&medium, version)
                    .is_ok_and(|arenas| arenas.iter().all(|arena| arena.info.uuid == wanted))
            })
    };
    let namespaces = file.namespaces();
    if namespaces.iter().any(|namespace| namespace.uuid == Some(wanted)) {
        return selection.clone();
    }
    match namespaces.iter().find(holds) {
        Some(namespace) => Selection::Named(
            namespace.uuid.map_or_else(|| namespace.device_name(), |uuid| uuid.to_string()),
        ),
        None => super::region::resolve(file, selection),
    }
}

/// Refuses a file that has labels, as it seems, and an intact BTT or a DAX region that reaches beyond
/// their start: either it is left from before the labels, or a guest has written labels into its disk.
pub(super) fn refuse_ambiguity(
    file: &NvdimmFile,
    label_size: LabelSize,
) -> Result<(), NamespaceError> {
    let (Some(area), LabelSize::Detect) = (file.labels(), label_size) else {
        return Ok(());
    };
    let labels = file.size() - area.size;
    let whole = NvdimmFile::open(file.path(), ClaimKind::Shared, LabelSize::None)?;
    let medium = whole.map_to_look(whole.select(&Selection::Only)?)?;
    let reaches_labels = |arena: &FoundArena| {
        arena.copies == Copies::Intact && arena.start + arena.info.geometry.size() > labels
    };
    match btt::find(&medium, None) {
        Ok(found) if found.iter().any(reaches_labels) => {
            Err(NamespaceError::Ambiguous { path: file.path().into() })
        }
        _ if super::region::is_ambiguous(file, label_size)? => {
            Err(NamespaceError::Ambiguous { path: file.path().into() })
        }
        _ => Ok(()),
    }
}
