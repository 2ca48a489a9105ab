//! Claims: a namespace has at most one holder.
//!
//! A claim is an open-file-description lock on the namespace's bytes of the file. It dies with the
//! process that holds it, and excludes any other, also on another host if the file system shares
//! locks.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::file::duplicate;
use super::holder::Holder;
use super::lock;
use super::namespace::Namespace;
use crate::pmem::{DurabilityRequest, Mapping, Protection};

/// What a claim allows, and excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// Reading; excludes writers.
    Shared,
    /// Reading and writing; excludes everybody else.
    Exclusive,
}

/// A claimed namespace. The claim ends when this, and what was mapped through it, is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    file: File,
    namespace: Namespace,
    kind: ClaimKind,
}

impl Claim {
    pub(super) fn take(
        path: PathBuf,
        file: File,
        namespace: Namespace,
        kind: ClaimKind,
    ) -> Result<Claim, Error> {
        match lock::try_lock(&file, &namespace.range, kind) {
            Ok(true) => Ok(Claim { path, file, namespace, kind }),
            Ok(false) => {
                let holder = Holder::find(&file, &namespace.range);
                Err(Error::Busy { path, namespace: namespace.device_name(), holder })
            }
            Err(source) => Err(Error::File { action: "lock", path, source }),
        }
    }

    /// The file that the namespace is in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, whose descriptor may be handed on: duplicates of it keep the claim.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What the claim allows.
    #[must_use]
    pub fn kind(&self) -> ClaimKind {
        self.kind
    }

    /// Maps the namespace, for what the claim allows. The mapping keeps the claim.
    pub fn map(&self, durability: DurabilityRequest) -> Result<Mapping, Error> {
        let protection = match self.kind {
            ClaimKind::Shared => Protection::ReadOnly,
            ClaimKind::Exclusive => Protection::ReadWrite,
        };
        // A duplicate belongs to the same open file description, and so keeps its locks.
        let file = duplicate(&self.path, &self.file)?;
        Mapping::new(file, self.namespace.range.clone(), protection, durability)
            .map_err(|source| Error::Map { path: self.path.clone(), source })
    }
}
