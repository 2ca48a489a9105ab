//! The index block: which slots hold labels.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::LabelFault;
use crate::pmem::fletcher64_without_field;

/// The first 16 bytes of an index block (the kernel's `NSINDEX_SIGNATURE`).
pub(in crate::nvdimm) const SIGNATURE: [u8; 16] = *b"NAMESPACE_INDEX\0";

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
/// Offset of the checksum in an index block, a multiple of eight.
pub(super) const CHECKSUM_OFFSET: usize = 64;

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
    /// Both, the one that is made today first.
    pub const ALL: [LabelVersion; 2] = [LabelVersion::V1_2, LabelVersion::V1_1];

    /// Bytes of a label.
    #[must_use]
    pub fn label_size(self) -> u64 {
        match self {
            LabelVersion::V1_1 => 128,
            LabelVersion::V1_2 => 256,
        }
    }

    /// Major and minor number.
    #[must_use]
    pub fn numbers(self) -> (u16, u16) {
        match self {
            LabelVersion::V1_1 => (1, 1),
            LabelVersion::V1_2 => (1, 2),
        }
    }
}

impl std::fmt::Display for LabelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.numbers();
        write!(f, "{major}.{minor}")
    }
}

/// Where the parts of a label storage area are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of an index block.
    pub index_size: u64,
    /// Number of slots.
    pub nslot: u32,
}

impl Layout {
    /// The layout that Linux gives an area of `area_size` bytes; `None`: it has no room for two
    /// labels.
    ///
    /// The number of slots is reckoned with index blocks large enough for an area that is all slots,
    /// and the size of the index blocks then with that number (the kernel's
    /// `nvdimm_num_label_slots` and `sizeof_namespace_index`): it can be a slot or two fewer than
    /// would fit.
    #[must_use]
    pub fn of(area_size: u64, version: LabelVersion) -> Option<Layout> {
        let label_size = version.label_size();
        let index_size_for =
            |slots: u64| (HEADER_SIZE as u64 + slots.div_ceil(8)).next_multiple_of(ALIGNMENT);
        let largest_index = index_size_for(area_size / label_size);
        let slots = area_size.checked_sub(2 * largest_index)? / label_size;
        let nslot = u32::try_from(slots).ok().filter(|slots| *slots >= 2)?;
        Some(Layout { index_size: index_size_for(slots), nslot })
    }
}

/// The contents of an index block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBlock {
    /// Version of the labels.
    pub version: LabelVersion,
    /// Which of the two this is, 0 or 1.
    pub number: u64,
    /// Sequence number, 1 to 3.
    pub seq: u32,
    /// Bytes of an index block.
    pub size: u64,
    /// Number of slots.
    pub nslot: u32,
    /// One bit per slot, 1 = free, and whatever follows up to the end of the block.
    free: Vec<u8>,
}

impl IndexBlock {
    /// Index block `number` of a new area, with all slots free.
    pub(super) fn empty(version: LabelVersion, layout: Layout, number: u64, seq: u32) -> Self {
        let Layout { index_size: size, nslot } = layout;
        let free = vec![0; size as usize - HEADER_SIZE];
        let mut index = IndexBlock { version, number, seq, size, nslot, free };
        (0..nslot).for_each(|slot| index.set_free(slot, true));
        index
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
        let nslot = header.nslot.get();
        let free = &bytes[HEADER_SIZE..];
        if free.len() < nslot.div_ceil(8) as usize {
            return Err(LabelFault::TooManySlots { slots: nslot });
        }
        Ok(IndexBlock { version, number, seq: header.seq.get(), size, nslot, free: free.to_vec() })
    }

