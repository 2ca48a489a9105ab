//! The file of a mapping, which other processes map themselves.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::writeback::{Writeback, fdatasync};
use super::{Access, Backing, Cause, MapError, MediaError, Protection};

/// The file of a mapping, opened separately, so that frontends can map parts of it.
///
/// The locks of the open file that the mapping uses end with the daemon. They would not if the mappings of a
/// frontend kept that open file alive. A file that is opened for reading cannot be mapped for writing.
#[derive(Debug)]
pub struct SharedFile {
    file: File,
    /// Offset in the file of the mapping's first byte.
    file_offset: u64,
    protection: Protection,
    backing: Backing,
    /// Shared with the mappings of the file.
    writeback: Arc<Writeback>,
    /// Is told what others map, and when the file is synced.
    observer: Option<Arc<dyn SharedFileObserver>>,
}

/// Observes what frontends do with a shared file.
pub trait SharedFileObserver: Debug + Send + Sync {
    /// Others may store to these bytes of the mapping, whole pages, from now on.
    fn mapped(&self, range: Range<u64>);

    /// What others have stored so far has been synced.
    fn synced(&self);
}

/// Opens the file of a mapping for sharing.
pub type ShareFile = Box<dyn Fn(Protection) -> Result<SharedFile, MapError>>;

impl SharedFile {
    /// Opens `file` anew.
    pub(super) fn new(
        file: &File,
        file_offset: u64,
        protection: Protection,
        backing: Backing,
        writeback: Arc<Writeback>,
    ) -> Result<SharedFile, MapError> {
        let itself = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let file = OpenOptions::new()
            .read(true)
            .write(protection == Protection::ReadWrite)
            .open(itself)
            .map_err(|source| MapError::System { call: "open /proc/self/fd", source })?;
        Ok(SharedFile { file, file_offset, protection, backing, writeback, observer: None })
    }

    /// The same, watched by `observer`.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn SharedFileObserver>) -> SharedFile {
        SharedFile { observer: Some(observer), ..self }
    }

    /// Others are about to map `length` bytes at `offset` in the file. Both are multiples of a page.
    pub fn note_mapped(&self, offset: u64, length: u64) {
        let start = offset - self.file_offset;
        if let Some(observer) = &self.observer
            && self.protection == Protection::ReadWrite
        {
            observer.mapped(start..start + length);
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

    /// Returns whether `other` is the same file, in whichever process it was opened.
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
        if let Some(observer) = &self.observer {
            observer.synced();
        }
        Ok(())
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
