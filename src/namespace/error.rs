//! Errors of namespaces.

use std::path::{Path, PathBuf};

use super::probe::Signature;
use crate::nvdimm::{self, Claim, Holder, Namespace};
use crate::{btt, dax};

/// Why a namespace, or what is in it, cannot be used.
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
    /// The guest would address blocks that can tear.
    #[error(
        "{path}: --logical-block-size={size} is not possible with sectors of {sector_size} bytes: a block would \
         be several sectors, and could tear; it takes --atomic={size}"
    )]
    LogicalBlock {
        /// The NVDIMM file.
        path: PathBuf,
        /// Bytes of a logical block, as asked for.
        size: u32,
        /// Bytes of a sector.
        sector_size: u32,
    },
    /// The guest would be told to prefer writes that can tear, or on blocks that it has no use for.
    #[error(
        "{path}: --atomic-hint={size} is not possible: it takes logical blocks of 4096 bytes, and writes of so \
         many bytes that are all or nothing, which are those of up to {atomic} bytes"
    )]
    AtomicHint {
        /// The NVDIMM file.
        path: PathBuf,
        /// Bytes, as asked for.
        size: u32,
        /// Most bytes that are all or nothing.
        atomic: u32,
    },
    /// The file, or the claim.
    #[error(transparent)]
    Nvdimm(#[from] nvdimm::Error),
    /// The BTT.
    #[error("{path}: {namespace}")]
    Btt {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What is wrong.
        source: Box<btt::Error>,
    },
    /// The DAX region.
    #[error("{path}: {namespace}")]
    Region {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// What is wrong.
        source: Box<dax::Error>,
    },
    /// A DAX region that a process holds cannot grow.
    #[error(
        "{path}: {namespace} is held by {holder}, and a DAX region grows only while no process holds it: end \
         that first, and start it again afterwards"
    )]
    RegionHeld {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// The process that holds it.
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
    /// The namespace holds no DAX region.
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

impl NamespaceError {
    /// The error of the DAX region in a namespace.
    #[must_use]
    pub fn region(path: &Path, namespace: &Namespace, source: dax::Error) -> NamespaceError {
        let (path, namespace) = (path.into(), namespace.device_name());
        NamespaceError::Region { path, namespace, source: source.into() }
    }

    /// The error of the DAX region in a namespace that is claimed.
    pub(super) fn claimed_region(claim: &Claim, source: dax::Error) -> NamespaceError {
        NamespaceError::region(claim.path(), claim.namespace(), source)
    }

    /// The error of the BTT in a namespace that is claimed.
    pub(super) fn btt(claim: &Claim, source: btt::Error) -> NamespaceError {
        NamespaceError::seen_btt(claim.path(), claim.namespace(), source)
    }

    /// The error of the BTT in a namespace.
    pub(super) fn seen_btt(
        path: &Path,
        namespace: &Namespace,
        source: btt::Error,
    ) -> NamespaceError {
        let (path, namespace) = (path.into(), namespace.device_name());
        NamespaceError::Btt { path, namespace, source: source.into() }
    }
}
