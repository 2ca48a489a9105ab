//! Giving the BTT of a copied namespace an identity of its own.

use uuid::Uuid;

use crate::btt::format::discovery;
use crate::btt::format::error::Error;
use crate::btt::format::info_block::{InfoBlock, Version};
use crate::pmem::PersistentMemory;

/// Gives a BTT another uuid, and another parent if it has one. Returns the number of its arenas.
///
/// The BTT was opened for writing before, so that nothing is left to be completed: records of groups belong to the
/// uuid that it had. A power failure meanwhile leaves arenas that do not belong together, so this is for a copy
/// that no other process knows yet.
///
/// # Errors
///
/// There is no BTT, or the medium fails.
pub fn set_identity<M: PersistentMemory>(
    medium: &M,
    version: Option<Version>,
    uuid: Uuid,
    parent_uuid: Uuid,
) -> Result<usize, Error> {
    let found = discovery::find(medium, version)?;
    for arena in &found {
        let parent_uuid = if arena.info.parent_uuid.is_nil() { Uuid::nil() } else { parent_uuid };
        let info = InfoBlock { uuid, parent_uuid, ..arena.info };
        for copy in [arena.start + info.geometry.info2off, arena.start] {
            info.write(medium, copy)?;
        }
    }
    Ok(found.len())
}
