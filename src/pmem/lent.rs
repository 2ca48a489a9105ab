//! The file of a mapping, lent to others who map parts of it themselves.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "power-fail")]
use super::power_fail::Loans;
use super::writeback::{Writeback, fdatasync};
use super::{Access, Backing, Cause, MapError, MediaError, Protection};

/// The file of a mapping, for others to map parts of it.
///
/// It is an open file of its own. The locks of the one that the mapping uses end with our process, and
/// would not if a frontend's mappings kept that one open; and through one that is open for reading,
/// nobody can map anything for writing.
#[derive(Debug)]
pub struct Lent {
    file: File,
    /// Offset in the file of the mapping's first byte.
    file_offset: u64,
    protection: Protection,
    backing: Backing,
    /// Shared with the mappings of the file.
    writeback: Arc<Writeback>,
    /// What is durable of what others store, if the power is to fail.
    #[cfg(feature = "power-fail")]
    loans: Option<Arc<Loans>>,
}

/// Lends the file of a mapping.
pub type Lend = Box<dyn Fn(Protection) -> Result<Lent, MapError>>;

impl Lent {
    /// Opens `file` anew.
    pub(super) fn new(
        file: &File,
        file_offset: u64,
        protection: Protection,
        backing: Backing,
        writeback: Arc<Writeback>,
    ) -> Result<Lent, MapError> {
        let itself = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let file = OpenOptions::new()
            .read(true)
            .write(protection == Protection::ReadWrite)
            .open(itself)
            .map_err(|source| MapError::System { call: "open /proc/self/fd", source })?;
        Ok(Lent {
            file,
            file_offset,
            protection,
            backing,
            writeback,
            #[cfg(feature = "power-fail")]
            loans: None,
        })
    }

    /// The same, with a power that fails.
    #[cfg(feature = "power-fail")]
    pub(super) fn with_loans(self, loans: Arc<Loans>) -> Lent {
        Lent { loans: Some(loans), ..self }
    }

    /// Others will store to `length` bytes at `offset` in the file, from now on: what of it they have not had
    /// made durable when the power fails may be lost. Both are multiples of a page.
    #[cfg(feature = "power-fail")]
    pub fn lend(&self, offset: u64, length: u64) {
        let start = offset - self.file_offset;
        if let Some(loans) = &self.loans {
            loans.lend(start..start + length);
        }
    }

    /// What others may do with what they map.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Offset in the file of byte `offset` of the mapping.
    #[must_use]
    pub fn file_offset(&self, offset: u64) -> u64 {
        self.file_offset + offset
    }

    /// Returns whether `other` is the same file, whoever opened it.
    ///
    /// # Errors
    ///
    /// The operating system does not say.
    pub fn is(&self, other: &File) -> io::Result<bool> {
        let identity = |file: &File| file.metadata().map(|it| (it.dev(), it.ino()));
        Ok(identity(&self.file)? == identity(other)?)
    }

    /// Makes durable what others have stored to their mappings, as far as it is not their business:
    /// on device-DAX they flush their CPU's caches, and there is nothing else between.
    ///
    /// # Errors
    ///
    /// The operating system could not write something back, now or at an earlier sync.
    pub fn sync(&self) -> Result<(), MediaError> {
        if self.protection == Protection::ReadOnly || self.backing == Backing::DeviceDax {
            return Ok(());
        }
        // The kernel finds the stores of every mapping, whichever process made them.
        self.writeback.sync_all(fdatasync(&self.file)).map_err(|errno| {
            let cause = Cause::System(errno);
            MediaError { access: Access::Sync, offset: 0, length: 0, cause }
        })?;
        #[cfg(feature = "power-fail")]
        if let Some(loans) = &self.loans {
            loans.flushed();
        }
        Ok(())
    }
}

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
