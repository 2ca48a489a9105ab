//! The superblock: what a region is. It is written at creation, and when the region grows.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fault::Fault;
use super::features::Features;
use super::layout::PAGES_OFFSET;
use super::units::MOST_ORDER;
use super::units::{Align, Bounds, Extent, PAGE_SIZE};
use super::version::Version;
use crate::pmem::{MediaError, PersistentMemory, fletcher64_without_field, make_dirty};

/// Bytes of a superblock.
pub(crate) const SUPERBLOCK_SIZE: u64 = 4096;
/// Byte offset of the superblock.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 4096;
/// Byte offset of its backup.
pub(crate) const BACKUP_OFFSET: u64 = 0;
/// The bytes behind the checksum.
pub(crate) const MAGIC: [u8; 16] = *b"NVM_PAGES_SUPER\0";

/// The on-media structure.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OnMedia {
    checksum: U64,
    magic: [u8; 16],
    set_uuid: [u8; 16],
    version: U32,
    page_size: U32,
    namespace: U16,
    namespaces: U16,
    align_order: U32,
    pages_offset: U64,
    page_count: U64,
    journal_first: U64,
    journal_order: U32,
    padding: U32,
    compat: U64,
    incompat: U64,
    ro_compat: U64,
    align_base: U64,
    reserved: [u8; 3976],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<OnMedia>() == SUPERBLOCK_SIZE as usize);
    assert!(offset_of!(OnMedia, checksum) == 0);
    assert!(offset_of!(OnMedia, version) == 40);
    assert!(offset_of!(OnMedia, pages_offset) == 56);
    assert!(offset_of!(OnMedia, journal_order) == 80);
    assert!(offset_of!(OnMedia, compat) == 88);
    assert!(offset_of!(OnMedia, align_base) == 112);
};

impl OnMedia {
    fn features(&self) -> Features {
        let [compat, incompat, ro_compat] = [&self.compat, &self.incompat, &self.ro_compat];
        Features { compat: compat.get(), incompat: incompat.get(), ro_compat: ro_compat.get() }
    }

    /// The alignment of devices. `size` is that of the namespace, for the error.
    fn align(&self, size: u64) -> Result<Align, Fault> {
        let order = self.align_order.get();
        let align = u8::try_from(order).ok().and_then(Align::of_order);
        align.ok_or(Fault::Superblock { field: "align_order", value: order.into(), size })
    }
}

/// What a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Version of the format.
    pub version: Version,
    /// Of the region, and of owner 0.
    pub set_uuid: Uuid,
    /// Number of this namespace in its set, 0..8.
    pub namespace: u8,
    /// Number of namespaces in the set, 1..=8.
    pub namespaces: u8,
    /// Default alignment of devices.
    pub align: Align,
    /// Number of allocatable pages.
    pub page_count: u64,
    /// First page of the journal.
    pub journal_first: u64,
    /// Order of the journal's block, at least 1: two buckets.
    pub journal_order: u32,
    /// What the region uses that concerns a program which does not know it.
    pub features: Features,
    /// Pages between the multiple of 4 GiB of the file where alignment counts from and the first byte
    /// of the namespace, below 2²⁰. 0 in regions whose alignment counts from the start of the namespace.
    pub align_base: u64,
}

impl Superblock {
    /// Number of the page behind the last one.
    #[must_use]
    pub(crate) fn end(&self) -> u64 {
        PAGES_OFFSET / PAGE_SIZE + self.page_count
    }

