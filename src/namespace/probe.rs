//! Probing what a namespace holds, by its signatures, and erasing them.

use std::fmt;

use crate::btt::{self, Version};
use crate::dax;
use crate::pmem::{MediaError, PersistentMemory};

/// What a medium holds, by the structures that identify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// Nothing that is known.
    Nothing,
    /// The second info block of a BTT whose first one is gone: ndctl leaves it behind when it destroys a
    /// namespace.
    SecondInfo(Version),
    /// A BTT, intact or damaged.
    Btt(Version),
    /// A DAX region, intact or damaged.
    Region,
    /// A namespace in another mode of Linux.
    Foreign(&'static str),
}

/// What Linux keeps at byte 4096 of a namespace in another mode, and what that is.
const FOREIGN: [(&[u8; 16], &str); 2] = [
    (b"NVDIMM_PFN_INFO\0", "a namespace in fsdax mode"),
    (b"NVDIMM_DAX_INFO\0", "a namespace in devdax mode"),
];
/// Offset of the info block of those modes (the kernel's `SZ_4K`).
const FOREIGN_OFFSET: u64 = 4096;
/// Bytes of the info block of those modes (the kernel's `struct nd_pfn_sb`).
const FOREIGN_SIZE: u64 = 4096;

/// Returns what `medium` holds.
///
/// # Errors
///
/// The bytes in which Linux keeps the info blocks of other modes cannot be read.
pub fn probe<M: PersistentMemory>(medium: &M) -> Result<Signature, MediaError> {
    if let Some(what) = foreign(medium)? {
        return Ok(Signature::Foreign(what));
    }
    if has_region(medium) {
        return Ok(Signature::Region);
    }
    Ok(match btt::trace(medium) {
        None => Signature::Nothing,
        Some(btt::Trace::SecondInfo(version)) => Signature::SecondInfo(version),
        Some(btt::Trace::Btt(version)) => Signature::Btt(version),
    })
}

/// Returns whether `medium` holds a DAX region, intact or damaged.
///
/// In a BTT, the bytes at which a superblock would be may be those of a sector, whatever a guest has written
/// there.
pub(super) fn has_region<M: PersistentMemory>(medium: &M) -> bool {
    !btt::is_signed(medium) && dax::is_there(medium)
}

/// Finds the DAX region in `medium`, by its superblocks.
///
/// # Errors
///
/// [`dax::Error::NotFound`], also where there is a BTT; as [`dax::find`].
pub fn find_region<M: PersistentMemory>(medium: &M) -> Result<dax::Found, dax::Error> {
    if btt::is_signed(medium) { Err(dax::Error::NotFound) } else { dax::find(medium) }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signature::Nothing => f.write_str("nothing"),
            Signature::SecondInfo(version) => write!(f, "the end of a BTT of version {version}"),
            Signature::Btt(version) => write!(f, "a BTT of version {version}"),
            Signature::Region => f.write_str("a DAX region"),
            Signature::Foreign(what) => f.write_str(what),
        }
    }
}

/// Erases every signature in `medium`; durable on return.
///
/// A reader, at any moment and after a crash, finds all of what was there, or nothing.
pub fn erase<M: PersistentMemory>(medium: &M) -> Result<(), MediaError> {
    btt::erase(medium)?;
    if !btt::is_signed(medium) {
        dax::erase(medium)?;
    }
    // Zeroing also clears poison.
    if !matches!(foreign(medium), Ok(None)) {
        medium.zero(FOREIGN_OFFSET, FOREIGN_SIZE)?;
    }
    Ok(())
}

/// Returns which other mode of Linux the info block at byte 4096 is of.
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
    use crate::btt::{CreateOptions, LbaSize};
    use crate::pmem::simulated::Simulated;

    const SIZE: u64 = 32 << 20;

    fn with_btt(version: Version) -> Simulated {
        let medium = Simulated::new(SIZE);
        let options = CreateOptions {
            lba_size: LbaSize::new(4096).unwrap(),
            version,
            uuid: Uuid::max(),
            parent_uuid: Uuid::nil(),
            arena_size: SIZE,
        };
        btt::create(&medium, &options, |_, _| {}).unwrap();
        medium
    }

    fn with_region() -> Simulated {
        let medium = Simulated::new(SIZE);
        dax::create(&medium, &dax::CreateOptions::new(Uuid::max())).unwrap();
        medium
    }

    #[test]
    fn each_signature_is_found_and_erased() {
        let mut media = vec![(with_region(), Signature::Region)];
        for version in Version::ALL {
            media.push((with_btt(version), Signature::Btt(version)));
            let destroyed = with_btt(version);
            destroyed.zero(version.first_arena(), 4096).unwrap();
            media.push((destroyed, Signature::SecondInfo(version)));
        }
        for (signature, what) in FOREIGN {
            let medium = Simulated::new(SIZE);
            medium.write_bytes(4096, signature).unwrap();
            media.push((medium, Signature::Foreign(what)));
        }
        for (medium, signature) in media {
            assert_eq!(probe(&medium), Ok(signature));
            erase(&medium).unwrap();
            assert_eq!(probe(&medium), Ok(Signature::Nothing));
        }
    }

    #[test]
    fn a_superblock_that_a_guest_has_written_into_a_btt_is_no_region() {
        let medium = with_btt(Version::V2_0);
        let mut superblock = [0; 4096];
        with_region().read_bytes(4096, &mut superblock).unwrap();
        medium.write_bytes(4096, &superblock).unwrap();
        assert!(dax::find(&medium).is_ok());
        assert_eq!(find_region(&medium), Err(dax::Error::NotFound));
        assert_eq!(probe(&medium), Ok(Signature::Btt(Version::V2_0)));
    }
}
