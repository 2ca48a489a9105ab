//! Errors of NVDIMM files.

use std::io;
use std::path::{Path, PathBuf};

use super::holder::Holder;
use super::label::{LabelFault, UpdateError};
use crate::amount::amount;
use crate::pmem::{MapError, MediaError};

/// Why an NVDIMM file, or a namespace in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something about the file.
    #[error("cannot {action} {path}")]
    File {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be mapped.
    #[error("cannot map {path}")]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// The file is too small to hold anything.
    #[error("{path}: {size} bytes are too few for an NVDIMM")]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The end of the file, where labels would be, cannot be read.
    #[error("{path}: cannot read the labels")]
    LabelMedia {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MediaError,
    },
    /// Bytes that belong to no namespace cannot be read.
    #[error("{path}: cannot examine the free bytes")]
    FreeMedia {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MediaError,
    },
    /// There is a label storage area, and none of its index blocks can be used.
    #[error(
        "{path}: both index blocks of the label storage area are unusable; first: {first}; second: \
         {second}; 'nvdimmctl init-labels --force' makes new ones, without namespaces, and 'check-labels' \
         then finds the namespaces that can be identified"
    )]
    Labels {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first index block.
        first: LabelFault,
        /// What is wrong with the second.
        second: LabelFault,
    },
    /// A label area was asked for where there is none.
    #[error("{path}: there is no label storage area of {size} bytes at the end of the file")]
    NoLabels {
        /// The file.
        path: PathBuf,
        /// The size that was asked for.
        size: u64,
    },
    /// No namespace goes by that name or uuid.
    #[error("{path}: no namespace {wanted:?}; there are: {there}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// The names of those that exist.
        there: String,
    },
    /// There are no namespaces at all.
    #[error("{path}: there are no namespaces in this file")]
    NoNamespace {
        /// The file.
        path: PathBuf,
    },
    /// There are several namespaces, and none was named.
    #[error("{path}: there are several namespaces; choose one with --namespace: {there}")]
    Several {
        /// The file.
        path: PathBuf,
        /// The names of those that exist.
        there: String,
    },
    /// Another process holds the namespace.
    #[error("{path}: {namespace} is busy: held by {holder}{}", if holder.is_another_user() {
        "; users who can read the file can lock it, and 'chmod go-rwx' keeps them from that"
    } else {
        ""
    })]
    Busy {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// The process that holds it.
        holder: Holder,
    },
    /// Several namespaces go by that name.
    #[error("{path}: several namespaces are named {wanted:?}; choose by uuid: {uuids}")]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// Their uuids.
        uuids: String,
    },
    /// Another process has changed the labels all the while.
    #[error("{path}: another process changed the labels meanwhile; try again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// What takes labels was asked of a file without them.
    #[error(
        "{path}: there are no labels, so the whole file is one namespace; 'nvdimmctl init-labels' \
         makes labels in a file without content, 'nvdimmctl create --label-size' a file with them"
    )]
    LabelLess {
        /// The file.
        path: PathBuf,
    },
    /// The labels could not be changed.
    #[error("{path}: cannot change the labels")]
    Update {
        /// The file.
        path: PathBuf,
        /// Why.
        source: UpdateError,
    },
    /// A label is lost, and the bytes of its namespace look free.
    #[error(
        "{path}: label slot {slot}: {fault}; the location of its namespace is unknown, so free bytes may \
         belong to it; 'nvdimmctl check-labels' looks for it and mends labels; --force takes free bytes \
         all the same"
    )]
    LostLabel {
        /// The file.
        path: PathBuf,
        /// The label's slot.
        slot: u32,
        /// What is wrong with it.
        fault: LabelFault,
    },
    /// A label that counts, or none, was to be taken away as one that does not.
    #[error(
        "{path}: label slot {slot} holds no label that is lost; 'nvdimmctl destroy-namespace' takes that \
         of a namespace"
    )]
    NotLost {
        /// The file.
        path: PathBuf,
        /// The slot.
        slot: u32,
    },
    /// There is no room for a namespace of that size.
    #[error(
        "{path}: no space for {}: the largest free extent has {}, in steps of {}",
        amount(*.size), amount(*.largest), amount(*.alignment)
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes that were asked for.
        size: u64,
        /// Bytes of the largest namespace that could be made.
        largest: u64,
        /// What start and size have to be multiples of.
        alignment: u64,
    },
    /// A size that is not a multiple of the alignment, or zero.
    #[error(
        "{path}: {} is misaligned: not a multiple of {}; the sizes next to it are {} and {}",
        amount(*.size), amount(*.alignment), amount(*.below), amount(*.above)
    )]
    Misaligned {
        /// The file.
        path: PathBuf,
        /// Bytes that were asked for.
        size: u64,
        /// What it has to be a multiple of.
        alignment: u64,
        /// The next size below; zero if there is none.
        below: u64,
        /// The next size above.
        above: u64,
    },
    /// A namespace cannot have that size.
    #[error(
        "{path}: {namespace} has {} and can grow to {} at most, not to {}",
        amount(*.current), amount(*.most), amount(*.size)
    )]
    CannotGrow {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// Bytes that were asked for.
        size: u64,
        /// Bytes that it has.
        current: u64,
        /// Bytes that it can have: the bytes after those are not free.
        most: u64,
    },
    /// There is a namespace of that name or uuid already.
    #[error("{path}: {what} exists already: {namespace}")]
    Exists {
        /// The file.
        path: PathBuf,
        /// What is the same.
        what: String,
        /// The namespace that has it.
        namespace: String,
    },
    /// There are labels already where some are to be made.
    #[error(
        "{path}: there is a label storage area of {} already, with {namespaces} namespaces; --force \
         gives them up", amount(*.size)
    )]
    LabelsExist {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Number of namespaces.
        namespaces: usize,
    },
    /// There is something where labels are to be made.
    #[error(
        "{path}: the last {}, where the labels would be, is not all zero; --force overwrites it",
        amount(*.size)
    )]
    Occupied {
        /// The file.
        path: PathBuf,
        /// Bytes of the area.
        size: u64,
    },
    /// A label storage area of that size is not made, or not in that file.
    #[error("{path}: a label storage area of {} {reason}", amount(*.size))]
    LabelAreaSize {
        /// The file.
        path: PathBuf,
        /// The size that was asked for.
        size: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Error {
    /// The error of a size that has to be a multiple of `alignment` and is not.
    pub(super) fn misaligned(path: &Path, size: u64, alignment: u64) -> Error {
        let below = size - size % alignment;
        let above = below.saturating_add(alignment);
        Error::Misaligned { path: path.into(), size, alignment, below, above }
    }
}
