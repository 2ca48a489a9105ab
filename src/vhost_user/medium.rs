//! The seam at which another medium takes the place of a mapping, or another disk that of the BTT.
//!
//! The daemon serves mappings as they are. `powercut` puts in media whose power fails.

use std::fmt::Debug;
use std::sync::Arc;

use super::block::MappedDisk;
use super::error::Error;
use super::server::Server;
use crate::pmem::{MapError, Mapping, PersistentMemory, ShareFile};

/// Opens the media of what is served.
pub trait OpenMedium: Debug + Send + Sync {
    /// A server of the disk.
    ///
    /// # Errors
    ///
    /// The disk's BTT cannot be served, or the medium cannot be opened.
    fn disk(&self, disk: MappedDisk<'_>) -> Result<Server, Error>;

    /// The medium of a DAX region in `mapping`, and a function that shares its file.
    fn region(&self, mapping: Mapping) -> Result<(Arc<dyn PersistentMemory>, ShareFile), MapError>;
}

/// The mapping is the medium.
#[derive(Debug, Clone, Copy, Default)]
pub struct TheMapping;

impl OpenMedium for TheMapping {
    fn disk(&self, disk: MappedDisk<'_>) -> Result<Server, Error> {
        disk.serve_growing()
    }

    fn region(&self, mapping: Mapping) -> Result<(Arc<dyn PersistentMemory>, ShareFile), MapError> {
        let medium = Arc::new(mapping);
        Ok((medium.clone(), Box::new(move |protection| medium.share_file(protection))))
    }
}
