//! The index block: which slots hold labels.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::LabelFault;
use crate::pmem::fletcher64_without_field;

/// The first 16 bytes of an index block (the kernel's `NSINDEX_SIGNATURE`).
pub(super) const SIGNATURE: [u8; 16] = *b"NAMESPACE_INDEX\0";

/// An index block is a multiple of this in bytes (the kernel's `NSINDEX_ALIGN`).
const ALIGNMENT: u64 = 256;

/// The on-media structure, up to the bitmap (the kernel's `struct nd_namespace_index`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    signature: [u8; 16],
    flags: [u8; 3],
    label_size: u8,
    seq: U32,
    myoff: U64,
    mysize: U64,
    otheroff: U64,
    labeloff: U64,
    nslot: U32,
    major: U16,
    minor: U16,
    checksum: U64,
}

const HEADER_SIZE: usize = size_of::<Header>();
const CHECKSUM_OFFSET: usize = 64;

const _: () = {
    use std::mem::offset_of;
    assert!(HEADER_SIZE == 72);
    assert!(offset_of!(Header, label_size) == 19);
    assert!(offset_of!(Header, nslot) == 56);
    assert!(offset_of!(Header, checksum) == CHECKSUM_OFFSET);
};

/// The versions of the label format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelVersion {
    /// 1.1: labels of 128 bytes, without guids and checksum.
    V1_1,
    /// 1.2: labels of 256 bytes.
    V1_2,
}

impl LabelVersion {
    /// Bytes of a label.
    #[must_use]
    pub fn label_size(self) -> u64 {
        match self {
            LabelVersion::V1_1 => 128,
            LabelVersion::V1_2 => 256,
        }
    }
}

impl std::fmt::Display for LabelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LabelVersion::V1_1 => "1.1",
            LabelVersion::V1_2 => "1.2",
        })
    }
}

/// The contents of an index block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBlock {
    /// Version of the labels.
    pub version: LabelVersion,
    /// Sequence number, 1 to 3.
    pub seq: u32,
    /// Bytes of an index block.
    pub size: u64,
    /// Offset of slot 0 in the area.
    pub labeloff: u64,
    /// Number of slots.
    pub nslot: u32,
    /// One bit per slot, 1 = free.
    free: Vec<u8>,
}

impl IndexBlock {
    /// Bytes of an index block, and number of slots, in an area of `area_size` bytes.
    ///
    /// As the kernel's `sizeof_namespace_index`: as many slots as fit beside two index blocks with a
    /// bit for each.
    #[must_use]
    pub fn layout(area_size: u64, label_size: u64) -> (u64, u64) {
        let size_for =
            |slots: u64| (HEADER_SIZE as u64 + slots.div_ceil(8)).next_multiple_of(ALIGNMENT);
        let mut slots = area_size / label_size;
        while slots > 0 && 2 * size_for(slots) + slots * label_size > area_size {
            slots -= 1;
        }
        (size_for(slots), slots)
    }

    /// Decodes index block `number`, 0 or 1, of the area `area`.
    pub fn decode(area: &[u8], number: u64) -> Result<IndexBlock, LabelFault> {
        // The first says where the second stands; both have the same size.
        let start = if number == 0 { 0 } else { other_offset(area)? };
        let bytes = usize::try_from(start).ok().and_then(|start| area.get(start..));
        let Some((header, _)) = bytes.and_then(|bytes| Header::read_from_prefix(bytes).ok()) else {
            return Err(LabelFault::Signature);
        };
        if header.signature != SIGNATURE {
            return Err(LabelFault::Signature);
        }
        let version = header.version()?;
        let size = header.mysize.get();
        let end = start.checked_add(size).filter(|end| *end <= area.len() as u64);
        let (Some(end), true) = (end, size >= HEADER_SIZE as u64) else {
            return Err(place("mysize", size, ALIGNMENT));
        };
        let bytes = &area[start as usize..end as usize];
        let (found, expected) =
            (header.checksum.get(), fletcher64_without_field(bytes, CHECKSUM_OFFSET));
        if found != expected {
            return Err(LabelFault::Checksum { found, expected });
        }
        header.check_places(number, start, area.len() as u64)?;
        let bitmap = HEADER_SIZE..HEADER_SIZE + header.nslot.get().div_ceil(8) as usize;
        let free =
            bytes.get(bitmap).ok_or(LabelFault::TooManySlots { slots: header.nslot.get() })?;
        Ok(IndexBlock {
            version,
            seq: header.seq.get(),
            size,
            labeloff: header.labeloff.get(),
            nslot: header.nslot.get(),
            free: free.to_vec(),
        })
    }