    /// The bytes of the index block, `size` of them, checksum included: what
    /// [`decode`](Self::decode) reads as this.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (major, minor) = self.version.numbers();
        let header = Header {
            signature: SIGNATURE,
            flags: [0; 3],
            label_size: (self.version.label_size() >> 8) as u8,
            seq: U32::new(self.seq),
            myoff: U64::new(self.offset()),
            mysize: U64::new(self.size),
            otheroff: U64::new((1 - self.number) * self.size),
            labeloff: U64::new(self.slot_offset(0)),
            nslot: U32::new(self.nslot),
            major: U16::new(major),
            minor: U16::new(minor),
            checksum: U64::ZERO,
        };
        let mut bytes = [header.as_bytes(), &self.free].concat();
        let checksum = fletcher64_without_field(&bytes, CHECKSUM_OFFSET);
        bytes[CHECKSUM_OFFSET..HEADER_SIZE].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Offset of the block in the area.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.number * self.size
    }

    /// Offset of a slot in the area.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> u64 {
        2 * self.size + u64::from(slot) * self.version.label_size()
    }

    /// The slots that hold labels.
    pub fn used_slots(&self) -> impl Iterator<Item = u32> {
        (0..self.nslot).filter(|slot| !self.is_free(*slot))
    }

    /// The slots that hold no label.
    pub fn free_slots(&self) -> impl Iterator<Item = u32> {
        (0..self.nslot).filter(|slot| self.is_free(*slot))
    }

    /// Returns whether slot `slot`, which exists, holds no label.
    #[must_use]
    pub fn is_free(&self, slot: u32) -> bool {
        self.free[(slot / 8) as usize] & 1 << (slot % 8) != 0
    }

    pub(super) fn set_free(&mut self, slot: u32, is_free: bool) {
        let byte = &mut self.free[(slot / 8) as usize];
        let bit = 1 << (slot % 8);
        if is_free { *byte |= bit } else { *byte &= !bit }
    }

    /// The index block that is written next: the other one, with the sequence number that follows.
    pub(super) fn successor(&self) -> IndexBlock {
        IndexBlock { number: 1 - self.number, seq: next_seq(self.seq), ..self.clone() }
    }

    /// Of the two index blocks, both valid, the one that counts.
    ///
    /// Sequence numbers go 1, 2, 3, 1: of two, the one that the other precedes is the newer; of
    /// equal ones Linux takes the second (the kernel's `best_seq`).
    #[must_use]
    pub fn newer(first: IndexBlock, second: IndexBlock) -> IndexBlock {
        let second_counts = second.seq == first.seq || second.seq == next_seq(first.seq);
        if second_counts { second } else { first }
    }
}

/// The sequence number after `seq`, 1 to 3 (the kernel's `nd_inc_seq`).
fn next_seq(seq: u32) -> u32 {
    seq % 3 + 1
}

impl Header {
    fn version(&self) -> Result<LabelVersion, LabelFault> {
        let (major, minor) = (self.major.get(), self.minor.get());
        let version = LabelVersion::ALL
            .into_iter()
            .find(|version| version.numbers() == (major, minor))
            .ok_or(LabelFault::Version(major, minor))?;
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
        // The index block fits into the area, so neither term comes near 2⁶⁴.
        if 2 * size + slots * label_size > area_size {
            return Err(LabelFault::TooManySlots { slots: self.nslot.get() });
        }
        Ok(())
    }
}

fn place(field: &'static str, found: u64, expected: u64) -> LabelFault {
    LabelFault::Place { field, found, expected }
}

/// Where the second index block stands: one index block after the first, whose size the first says
/// where it can still be read, and the size of the area where it cannot.
fn other_offset(area: &[u8]) -> Result<u64, LabelFault> {
    let candidates = LabelVersion::ALL
        .into_iter()
        .filter_map(|version| Layout::of(area.len() as u64, version))
        .map(|layout| layout.index_size);
    let stated = Header::read_from_prefix(area)
        .ok()
        .filter(|(header, _)| header.signature == SIGNATURE)
        .map(|(header, _)| header.mysize.get())
        // The first is not its own second.
        .filter(|size| *size != 0);
    stated
        .into_iter()
        .chain(candidates)
        .find(|offset| {
            let start = usize::try_from(*offset).unwrap_or(usize::MAX);
            area.get(start..).is_some_and(|bytes| bytes.starts_with(&SIGNATURE))
        })
        .ok_or(LabelFault::Signature)
}

#[cfg(test)]
mod tests;
