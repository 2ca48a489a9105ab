//! Finding the arenas of a BTT by their info blocks.

use uuid::Uuid;

use super::error::Error;
use super::geometry::{self, ARENA_MAX_SIZE, ARENA_MIN_SIZE, INFO_SIZE};
use super::info_block::{InfoBlock, InfoFault, SIGNATURE, Version};
use crate::pmem::{PAGE, PersistentMemory};

/// An arena whose info block was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundArena {
    /// Offset of the arena in the namespace.
    pub start: u64,
    /// What its info block says; read-only after an error if either copy says so.
    pub info: InfoBlock,
    /// The state of the two copies.
    pub copies: Copies,
}

/// What became of the two copies of an info block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Both are there and equal.
    Intact,
    /// Both are valid and differ; the first is used.
    Differ,
    /// Only the first can be used.
    OnlyPrimary(InfoFault),
    /// Only the second can be used.
    OnlyBackup(InfoFault),
}

/// Finds the BTT in `medium`: all its arenas, in order.
///
/// A BTT of version `wanted`, or of either. Where there are info blocks of both, one of them is what
/// an earlier BTT has left, or what a guest wrote into its disk: block 0 of a BTT of version 2.0 lies
/// where the first info block of version 1.1 belongs. A BTT that is *complete* is believed then,
/// with both info blocks of every arena intact and the last at the very end: only the BTT that
/// it belongs to can write there.
pub fn find<M: PersistentMemory>(
    medium: &M,
    wanted: Option<Version>,
) -> Result<Vec<FoundArena>, Error> {
    let first = |version| first_arena(medium, version);
    let found = match wanted {
        Some(version) => first(version),
        None => choose(medium, first(Version::V1_1), first(Version::V2_0)),
    }?;
    follow(medium, found)
}

