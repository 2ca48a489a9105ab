//! The info block: what an arena says of itself, at its start and again at its end.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::geometry::{Geometry, GeometryFault, INFO_SIZE};
use super::lba_size::LbaSize;
use crate::pmem::{MediaError, PersistentMemory, fletcher64_without_field};

/// The first 16 bytes of an info block (the kernel's `BTT_SIG`).
pub const SIGNATURE: [u8; 16] = *b"BTT_ARENA_INFO\0\0";

/// Flag bit: the arena is read-only after an error (the kernel's `IB_FLAG_ERROR`).
const FLAG_ERROR: u32 = 1;

/// The on-media structure (the kernel's `struct btt_sb`, UEFI 2.7 table 6-7).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OnMedia {
    signature: [u8; 16],
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    flags: U32,
    version_major: U16,
    version_minor: U16,
    external_lbasize: U32,
    external_nlba: U32,
    internal_lbasize: U32,
    internal_nlba: U32,
    nfree: U32,
    infosize: U32,
    nextoff: U64,
    dataoff: U64,
    mapoff: U64,
    logoff: U64,
    info2off: U64,
    padding: [u8; 3968],
    checksum: U64,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<OnMedia>() == INFO_SIZE as usize);
    assert!(offset_of!(OnMedia, flags) == 48);
    assert!(offset_of!(OnMedia, external_lbasize) == 56);
    assert!(offset_of!(OnMedia, nextoff) == 80);
    assert!(offset_of!(OnMedia, info2off) == 112);
    assert!(offset_of!(OnMedia, checksum) == CHECKSUM_OFFSET);
};

/// Offset of the checksum in an info block.
const CHECKSUM_OFFSET: usize = 4088;

/// The two versions of the on-media format: they differ in where the first arena starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.1: the first arena starts at byte 4096 of the namespace. Linux makes it on label-less
    /// NVDIMMs and with v1.1 labels.
    V1_1,
    /// 2.0: the first arena starts at byte 0. Linux makes it with v1.2 labels.
    V2_0,
}

impl Version {
    /// Both, in the order in which they are looked for.
    pub const ALL: [Version; 2] = [Version::V1_1, Version::V2_0];

    /// Byte of the namespace at which the first arena starts.
    #[must_use]
    pub fn first_arena(self) -> u64 {
        match self {
            Version::V1_1 => 4096,
            Version::V2_0 => 0,
        }
    }

    /// Major and minor number.
    #[must_use]
    pub fn numbers(self) -> (u16, u16) {
        match self {
            Version::V1_1 => (1, 1),
            Version::V2_0 => (2, 0),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.numbers();
        write!(f, "{major}.{minor}")
    }
}

/// The contents of an info block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoBlock {
    /// Of this BTT; the same in each of its arenas.
    pub uuid: Uuid,
    /// Of the namespace; nil where it has none.
    pub parent_uuid: Uuid,
    /// The arena is read-only after an error.
    pub error: bool,
    /// Version of the format.
    pub version: Version,
    /// Sizes and places.
    pub geometry: Geometry,
}

