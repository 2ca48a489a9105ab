//! Growing a region into the bytes that its namespace has got behind it.
//!
//! Only the superblock says how many pages there are. Its backup is written first, then the superblock,
//! which commits: a power failure leaves the old region or the new one, and where it tears the
//! superblock, the backup says what that was about to say. Whichever of the two is written, the other one
//! is whole, and durable.

use crate::dax::format::discovery;
use crate::dax::format::error::Error;
use crate::dax::format::layout::PAGES_OFFSET;
use crate::dax::format::superblock::{BACKUP_OFFSET, SUPERBLOCK_OFFSET, Superblock};
use crate::dax::format::units::PAGE_SIZE;
use crate::dax::journal::durable;
use crate::pmem::PersistentMemory;

/// How a region grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Bytes that could be allocated before, the journal's among them.
    pub old_size: u64,
    /// Those that can be now.
    pub new_size: u64,
}

/// Makes the region on `medium`, which no process has open, as large as the medium. If that was cut off, do it
/// again.
///
/// # Errors
///
/// No superblock can be used; [`Error::NotDurable`], [`Error::ReadOnlyFeatures`]; the medium's: of a superblock that cannot be read, 'dax check --repair' makes one
/// that can.
pub fn grow<M: PersistentMemory>(medium: &M) -> Result<Growth, Error> {
    durable::require(medium)?;
    let old = discovery::superblock(medium)?;
    old.features.check_change()?;
    // What follows relies on the superblock that is seen.
    Superblock::persist(medium)?;
    let page_count = (medium.size() - PAGES_OFFSET) / PAGE_SIZE;
    let new = Superblock { page_count: page_count.max(old.page_count), ..old };
    if Superblock::read(medium, SUPERBLOCK_OFFSET) != Ok(old) {
        old.write(medium, SUPERBLOCK_OFFSET)?;
    }
    for offset in [BACKUP_OFFSET, SUPERBLOCK_OFFSET] {
        new.update(medium, offset)?;
        medium.fence()?;
    }
    medium.fence()?;
    Ok(Growth { old_size: old.page_count * PAGE_SIZE, new_size: new.page_count * PAGE_SIZE })
}