/// Chooses between what was found of either version.
fn choose<M: PersistentMemory>(
    medium: &M,
    old: Result<FoundArena, Error>,
    new: Result<FoundArena, Error>,
) -> Result<FoundArena, Error> {
    let only_if =
        |chosen, is_complete| if is_complete { Ok(chosen) } else { Err(Error::TwoVersions) };
    match (old, new) {
        (Ok(old), Ok(new)) => match (is_complete(medium, old), is_complete(medium, new)) {
            (true, new_too) => only_if(old, !new_too),
            (false, new_is) => only_if(new, new_is),
        },
        // A damaged info block at byte 0, where no guest can write.
        (Ok(old), Err(Error::BadInfo { primary, .. })) if !primary.is_absence() => {
            only_if(old, is_complete(medium, old))
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        (Err(Error::NotFound), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

/// Returns whether all info blocks of the BTT that starts with `first` are intact, and the last arena ends
/// where a creator makes it end.
fn is_complete<M: PersistentMemory>(medium: &M, first: FoundArena) -> bool {
    let Ok(arenas) = follow(medium, first) else { return false };
    let ends_right = arenas.last().is_some_and(|last| {
        let size = last.info.geometry.size();
        let rest = medium.size() - (last.start + size);
        rest < PAGE || (size == ARENA_MAX_SIZE && rest < ARENA_MIN_SIZE)
    });
    ends_right && arenas.iter().all(|arena| arena.copies == Copies::Intact)
}

/// Returns whether an info block begins, by its signature, where the first arena of a BTT of either version
/// does.
pub fn is_signed<M: PersistentMemory>(medium: &M) -> bool {
    Version::ALL.into_iter().any(|version| {
        let mut found = [0; SIGNATURE.len()];
        medium.read_bytes(version.first_arena(), &mut found).is_ok() && found == SIGNATURE
    })
}

/// The first arena of a BTT of `version`; [`Error::NotFound`] if there is no trace of one.
pub(crate) fn first_arena<M: PersistentMemory>(
    medium: &M,
    version: Version,
) -> Result<FoundArena, Error> {
    if medium.size() < version.first_arena() + ARENA_MIN_SIZE {
        return Err(Error::NotFound);
    }
    match arena(medium, 0, version.first_arena(), version) {
        // No trace of a BTT, or only traces of one of the other version.
        Err(Error::BadInfo { primary, backup, .. })
            if primary.is_absence() && backup.is_absence() =>
        {
            Err(Error::NotFound)
        }
        found => found,
    }
}

impl InfoFault {
    /// Returns whether there is no info block here that was meant for this place.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            InfoFault::Signature | InfoFault::Misplaced { .. } | InfoFault::CopyElsewhere { .. }
        )
    }
}

/// The arena of a BTT of `version` at `start`, by either of its info blocks.
fn arena<M: PersistentMemory>(
    medium: &M,
    number: usize,
    start: u64,
    version: Version,
) -> Result<FoundArena, Error> {
    let room = medium.size() - start;
    let primary = InfoBlock::read(medium, start, version, room);
    let backup = backup(medium, start, version, primary.as_ref().ok());
    match (primary, backup) {
        (Ok(mut info), Ok(backup)) => {
            let copies = if info == backup { Copies::Intact } else { Copies::Differ };
            info.error |= backup.error;
            Ok(FoundArena { start, info, copies })
        }
        (Ok(info), Err(fault)) => {
            Ok(FoundArena { start, info, copies: Copies::OnlyPrimary(fault) })
        }
        (Err(fault), Ok(info)) => Ok(FoundArena { start, info, copies: Copies::OnlyBackup(fault) }),
        (Err(primary), Err(backup)) => Err(Error::BadInfo { arena: number, primary, backup }),
    }
}

/// The second info block of an arena: where the first says, else where creation puts it in an arena
/// that takes up all the room there is, else where it is seen from the end.
fn backup<M: PersistentMemory>(
    medium: &M,
    start: u64,
    version: Version,
    primary: Option<&InfoBlock>,
) -> Result<InfoBlock, InfoFault> {
    let room = medium.size() - start;
    let at = |found| {
        let info = InfoBlock::read(medium, start + found, version, room)?;
        let info2off = info.geometry.info2off;
        if info2off == found { Ok(info) } else { Err(InfoFault::CopyElsewhere { info2off, found }) }
    };
    match primary {
        Some(info) => at(info.geometry.info2off),
        None => at(geometry::backup_offset(room.min(ARENA_MAX_SIZE))).or_else(|fault| {
            let seen = backup_from_the_end(medium, start, version);
            if fault.is_absence() { seen.ok_or(fault) } else { Err(fault) }
        }),
    }
}

/// The second info block of the arena at `start`, if other arenas of any size follow it up to the end
/// of the medium: every arena ends with an info block that says where the arena starts, and there the
/// one before it ends.
fn backup_from_the_end<M: PersistentMemory>(
    medium: &M,
    start: u64,
    version: Version,
) -> Option<InfoBlock> {
    let mut end = medium.size() - medium.size() % PAGE;
    while start + ARENA_MIN_SIZE <= end {
        let offset = end - INFO_SIZE;
        let mut bytes = [0; INFO_SIZE as usize];
        medium.read_bytes(offset, &mut bytes).ok()?;
        let info = InfoBlock::decode(&bytes).ok().filter(|info| info.version == version)?;
        let arena = offset.checked_sub(info.geometry.info2off)?;
        info.geometry.validate(medium.size() - arena).ok()?;
        if arena <= start {
            return (arena == start).then_some(info);
        }
        // A step of less than an arena would be one of very many.
        end = (end - arena >= ARENA_MIN_SIZE).then_some(arena)?;
    }
    None
}

/// All arenas, from the first on.
fn follow<M: PersistentMemory>(medium: &M, first: FoundArena) -> Result<Vec<FoundArena>, Error> {
    let mut found = vec![first];
    let mut last = first;
    while last.info.geometry.nextoff != 0 {
        // Validated to lead forward, and to leave room for another arena: the chain ends.
        let (number, start) = (found.len(), last.start + last.info.geometry.nextoff);
        last = arena(medium, number, start, first.info.version)?;
        check_kinship(&first.info, &last.info, number)?;
        found.push(last);
    }
    Ok(found)
}

/// Checks that an arena belongs to the same BTT as the first.
fn check_kinship(first: &InfoBlock, other: &InfoBlock, arena: usize) -> Result<(), Error> {
    let foreign = |difference| Err(Error::NotKin { arena, difference });
    if other.uuid != first.uuid {
        foreign("has another uuid than the first")
    } else if other.parent_uuid != first.parent_uuid {
        foreign("has another parent uuid than the first")
    } else if other.geometry.lba_size != first.geometry.lba_size {
        foreign("has another sector size than the first")
    } else {
        Ok(())
    }
}

/// Checks that a BTT belongs to the namespace `uuid`. A BTT without a parent belongs anywhere.
pub fn check_parent(found: &[FoundArena], uuid: Uuid) -> Result<(), Error> {
    let parent = found.first().map_or(Uuid::nil(), |arena| arena.info.parent_uuid);
    if parent.is_nil() || parent == uuid {
        return Ok(());
    }
    Err(Error::NotKin { arena: 0, difference: "belongs to a namespace with another uuid" })
}

#[cfg(test)]
mod tests;
