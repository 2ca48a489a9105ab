//! Erasing a BTT, and what tells that there is one to erase.

use crate::btt::format::discovery::{self, Copies};
use crate::btt::format::error::Error;
use crate::btt::format::geometry::{self, INFO_SIZE};
use crate::btt::format::info_block::Version;
use crate::pmem::{MediaError, PersistentMemory};

/// What shows that there is a BTT, or that there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// The second info block of a BTT whose first one is gone: ndctl leaves it behind when it destroys a
    /// namespace.
    SecondInfo(Version),
    /// A BTT, intact or damaged.
    Btt(Version),
}

/// Looks for info blocks in `medium`, intact or damaged.
pub fn trace<M: PersistentMemory>(medium: &M) -> Option<Trace> {
    let mut found = None;
    for version in Version::ALL {
        match discovery::first_arena(medium, version) {
            Err(Error::NotFound) => {}
            Ok(arena) if is_lone_backup(&arena.copies) => found = Some(Trace::SecondInfo(version)),
            _ => return Some(Trace::Btt(version)),
        }
    }
    found
}

fn is_lone_backup(copies: &Copies) -> bool {
    matches!(copies, Copies::OnlyBackup(fault) if fault.is_absence())
}

/// Zeroes the info blocks of the BTT in `medium`, of either version; durable on return.
///
/// The info blocks of the first arena go first, and the first of these before the second: a reader, at any
/// moment and after a crash, finds a BTT with all its sectors, or none.
pub fn erase<M: PersistentMemory>(medium: &M) -> Result<(), MediaError> {
    for version in Version::ALL {
        for (start, info2off) in arenas(medium, version) {
            medium.zero(start, INFO_SIZE)?;
            medium.zero(start + info2off, INFO_SIZE)?;
        }
    }
    Ok(())
}

/// Start, and distance from it to the second info block, of all arenas of `version` that can be found.
fn arenas<M: PersistentMemory>(medium: &M, version: Version) -> Vec<(u64, u64)> {
    if let Ok(found) = discovery::find(medium, Some(version)) {
        return found.iter().map(|arena| (arena.start, arena.info.geometry.info2off)).collect();
    }
    let start = version.first_arena();
    let info2off = match discovery::first_arena(medium, version) {
        Err(Error::NotFound) => return Vec::new(),
        // The next ones cannot be followed.
        Ok(first) => first.info.geometry.info2off,
        Err(_) => geometry::backup_offset((medium.size() - start).min(geometry::ARENA_MAX_SIZE)),
    };
    vec![(start, info2off)]
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::btt::{CreateOptions, LbaSize, create};
    use crate::pmem::simulated::Simulated;

    fn with_btt(version: Version, arena_size: u64) -> Simulated {
        let medium = Simulated::new(64 << 20);
        let options = CreateOptions {
            lba_size: LbaSize::new(4096).unwrap(),
            version,
            uuid: Uuid::max(),
            parent_uuid: Uuid::nil(),
            arena_size,
        };
        create(&medium, &options, |_, _| {}).unwrap();
        medium
    }

    #[test]
    fn all_arenas_are_taken_away() {
        for version in Version::ALL {
            let medium = with_btt(version, 16 << 20);
            assert_eq!(trace(&medium), Some(Trace::Btt(version)));
            let arenas = discovery::find(&medium, None).unwrap();
            assert!(arenas.len() >= 3);
            erase(&medium).unwrap();
            assert_eq!(trace(&medium), None);
            for arena in arenas {
                for offset in [arena.start, arena.start + arena.info.geometry.info2off] {
                    let mut bytes = [1; 4096];
                    medium.read_bytes(offset, &mut bytes).unwrap();
                    assert_eq!(bytes, [0; 4096]);
                }
            }
        }
    }

    #[test]
    fn what_is_left_is_told_from_what_is_damaged() {
        for version in Version::ALL {
            let medium = with_btt(version, 1 << 39);
            let start = version.first_arena();
            medium.write_bytes(start + 100, b"x").unwrap();
            assert_eq!(trace(&medium), Some(Trace::Btt(version)), "a damaged first info");
            medium.zero(start, 4096).unwrap();
            assert_eq!(trace(&medium), Some(Trace::SecondInfo(version)));
            erase(&medium).unwrap();
            assert_eq!(trace(&medium), None);
        }
    }
}