    /// The slots that hold labels.
    pub fn used_slots(&self) -> impl Iterator<Item = u32> {
        (0..self.nslot).filter(|slot| self.free[(slot / 8) as usize] & 1 << (slot % 8) == 0)
    }

    /// Offset of a slot in the area.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> u64 {
        self.labeloff + u64::from(slot) * self.version.label_size()
    }

    /// Whether this index block is newer than `other`, both being valid.
    ///
    /// Sequence numbers go 1, 2, 3, 1: of two, the one that the other precedes is the newer; equal
    /// ones mean the same contents (the kernel's `best_seq`).
    #[must_use]
    pub fn is_newer_than(&self, other: &IndexBlock) -> bool {
        self.seq == other.seq % 3 + 1
    }
}

impl Header {
    fn version(&self) -> Result<LabelVersion, LabelFault> {
        let (major, minor) = (self.major.get(), self.minor.get());
        let version = match (major, minor) {
            (1, 1) => LabelVersion::V1_1,
            (1, 2) => LabelVersion::V1_2,
            _ => return Err(LabelFault::Version(major, minor)),
        };
        let size = 128u32.checked_shl(self.label_size.into()).unwrap_or(u32::MAX);
        if u64::from(size) == version.label_size() {
            Ok(version)
        } else {
            Err(LabelFault::LabelSize(size))
        }
    }

    /// Checks that index block `number`, found at `start`, says of the area what is so.
    fn check_places(&self, number: u64, start: u64, area_size: u64) -> Result<(), LabelFault> {
        let size = self.mysize.get();
        if !(1..=3).contains(&self.seq.get()) {
            return Err(LabelFault::Sequence(self.seq.get()));
        }
        let fields = [
            ("myoff", self.myoff.get(), number * size),
            ("myoff", self.myoff.get(), start),
            ("otheroff", self.otheroff.get(), (1 - number) * size),
            ("labeloff", self.labeloff.get(), 2 * size),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                return Err(place(field, found, expected));
            }
        }
        let label_size = 128 << self.label_size;
        let slots = u64::from(self.nslot.get());
        if 2 * size + slots * label_size > area_size {
            return Err(LabelFault::TooManySlots { slots: self.nslot.get() });
        }
        Ok(())
    }
}

fn place(field: &'static str, found: u64, expected: u64) -> LabelFault {
    LabelFault::Place { field, found, expected }
}

/// Where the second index block stands: one index block behind the first, whose size the first says
/// where it can still be read, and the size of the area where it cannot.
fn other_offset(area: &[u8]) -> Result<u64, LabelFault> {
    let candidates = [LabelVersion::V1_2, LabelVersion::V1_1]
        .map(|version| IndexBlock::layout(area.len() as u64, version.label_size()).0);
    let stated = Header::read_from_prefix(area)
        .ok()
        .filter(|(header, _)| header.signature == SIGNATURE)
        .map(|(header, _)| header.mysize.get());
    stated
        .into_iter()
        .chain(candidates)
        .find(|offset| {
            let start = usize::try_from(*offset).unwrap_or(usize::MAX);
            area.get(start..).is_some_and(|bytes| bytes.starts_with(&SIGNATURE))
        })
        .ok_or(LabelFault::Signature)
}
