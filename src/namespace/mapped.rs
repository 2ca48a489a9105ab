//! A BTT in a namespace of an NVDIMM file: from a path to an open disk.

use std::path::Path;

use uuid::Uuid;

use super::error::NamespaceError;
use super::labels::expected_version;
use super::options::NamespaceOptions;
use super::probe::has_region;
use crate::btt::{
    self, Btt, Error, FoundArena, Geometry, OpenOptions, Opened, Version, largest_group,
};
use crate::nvdimm::{self, Abstraction, Claim, ClaimKind, Namespace, NvdimmFile, Selection};
use crate::pmem::{Backing, Durability, MapError, Mapping, PersistentMemory};

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

/// A namespace with a BTT, as it was seen without a claim on it.
#[derive(Debug)]
pub struct SeenNamespace {
    /// The namespace.
    pub namespace: Namespace,
    /// The arenas of its BTT, at least one.
    pub arenas: Vec<FoundArena>,
    /// What a fence would make durable.
    pub durability: Durability,
    /// What the file is to persistent memory.
    pub backing: Backing,
}

impl NamespaceOptions {
    /// Looks at the info blocks of the namespace, without a claim on it.
    pub fn look_at_disk(&self) -> Result<SeenNamespace, NamespaceError> {
        let file = self.open_file(ClaimKind::Shared)?;
        let namespace = file.select(&resolve(&file, &self.selection))?.clone();
        let medium = file.map_to_look_as(&namespace, self.durability)?;
        if !namespace.abstraction.may_be_btt() || has_region(&medium) {
            return Err(not_sector(&self.path, &namespace, &medium));
        }
        let found = btt::find(&medium, expected_version(&namespace, self.version));
        let fails = |source| NamespaceError::seen_btt(&self.path, &namespace, source);
        let arenas = found.map_err(fails)?;
        let (durability, backing) = (medium.durability(), medium.backing());
        Ok(SeenNamespace { namespace, arenas, durability, backing })
    }

    /// Claims and maps the namespace.
    pub fn map(&self, kind: ClaimKind) -> Result<MappedNamespace, NamespaceError> {
        let file = self.open_file(kind)?;
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
            Err(not_sector(claim.path(), namespace, medium))
        }
    }
}

fn not_sector<M: PersistentMemory>(
    path: &Path,
    namespace: &Namespace,
    medium: &M,
) -> NamespaceError {
    NamespaceError::NotSector {
        path: path.into(),
        namespace: namespace.device_name(),
        mode: if has_region(medium) { "dax" } else { namespace.abstraction.mode() },
    }
}

/// Up to how many bytes aligned writes of a power of two are to be all or nothing; 0: only sectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Atomic {
    /// At least so many, or the disk is not opened.
    pub least: u32,
    /// As many as can be, up to these.
    pub most: u32,
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
        btt::find(&self.medium, self.version)
            .map_err(|source| NamespaceError::btt(&self.claim, source))
    }

    /// Returns whether the label says that the namespace is in raw mode, and it is: Linux makes such a
    /// namespace one in sector mode by putting a BTT into it.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.claim.namespace().abstraction == Abstraction::Raw
            && btt::find(&self.medium, self.version) == Err(Error::NotFound)
    }

    /// Returns whether it holds a DAX region, and no BTT.
    #[must_use]
    pub fn is_region(&self) -> bool {
        has_region(&self.medium) && btt::find(&self.medium, self.version) == Err(Error::NotFound)
    }

    /// Refuses a namespace in raw mode, or in dax mode.
    pub fn refuse_other_modes(&self) -> Result<(), NamespaceError> {
        if self.is_raw() || self.is_region() {
            return Err(not_sector(self.claim.path(), self.claim.namespace(), &self.medium));
        }
        Ok(())
    }

    /// Opens the BTT for `queues` queues; read-only if the claim is shared, or if asked for. `atomic` says which
    /// aligned writes of several sectors are all or nothing.
    ///
    /// # Errors
    ///
    /// So large a write cannot be; what is wrong with the BTT.
    pub fn open(
        self,
        read_only: bool,
        queues: usize,
        atomic: Atomic,
    ) -> Result<(Claim, Opened<M>), NamespaceError> {
        self.refuse_other_modes()?;
        self.check_atomic(queues, atomic.least)?;
        let atomic = atomic.most;
        let MappedNamespace { claim, medium, version } = self;
        let namespace = claim.namespace().uuid;
        let read_only = read_only || claim.kind() == ClaimKind::Shared;
        let options = OpenOptions { version, namespace, read_only, queues, atomic };
        match Btt::open(medium, &options) {
            Ok(opened) => Ok((claim, opened)),
            Err(source) => Err(NamespaceError::btt(&claim, source)),
        }
    }

    /// Refuses to promise that writes of `atomic` bytes are all or nothing where they cannot be.
    fn check_atomic(&self, queues: usize, atomic: u32) -> Result<(), NamespaceError> {
        if atomic == 0 {
            return Ok(());
        }
        let found = btt::find(&self.medium, self.version);
        let found = found.map_err(|source| NamespaceError::btt(&self.claim, source))?;
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
