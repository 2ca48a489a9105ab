//! Claims: a namespace has at most one holder.
//!
//! A claim is an open-file-description lock on the namespace's bytes of the file. It dies with the
//! process that holds it, and excludes any other, also on another host if the file system shares
//! locks.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::error::Error;
use super::holder::Holder;
use super::lock::{self, ClaimKind, duplicate};
use super::namespace::Namespace;
use crate::pmem::{DurabilityRequest, Mapping, Protection};

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
        let locked = lock::lock_patiently(&file, &namespace.range, kind);
        check_lock(locked, &path, &file, &namespace, &namespace.range)?;
        Ok(Claim { path, file, namespace, kind })
    }

    /// Claims the first `head` bytes of a namespace for reading: others may do so, too, and no process can
    /// claim the whole for writing.
    pub(super) fn take_head(
        path: PathBuf,
        file: File,
        namespace: Namespace,
        head: u64,
    ) -> Result<Claim, Error> {
        let Range { start, end } = namespace.range;
        let range = start..(start + head).min(end);
        let locked = lock::lock_patiently(&file, &range, ClaimKind::Shared);
        check_lock(locked, &path, &file, &namespace, &range)?;
        Ok(Claim { path, file, namespace, kind: ClaimKind::Shared })
    }

    /// Claims some bytes of the namespace against all other processes, in addition to its head
    /// ([`claim_head`](super::NvdimmFile::claim_head)). The file was opened for writing.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]: another process has claimed some of them, or all of the namespace.
    pub fn add(&self, bytes: Range<u64>) -> Result<(), Error> {
        self.lock_within(bytes, ClaimKind::Exclusive)
    }

    fn lock_within(&self, bytes: Range<u64>, kind: ClaimKind) -> Result<(), Error> {
        let Range { start, end } = self.namespace.range;
        let range = (start + bytes.start).min(end)..(start + bytes.end).min(end);
        lock_bytes(&self.path, &self.file, &self.namespace, &range, kind)
    }

    /// Lets the claim live on in the programs that this process executes from now on.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn inherit(&self) -> Result<(), Error> {
        let kept = fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty()));
        kept.map(drop).map_err(|errno| {
            let (path, source) = (self.path.clone(), errno.into());
            Error::File { action: "hand on the descriptor of", path, source }
        })
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

    /// The same claim on `grown`: this namespace, with more bytes at its end.
    pub(super) fn extend(&self, grown: Namespace) -> Result<Claim, Error> {
        let (path, file) = (self.path.clone(), duplicate(&self.path, &self.file)?);
        let added = self.namespace.range.end..grown.range.end;
        // Locks of one open file description add up; one on no bytes would be on all of them.
        if !added.is_empty() {
            lock_bytes(&path, &file, &grown, &added, self.kind)?;
        }
        Ok(Claim { path, file, namespace: grown, kind: self.kind })
    }

    /// Gives the claim up, also where duplicates of its descriptor are open.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn give_up(self) -> Result<(), Error> {
        let unlocked = lock::unlock(&self.file, &self.namespace.range);
        unlocked.map_err(|source| Error::File { action: "unlock", path: self.path, source })
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

/// Locks `range`, some bytes of `namespace`, without waiting.
fn lock_bytes(
    path: &Path,
    file: &File,
    namespace: &Namespace,
    range: &Range<u64>,
    kind: ClaimKind,
) -> Result<(), Error> {
    check_lock(lock::try_lock(file, range, kind), path, file, namespace, range)
}

/// Turns the outcome of locking `range`, some bytes of `namespace`, into an error that names the holder.
fn check_lock(
    locked: io::Result<bool>,
    path: &Path,
    file: &File,
    namespace: &Namespace,
    range: &Range<u64>,
) -> Result<(), Error> {
    match locked {
        Ok(true) => Ok(()),
        Ok(false) => {
            let (namespace, holder) = (namespace.device_name(), Holder::find(file, range));
            Err(Error::Busy { path: path.into(), namespace, holder })
        }
        Err(source) => Err(Error::File { action: "lock", path: path.into(), source }),
    }
}
