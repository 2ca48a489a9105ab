//! What can go wrong with an NVDIMM file.

use std::io;
use std::path::PathBuf;

use super::holder::Holder;
use super::label::LabelFault;
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
    #[error("{path}: cannot read the labels: {source}")]
    LabelMedia {
        /// The file.
        path: PathBuf,
        /// Why; part of the message.
        source: MediaError,
    },
    /// There is a label storage area, and none of its index blocks can be used.
    #[error(
        "{path}: both index blocks of the label storage area are unusable; first: {first}; second: {second}"
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
    /// The label of a namespace cannot be honoured.
    #[error("{path}: the label in slot {slot} is unusable: {fault}")]
    Label {
        /// The file.
        path: PathBuf,
        /// The label's slot.
        slot: u32,
        /// What is wrong with it.
        fault: LabelFault,
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
    /// Somebody else holds the namespace.
    #[error("{path}: {namespace} is busy: held by {holder}")]
    Busy {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// Who holds it.
        holder: Holder,
    },
}
