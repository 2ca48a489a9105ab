//! What a namespace already holds, and taking it away.

use crate::btt::{
    self, ARENA_MAX_SIZE, Copies, Error, INFO_SIZE, Version, backup_offset, first_arena,
};
use crate::dax;
use crate::pmem::{MediaError, PersistentMemory};

/// What there is in a namespace, by the structures that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Nothing that says so.
    Nothing,
    /// The second info block of a BTT whose first is gone without a trace: what ndctl leaves of a
    /// namespace that it destroys.
    SecondInfo(Version),
    /// A BTT, whole or damaged.
    Btt(Version),
    /// A DAX region.
    Region,
    /// A namespace in another mode of Linux's.
    Foreign(&'static str),
}

/// What [`Remains::Region`] is called.
const REGION: &str = "a DAX region";
/// What Linux keeps at byte 4096 of a namespace in another mode, and what that is.
const FOREIGN: [(&[u8; 16], &str); 2] = [
    (b"NVDIMM_PFN_INFO\0", "a namespace in fsdax mode"),
    (b"NVDIMM_DAX_INFO\0", "a namespace in devdax mode"),
];
/// Offset of the info block of those modes (the kernel's `SZ_4K`).
const FOREIGN_OFFSET: u64 = 4096;
/// Bytes of the info block of those modes (the kernel's `struct nd_pfn_sb`).
const FOREIGN_SIZE: u64 = 4096;

impl Remains {
    /// What there is in `medium`.
    pub fn find<M: PersistentMemory>(medium: &M) -> Result<Remains, MediaError> {
        if let Some(what) = foreign(medium)? {
            return Ok(Remains::Foreign(what));
        }
        if dax::is_there(medium) {
            return Ok(Remains::Region);
        }
        let mut found = Remains::Nothing;
        for version in Version::ALL {
            match first_arena(medium, version) {
                Err(Error::NotFound) => {}
                Ok(arena) if is_lone_backup(&arena.copies) => found = Remains::SecondInfo(version),
                _ => return Ok(Remains::Btt(version)),
            }
        }
        Ok(found)
    }

    /// Refuses to write over it.
    pub(crate) fn check_nothing(self) -> Result<(), Error> {
        match self {
            Remains::Nothing => Ok(()),
            Remains::SecondInfo(version) | Remains::Btt(version) => Err(Error::Exists(version)),
            Remains::Region => Err(Error::Foreign(REGION)),
            Remains::Foreign(what) => Err(Error::Foreign(what)),
        }
    }
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Remains::Nothing => f.write_str("nothing"),
            Remains::SecondInfo(version) => write!(f, "the end of a BTT of version {version}"),
            Remains::Btt(version) => write!(f, "a BTT of version {version}"),
            Remains::Region => f.write_str(REGION),
            Remains::Foreign(what) => f.write_str(what),
        }
    }
}

/// Takes away what says that there is a BTT, or something else, in `medium`; durable on return.
///
/// The info blocks of the first arena go first, and the first of these before the second: whoever
/// looks meanwhile, or after a crash, finds a BTT with all its sectors, or none.
pub fn erase<M: PersistentMemory>(medium: &M) -> Result<(), MediaError> {
    for version in Version::ALL {
        for (start, info2off) in arenas(medium, version) {
            medium.zero(start, INFO_SIZE)?;
            medium.zero(start + info2off, INFO_SIZE)?;
        }
    }
    dax::erase(medium)?;
    // Zeroing also clears poison.
    if !matches!(foreign(medium), Ok(None)) {
        medium.zero(FOREIGN_OFFSET, FOREIGN_SIZE)?;
    }
    Ok(())
}

/// Start, and distance from it to the second info block, of all arenas of `version` that can be found.
fn arenas<M: PersistentMemory>(medium: &M, version: Version) -> Vec<(u64, u64)> {
    if let Ok(found) = btt::find(medium, Some(version)) {
        return found.iter().map(|arena| (arena.start, arena.info.geometry.info2off)).collect();
    }
    let start = version.first_arena();
    let info2off = match first_arena(medium, version) {
        Err(Error::NotFound) => return Vec::new(),
        // The next ones cannot be followed.
        Ok(first) => first.info.geometry.info2off,
        Err(_) => backup_offset((medium.size() - start).min(ARENA_MAX_SIZE)),
    };
    vec![(start, info2off)]
}

fn is_lone_backup(copies: &Copies) -> bool {
    matches!(copies, Copies::OnlyBackup(fault) if fault.is_absence())
}

/// What is there in another mode than sector mode.
fn foreign<M: PersistentMemory>(medium: &M) -> Result<Option<&'static str>, MediaError> {
    let mut signature = [0; 16];
    if medium.size() < FOREIGN_OFFSET + FOREIGN_SIZE {
        return Ok(None);
    }
    medium.read_bytes(FOREIGN_OFFSET, &mut signature)?;
    let found = FOREIGN.iter().find(|(foreign, _)| **foreign == signature);
    Ok(found.map(|(_, what)| *what))
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
            force: false,
        };
        create(&medium, &options, |_, _| {}).unwrap();
        medium
    }

    #[test]
    fn all_arenas_are_taken_away() {
        for version in Version::ALL {
            let medium = with_btt(version, 16 << 20);
            assert_eq!(Remains::find(&medium), Ok(Remains::Btt(version)));
            let arenas = btt::find(&medium, None).unwrap();
            assert!(arenas.len() >= 3);
            erase(&medium).unwrap();
            assert_eq!(Remains::find(&medium), Ok(Remains::Nothing));
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
            assert_eq!(Remains::find(&medium), Ok(Remains::Btt(version)), "a damaged first info");
            medium.zero(start, 4096).unwrap();
            assert_eq!(Remains::find(&medium), Ok(Remains::SecondInfo(version)));
            erase(&medium).unwrap();
            assert_eq!(Remains::find(&medium), Ok(Remains::Nothing));
        }
    }

    #[test]
    fn other_modes_are_known_by_their_signature() {
        for (signature, what) in FOREIGN {
            let medium = Simulated::new(32 << 20);
            medium.write_bytes(4096, signature).unwrap();
            assert_eq!(Remains::find(&medium), Ok(Remains::Foreign(what)));
            erase(&medium).unwrap();
            assert_eq!(Remains::find(&medium), Ok(Remains::Nothing));
        }
    }
}
