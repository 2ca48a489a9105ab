//! Namespaces that are claimed while rings run, and not before or after (`--claim=running`).
//!
//! Two daemons can serve one disk to the two ends of a migration then: at no time do both have the claim, and
//! without it no sector is read or written.

use crate::namespace::NamespaceError;

/// Why rings cannot run.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    /// Another process has the claim, or the BTT cannot be opened.
    #[error("the disk cannot be had while its rings are to run")]
    Namespace(#[from] NamespaceError),
    /// The disk is not the one that the frontend was told of.
    #[error(
        "the disk has {sectors} sectors of {size} bytes now, and the frontend was told of {told} of {told_size}"
    )]
    Changed {
        /// Sectors that there are.
        sectors: u64,
        /// Bytes of each.
        size: u32,
        /// Sectors that the frontend knows.
        told: u64,
        /// Bytes of each.
        told_size: u32,
    },
}

/// What a device holds while its rings run.
pub(super) trait Hold: Send + Sync {
    /// A ring is about to run. If this fails, it must not.
    fn hold(&self) -> Result<(), HoldError>;

    /// No ring runs any more, and nothing of what they have begun is left to do.
    fn let_go(&self);
}
