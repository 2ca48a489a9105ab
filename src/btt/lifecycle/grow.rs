//! Growing a BTT into the space behind it.
//!
//! New arenas are appended; the existing ones keep every byte but two fields of the last one's info
//! block: `nextoff`, and the checksum. The order makes a power failure leave the old BTT or the new
//! one: first the new arenas, last to first, which nothing names yet; then the second info block of
//! the arena before them, then its first, which commits. A first info block that is torn is no info
//! block, and the second one is used, which says what the first was about to say.

use super::create::{self, CreateOptions};
use crate::btt::format::discovery::{self, Copies, FoundArena};
use crate::btt::format::error::Error;
use crate::btt::format::geometry::ARENA_MIN_SIZE;
use crate::btt::format::info_block::{InfoBlock, Version};
use crate::pmem::PersistentMemory;

/// How a BTT grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Sectors before.
    pub old_sectors: u64,
    /// Sectors now.
    pub new_sectors: u64,
    /// Arenas appended.
    pub arenas: usize,
}

/// Appends arenas of at most `arena_size` bytes to the BTT in `medium` until they fill it; `progress`
/// is told how many bytes of how many are done.
///
/// A process that has the BTT open goes on as before, and sees the new sectors when it opens the BTT again.
///
/// # Errors
///
/// [`Error::NoRoom`] if there are less than 16 MiB behind the last arena; [`Error::Damaged`] if an
/// info block is damaged or says that its arena has failed, or a crash in an earlier growth left the
/// two copies different in more than what growth changes; what [`find`](crate::btt::find) finds wrong.
pub fn grow<M: PersistentMemory>(
    medium: &M,
    version: Option<Version>,
    arena_size: u64,
    progress: impl FnMut(u64, u64),
) -> Result<Growth, Error> {
    let found = discovery::find(medium, version)?;
    for (number, arena) in found.iter().enumerate() {
        check_intact(medium, number, arena)?;
    }
    let old_sectors = sectors(&found);
    let last = last(&found);
    let end = end_of(&last);
    let room = medium.size() - end;
    if room < ARENA_MIN_SIZE {
        return Err(Error::NoRoom { room, needed: ARENA_MIN_SIZE });
    }
    let options = options(&last, arena_size);
    let arenas = create::create_arenas(medium, end, room, &options, progress)?;
    link(medium, &last, end)?;
    let new_sectors = sectors(&discovery::find(medium, Some(last.info.version))?);
    Ok(Growth { old_sectors, new_sectors, arenas })
}

/// How the arenas behind `last` are made.
pub(super) fn options(last: &FoundArena, arena_size: u64) -> CreateOptions {
    CreateOptions {
        lba_size: last.info.geometry.lba_size,
        version: last.info.version,
        uuid: last.info.uuid,
        parent_uuid: last.info.parent_uuid,
        arena_size,
    }
}

/// Returns whether another arena fits into `medium` behind the BTT in it.
pub fn has_room<M: PersistentMemory>(medium: &M, version: Option<Version>) -> Result<bool, Error> {
    let found = discovery::find(medium, version)?;
    Ok(medium.size() - end_of(&last(&found)) >= ARENA_MIN_SIZE)
}

/// The last of all arenas of a BTT.
pub(super) fn last(found: &[FoundArena]) -> FoundArena {
    // `find` returns at least one arena.
    found[found.len() - 1]
}

/// Offset of the byte behind an arena.
pub(super) fn end_of(arena: &FoundArena) -> u64 {
    arena.start + arena.info.geometry.size()
}

/// Lets the info blocks of `last` lead on to the arena at `next`.
fn link<M: PersistentMemory>(medium: &M, last: &FoundArena, next: u64) -> Result<(), Error> {
    let mut info = last.info;
    info.geometry.nextoff = next - last.start;
    info.write(medium, last.start + info.geometry.info2off)?;
    Ok(info.write(medium, last.start)?)
}

fn sectors(arenas: &[FoundArena]) -> u64 {
    arenas.iter().map(|arena| u64::from(arena.info.geometry.external_nlba)).sum()
}

/// Refuses to build on an arena that is damaged: what is not understood is not written over.
fn check_intact<M: PersistentMemory>(
    medium: &M,
    number: usize,
    arena: &FoundArena,
) -> Result<(), Error> {
    let damaged = match arena.copies {
        _ if arena.info.error => Some("it has failed, and is read-only"),
        Copies::Intact => None,
        Copies::Differ if growth_was_cut_off(medium, arena) => None,
        // A growth that was cut off in its first step, or damage that this one mends.
        Copies::OnlyPrimary(_) if arena.info.geometry.nextoff == 0 => None,
        Copies::Differ => Some("its info blocks differ"),
        Copies::OnlyPrimary(_) | Copies::OnlyBackup(_) => Some("one of its info blocks is damaged"),
    };
    damaged.map_or(Ok(()), |damage| Err(Error::Damaged { arena: number, damage }))
}

/// Returns whether the second info block leads on to another arena, and is as the first in everything else.
fn growth_was_cut_off<M: PersistentMemory>(medium: &M, arena: &FoundArena) -> bool {
    let FoundArena { start, info, .. } = arena;
    let backup = start + info.geometry.info2off;
    let backup = InfoBlock::read(medium, backup, info.version, medium.size() - start);
    backup.is_ok_and(|mut backup| {
        backup.geometry.nextoff = info.geometry.nextoff;
        backup == *info && info.geometry.nextoff == 0
    })
}
