//! Which region a medium holds, by its superblocks alone.

use uuid::Uuid;

use super::error::Error;
use super::fault::Fault;
use super::layout::PAGES_OFFSET;
use super::superblock::{BACKUP_OFFSET, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use super::units::{Align, PAGE_SIZE};
use crate::pmem::{MediaError, PersistentMemory};

/// The superblock, or else its backup.
pub(crate) fn superblock<M: PersistentMemory>(medium: &M) -> Result<Superblock, Error> {
    if medium.size() < PAGES_OFFSET {
        return Err(Error::NotFound);
    }
    Superblock::read(medium, SUPERBLOCK_OFFSET).or_else(|primary| {
        Superblock::read(medium, BACKUP_OFFSET).map_err(|backup| match (&primary, &backup) {
            (Fault::NoSuperblock, Fault::NoSuperblock) => Error::NotFound,
            _ => Error::Superblocks { primary, backup },
        })
    })
}

/// Offset of the byte behind the last page of the region on `medium`.
///
/// # Errors
///
/// There is no region, or no superblock that can be used.
pub fn end<M: PersistentMemory>(medium: &M) -> Result<u64, Error> {
    Ok(superblock(medium)?.end() * PAGE_SIZE)
}

/// What a look at the superblocks tells of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its uuid.
    pub uuid: Uuid,
    /// Bytes that can be allocated, the journal's among them.
    pub size: u64,
    /// Byte behind its last page.
    pub end: u64,
    /// Default alignment of devices.
    pub align: Align,
    /// What is wrong with one of the two superblocks, and the byte offset of that one.
    pub degraded: Option<(u64, Fault)>,
}

/// Looks for a region, by its superblocks alone.
///
/// # Errors
///
/// [`Error::NotFound`], [`Error::Superblocks`].
pub fn find<M: PersistentMemory>(medium: &M) -> Result<Found, Error> {
    let superblock = superblock(medium)?;
    let degraded = [SUPERBLOCK_OFFSET, BACKUP_OFFSET].into_iter().find_map(|offset| {
        match Superblock::read(medium, offset) {
            Ok(copy) if copy == superblock => None,
            Ok(_) => Some((offset, Fault::NoSuperblock)),
            Err(fault) => Some((offset, fault)),
        }
    });
    Ok(Found {
        uuid: superblock.set_uuid,
        size: superblock.page_count * PAGE_SIZE,
        end: superblock.end() * PAGE_SIZE,
        align: superblock.align,
        degraded,
    })
}

/// Takes away what says that there is a region in `medium`; durable on return.
///
/// A reader meanwhile, or after a crash, finds a complete region or none.
pub fn erase<M: PersistentMemory>(medium: &M) -> Result<(), MediaError> {
    for offset in traces(medium) {
        medium.zero(offset, SUPERBLOCK_SIZE)?;
    }
    Ok(())
}

/// Returns whether something in `medium` says that there is a region, whole or damaged.
#[must_use]
pub fn is_there<M: PersistentMemory>(medium: &M) -> bool {
    traces(medium).next().is_some()
}

/// Byte offsets of the superblocks, whole or damaged.
fn traces<M: PersistentMemory>(medium: &M) -> impl Iterator<Item = u64> {
    let may_be = medium.size() >= PAGES_OFFSET;
    let offsets = [SUPERBLOCK_OFFSET, BACKUP_OFFSET].into_iter().filter(move |_| may_be);
    offsets.filter(|offset| {
        let read = Superblock::read(medium, *offset);
        !matches!(read, Err(Fault::NoSuperblock | Fault::Media(_)))
    })
}