/// Why 4096 bytes are not an info block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InfoFault {
    /// The signature is not there.
    #[error("no BTT signature")]
    Signature,
    /// The checksum does not match.
    #[error("checksum {found:#018x} where the contents sum to {expected:#018x}")]
    Checksum {
        /// What the block says.
        found: u64,
        /// What it sums to.
        expected: u64,
    },
    /// An unknown version.
    #[error("version {0}.{1} is neither 1.1 nor 2.0")]
    Version(u16, u16),
    /// The right version for the other place.
    #[error("version {found} where an info block of version {expected} belongs")]
    Misplaced {
        /// What the block says.
        found: Version,
        /// What starts at its place.
        expected: Version,
    },
    /// The info block is not 4096 bytes long.
    #[error("infosize {0} is not 4096")]
    InfoSize(u32),
    /// The block says that its copy stands elsewhere than where it was found.
    #[error("info2off {info2off:#x}, but the copy was found at {found:#x}")]
    CopyElsewhere {
        /// What the block says.
        info2off: u64,
        /// Where it stands.
        found: u64,
    },
    /// The sizes and places do not describe an arena.
    #[error(transparent)]
    Geometry(#[from] GeometryFault),
    /// The block could not be read.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl InfoBlock {
    /// Reads and checks the info block at `offset`, where one of version `expected` belongs; `room`
    /// bytes lie between the start of its arena and the end of the namespace.
    pub fn read<M: PersistentMemory>(
        medium: &M,
        offset: u64,
        expected: Version,
        room: u64,
    ) -> Result<InfoBlock, InfoFault> {
        let mut bytes = [0; INFO_SIZE as usize];
        medium.read_bytes(offset, &mut bytes)?;
        let info = InfoBlock::decode(&bytes)?;
        let found = info.version;
        if found != expected {
            return Err(InfoFault::Misplaced { found, expected });
        }
        info.geometry.validate(room)?;
        Ok(info)
    }

    /// Decodes an info block; the geometry is not validated yet.
    pub fn decode(bytes: &[u8; INFO_SIZE as usize]) -> Result<InfoBlock, InfoFault> {
        let raw: &OnMedia = zerocopy::transmute_ref!(bytes);
        // The signature comes first: a block of zeroes has the right checksum, zero.
        if raw.signature != SIGNATURE {
            return Err(InfoFault::Signature);
        }
        let (found, expected) =
            (raw.checksum.get(), fletcher64_without_field(bytes, CHECKSUM_OFFSET));
        if found != expected {
            return Err(InfoFault::Checksum { found, expected });
        }
        let numbers = (raw.version_major.get(), raw.version_minor.get());
        let version = Version::ALL
            .into_iter()
            .find(|version| version.numbers() == numbers)
            .ok_or(InfoFault::Version(numbers.0, numbers.1))?;
        if u64::from(raw.infosize.get()) != INFO_SIZE {
            return Err(InfoFault::InfoSize(raw.infosize.get()));
        }
        let external = raw.external_lbasize.get();
        let lba_size = LbaSize::new(external).ok_or(GeometryFault::LbaSize(external))?;
        Ok(InfoBlock {
            uuid: Uuid::from_bytes(raw.uuid),
            parent_uuid: Uuid::from_bytes(raw.parent_uuid),
            error: raw.flags.get() & FLAG_ERROR != 0,
            version,
            geometry: Geometry {
                lba_size,
                internal_lbasize: raw.internal_lbasize.get(),
                external_nlba: raw.external_nlba.get(),
                internal_nlba: raw.internal_nlba.get(),
                nfree: raw.nfree.get(),
                nextoff: raw.nextoff.get(),
                dataoff: raw.dataoff.get(),
                mapoff: raw.mapoff.get(),
                logoff: raw.logoff.get(),
                info2off: raw.info2off.get(),
            },
        })
    }

    /// The 4096 bytes of the info block, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; INFO_SIZE as usize] {
        let geometry = &self.geometry;
        let (major, minor) = self.version.numbers();
        let mut raw = OnMedia {
            signature: SIGNATURE,
            uuid: self.uuid.into_bytes(),
            parent_uuid: self.parent_uuid.into_bytes(),
            flags: U32::new(if self.error { FLAG_ERROR } else { 0 }),
            version_major: U16::new(major),
            version_minor: U16::new(minor),
            external_lbasize: U32::new(geometry.lba_size.external()),
            external_nlba: U32::new(geometry.external_nlba),
            internal_lbasize: U32::new(geometry.internal_lbasize),
            internal_nlba: U32::new(geometry.internal_nlba),
            nfree: U32::new(geometry.nfree),
            infosize: U32::new(INFO_SIZE as u32),
            nextoff: U64::new(geometry.nextoff),
            dataoff: U64::new(geometry.dataoff),
            mapoff: U64::new(geometry.mapoff),
            logoff: U64::new(geometry.logoff),
            info2off: U64::new(geometry.info2off),
            padding: [0; 3968],
            checksum: U64::ZERO,
        };
        raw.checksum = U64::new(fletcher64_without_field(raw.as_bytes(), CHECKSUM_OFFSET));
        zerocopy::transmute!(raw)
    }

    /// Writes the info block at `offset`; durable on return.
    pub fn write<M: PersistentMemory>(&self, medium: &M, offset: u64) -> Result<(), MediaError> {
        medium.write_bytes(offset, &self.encode())?;
        medium.fence()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMESPACE: u64 = 64 << 20;

    fn info(version: Version, sector: u32) -> InfoBlock {
        let lba_size = LbaSize::new(sector).unwrap();
        InfoBlock {
            uuid: Uuid::from_bytes(std::array::from_fn(|i| i as u8)),
            parent_uuid: Uuid::nil(),
            error: false,
            version,
            geometry: Geometry::new(NAMESPACE - version.first_arena(), lba_size, true),
        }
    }

    /// Checksums that the other implementations give.
    #[test]
    fn encodes_the_known_vectors() {
        let cases = [
            (Version::V1_1, 512, 0x01da_96c6_2bff_bcb3),
            (Version::V1_1, 4096, 0x0fba_eec6_2c03_50f3),
            (Version::V2_0, 4096, 0x0c83_1a99_2c02_80f6),
        ];
        for (version, lbasize, checksum) in cases {
            let bytes = info(version, lbasize).encode();
            let found = u64::from_le_bytes(bytes[4088..].try_into().unwrap());
            assert_eq!(found, checksum, "{version} {lbasize}");
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        for lba_size in LbaSize::ALL {
            let mut written = info(Version::V2_0, lba_size.external());
            written.error = true;
            written.parent_uuid = Uuid::max();
            assert_eq!(InfoBlock::decode(&written.encode()), Ok(written));
        }
    }

    #[test]
    fn a_block_of_zeroes_is_not_an_info_block() {
        assert_eq!(InfoBlock::decode(&[0; 4096]), Err(InfoFault::Signature));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let good = info(Version::V1_1, 512).encode();
        for offset in 0..4096 {
            let mut bytes = good;
            bytes[offset] ^= 0x10;
            assert!(InfoBlock::decode(&bytes).is_err(), "byte {offset}");
        }
    }

    #[test]
    fn well_formed_but_foreign_blocks_are_told_apart() {
        let fault = |offset: usize, value: &[u8]| {
            let mut bytes = info(Version::V1_1, 512).encode();
            bytes[offset..offset + value.len()].copy_from_slice(value);
            let sum = fletcher64_without_field(&bytes, CHECKSUM_OFFSET);
            bytes[CHECKSUM_OFFSET..].copy_from_slice(&sum.to_le_bytes());
            InfoBlock::decode(&bytes).unwrap_err()
        };
        assert_eq!(fault(52, &[3, 0]), InfoFault::Version(3, 1));
        assert_eq!(fault(76, &[0, 0, 1, 0]), InfoFault::InfoSize(65536));
        assert_eq!(fault(56, &[0, 4]), GeometryFault::LbaSize(1024).into());
    }

    proptest! {
        /// Numbers that describe no arena, too: they are for the geometry to refuse.
        #[test]
        fn any_numbers_survive_their_encoding(
            (uuid, parent_uuid, error, old) in any::<(u128, u128, bool, bool)>(),
            lba_size in prop::sample::select(LbaSize::ALL.to_vec()),
            words in any::<[u32; 4]>(),
            offsets in any::<[u64; 5]>(),
        ) {
            let [internal_lbasize, external_nlba, internal_nlba, nfree] = words;
            let [nextoff, dataoff, mapoff, logoff, info2off] = offsets;
            let info = InfoBlock {
                uuid: Uuid::from_u128(uuid),
                parent_uuid: Uuid::from_u128(parent_uuid),
                error,
                version: if old { Version::V1_1 } else { Version::V2_0 },
                geometry: Geometry {
                    lba_size,
                    internal_lbasize,
                    external_nlba,
                    internal_nlba,
                    nfree,
                    nextoff,
                    dataoff,
                    mapoff,
                    logoff,
                    info2off,
                },
            };
            prop_assert_eq!(InfoBlock::decode(&info.encode()), Ok(info));
        }
    }
}
