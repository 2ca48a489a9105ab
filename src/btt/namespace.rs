//! A BTT in a namespace of an NVDIMM file: from a path to an open disk.

use std::path::{Path, PathBuf};

use super::create::{self, CreateOptions};
use super::discovery::{self, Copies, FoundArena};
use super::engine::Btt;
use super::error::Error;
use super::info_block::Version;
use super::open::{OpenOptions, Opened};
use crate::nvdimm::{self, Abstraction, Claim, ClaimKind, LabelSize, NvdimmFile, Selection};
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
        "{path}: there are labels at the end of the file, and an intact BTT that takes up the whole \
         file; say with --label-size whether it has labels ('none', or their size)"
    )]
    Ambiguous {
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
        if let (Some(labels), LabelSize::Detect) = (file.labels(), self.label_size) {
            refuse_ambiguity(&self.path, file.size() - labels.size)?;
        }
        let claim = file.claim(&self.selection)?;
        let version = self.version_for(&claim)?;
        let medium = claim.map(self.durability)?;
        Ok(MappedNamespace { claim, medium, version })
    }

    /// The version that the BTT of a namespace has to have, by its label or by request.
    fn version_for(&self, claim: &Claim) -> Result<Option<Version>, NamespaceError> {
        let namespace = claim.namespace();
        match namespace.abstraction {
            Abstraction::Btt => Ok(Some(Version::V1_1)),
            Abstraction::Btt2 => Ok(Some(Version::V2_0)),
            // Linux, too, looks for a BTT in a namespace whose label says nothing.
            Abstraction::Unstated | Abstraction::Raw => Ok(self.version),
            other => Err(NamespaceError::NotSector {
                path: claim.path().into(),
                namespace: namespace.device_name(),
                mode: other.mode(),
            }),
        }
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
        discovery::find(&self.medium, self.version).map_err(|source| btt_error(&self.claim, source))
    }

    /// Opens the BTT for `queues` queues; read-only if the claim is shared, or if asked for.
    pub fn open(
        self,
        read_only: bool,
        queues: usize,
    ) -> Result<(Claim, Opened<M>), NamespaceError> {
        let MappedNamespace { claim, medium, version } = self;
        let namespace = claim.namespace().uuid;
        let read_only = read_only || claim.kind() == ClaimKind::Shared;
        let options = OpenOptions { version, namespace, read_only, queues };
        match Btt::open(medium, &options) {
            Ok(opened) => Ok((claim, opened)),
            Err(source) => Err(btt_error(&claim, source)),
        }
    }

    /// Creates a BTT that fills the namespace.
    pub fn create(
        &self,
        options: &CreateOptions,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), NamespaceError> {
        create::create(&self.medium, options, progress)
            .map_err(|source| btt_error(&self.claim, source))
    }
}

fn btt_error(claim: &Claim, source: Error) -> NamespaceError {
    NamespaceError::Btt {
        path: claim.path().into(),
        namespace: claim.namespace().device_name(),
        source: source.into(),
    }
}

/// Refuses a file that has labels from byte `labels` on, and an intact BTT that reaches beyond that
/// byte: either the BTT is left from before the labels, or a guest has written labels into its disk.
fn refuse_ambiguity(path: &Path, labels: u64) -> Result<(), NamespaceError> {
    let whole = NvdimmFile::open(path, ClaimKind::Shared, LabelSize::None)?;
    let medium = whole.map_to_look(whole.select(&Selection::Only)?)?;
    let reaches_labels = |arena: &FoundArena| {
        arena.copies == Copies::Intact && arena.start + arena.info.geometry.size() > labels
    };
    match discovery::find(&medium, None) {
        Ok(found) if found.iter().any(reaches_labels) => {
            Err(NamespaceError::Ambiguous { path: path.into() })
        }
        _ => Ok(()),
    }
}