    /// Where allocatable pages end, and what their alignment counts from.
    #[must_use]
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { end: self.end(), base: self.align_base }
    }

    /// The journal's pages.
    #[must_use]
    pub(crate) fn journal(&self) -> Extent {
        Extent { first: self.journal_first, pages: 1 << self.journal_order }
    }

    /// Reads and checks the copy at `offset`.
    pub(crate) fn read<M: PersistentMemory>(medium: &M, offset: u64) -> Result<Superblock, Fault> {
        let mut bytes = [0; SUPERBLOCK_SIZE as usize];
        medium.read_bytes(offset, &mut bytes)?;
        Superblock::decode(&bytes, medium.size())
    }

    /// Makes durable what is seen of superblock and backup: the process that wrote it may have been killed before its
    /// fence, or its sync may have failed. One that cannot be used is among it, lest it can be after a power
    /// failure.
    pub(crate) fn persist<M: PersistentMemory>(medium: &M) -> Result<(), MediaError> {
        for offset in [SUPERBLOCK_OFFSET, BACKUP_OFFSET] {
            if !matches!(Superblock::read(medium, offset), Err(Fault::Media(_))) {
                make_dirty(medium, offset..offset + SUPERBLOCK_SIZE)?;
                medium.flush(offset, SUPERBLOCK_SIZE)?;
            }
        }
        medium.fence()
    }

    /// Decodes a superblock of a namespace of `size` bytes; every field is in range.
    pub(crate) fn decode(
        bytes: &[u8; SUPERBLOCK_SIZE as usize],
        size: u64,
    ) -> Result<Superblock, Fault> {
        let raw: &OnMedia = zerocopy::transmute_ref!(bytes);
        if raw.magic != MAGIC {
            return Err(Fault::NoSuperblock);
        }
        let (found, expected) = (raw.checksum.get(), fletcher64_without_field(bytes, 0));
        if found != expected {
            return Err(Fault::Checksum { found, expected });
        }
        let version = raw.version.get();
        let version = Version::of_number(version).ok_or(Fault::Version(version))?;
        let features = raw.features();
        features.check_open()?;
        let check = |field, value: u64, is_right: bool| {
            if is_right { Ok(()) } else { Err(Fault::Superblock { field, value, size }) }
        };
        let (namespace, namespaces) = (raw.namespace.get(), raw.namespaces.get());
        check("namespaces", namespaces.into(), (1..=8).contains(&namespaces))?;
        check("namespace", namespace.into(), namespace < namespaces)?;
        let align = raw.align(size)?;
        let page_size = raw.page_size.get().into();
        check("page_size", page_size, page_size == PAGE_SIZE)?;
        let pages_offset = raw.pages_offset.get();
        check("pages_offset", pages_offset, pages_offset == PAGES_OFFSET)?;
        let page_count = raw.page_count.get();
        let room = size.saturating_sub(PAGES_OFFSET) / PAGE_SIZE;
        check("page_count", page_count, page_count <= room)?;
        let (first, order) = (raw.journal_first.get(), raw.journal_order.get());
        check("journal_order", order.into(), (1..=MOST_ORDER).contains(&order))?;
        let align_base = raw.align_base.get();
        let has_base = features.incompat & Features::ALIGN_BASE != 0;
        check("align_base", align_base, align_base < if has_base { 1 << MOST_ORDER } else { 1 })?;
        check("journal_first", first, is_block(first, order, page_count, align_base))?;
        Ok(Superblock {
            version,
            set_uuid: Uuid::from_bytes(raw.set_uuid),
            namespace: namespace as u8,
            namespaces: namespaces as u8,
            align,
            page_count,
            journal_first: first,
            journal_order: order,
            features,
            align_base,
        })
    }

    /// The bytes of the superblock, checksum included.
    #[must_use]
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_SIZE as usize] {
        let mut raw = OnMedia {
            checksum: U64::ZERO,
            magic: MAGIC,
            set_uuid: self.set_uuid.into_bytes(),
            version: U32::new(self.version.number()),
            page_size: U32::new(PAGE_SIZE as u32),
            namespace: U16::new(self.namespace.into()),
            namespaces: U16::new(self.namespaces.into()),
            align_order: U32::new(self.align.order()),
            pages_offset: U64::new(PAGES_OFFSET),
            page_count: U64::new(self.page_count),
            journal_first: U64::new(self.journal_first),
            journal_order: U32::new(self.journal_order),
            padding: U32::ZERO,
            compat: U64::new(self.features.compat),
            incompat: U64::new(self.features.incompat),
            ro_compat: U64::new(self.features.ro_compat),
            align_base: U64::new(self.align_base),
            reserved: [0; 3976],
        };
        raw.checksum = U64::new(fletcher64_without_field(raw.as_bytes(), 0));
        zerocopy::transmute!(raw)
    }

    /// Stores the words in which the copy at `offset` is another; durable after the next fence.
    ///
    /// They are not streamed: an ordinary store that is seen after the process which made it was killed can
    /// be made durable by the next one.
    pub(crate) fn update<M: PersistentMemory>(
        &self,
        medium: &M,
        offset: u64,
    ) -> Result<(), MediaError> {
        let bytes = self.encode();
        for (word, place) in bytes.as_chunks::<8>().0.iter().zip((offset..).step_by(8)) {
            let value = u64::from_le_bytes(*word);
            if medium.load_u64(place)? != value {
                medium.store_u64(place, value)?;
            }
        }
        medium.flush(offset, SUPERBLOCK_SIZE)
    }

    /// Writes the copy at `offset`; durable on return.
    pub(crate) fn write<M: PersistentMemory>(
        &self,
        medium: &M,
        offset: u64,
    ) -> Result<(), MediaError> {
        medium.write_bytes(offset, &self.encode())?;
        medium.fence()
    }
}

/// Returns whether the 2^`order` pages from page `first` on are a block of a region of `page_count` pages: inside it,
/// and aligned to their number.
fn is_block(first: u64, order: u32, page_count: u64, align_base: u64) -> bool {
    let start = PAGES_OFFSET / PAGE_SIZE;
    first >= start
        && first.checked_add(1 << order).is_some_and(|after| after <= start + page_count)
        && (first + align_base).is_multiple_of(1 << order)
}
