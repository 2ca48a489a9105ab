//! Makes a guest's writes durable.

use crate::pmem::MediaError;

/// Why what a guest has written is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// The medium failed to sync.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The guest has stored to where there is no medium.
    #[error("a part of the guest's memory is not mapped, and what it stores there is lost")]
    NotMapped,
}

/// What a guest writes to, to be made durable by any thread.
pub trait Syncs: Send + Sync {
    /// Makes every completed write durable on the backing medium.
    ///
    /// # Errors
    ///
    /// The medium fails, now or at an earlier sync; or a part of it is not there.
    fn sync(&self) -> Result<(), SyncError>;

    /// Returns whether that takes the time of a system call or more; otherwise nothing was written since
    /// the last, or a write is durable when it completes.
    fn sync_takes_time(&self) -> bool;
}

/// Syncs what needs no sync: a medium whose completed writes are as durable as they have to be.
#[derive(Debug)]
pub struct NothingToSync;

impl Syncs for NothingToSync {
    fn sync(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn sync_takes_time(&self) -> bool {
        false
    }
}
