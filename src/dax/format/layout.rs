//! What a region looks like on the medium.
//!
//! ```text
//!         0 ┌───────────────────────────────┐
//!           │ superblock, backup       4 KiB│  written first, and read where the other is damaged
//!     4 KiB ├───────────────────────────────┤
//!           │ superblock               4 KiB│
//!     8 KiB ├───────────────────────────────┤
//!           │ owner table              8 KiB│  127 heads; its link leads to the device pages
//!    16 KiB ├───────────────────────────────┤
//!           │ 2046 metadata pages, 8 KiB    │  record, device and extent pages, chained by links;
//!           │ each                          │  what no chain reaches is free
//!    16 MiB ├───────────────────────────────┤
//!           │ allocatable pages, 4 KiB each │  the journal is among them, and owner 0 has it
//!       end └───────────────────────────────┘
//! ```
//!
//! Every number is little-endian and of fixed width; every link is a byte offset from the start of
//! the namespace, and 0 is none. The four kinds of metadata page begin with the same [`Header`].

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::fault::Fault;
use super::page_kind::PageKind;
use super::units::{Bounds, Extent, PAGE_SIZE};
use crate::pmem::fletcher64_without_field;

/// Bytes of a metadata page, the owner table among them.
pub(crate) const METADATA_PAGE_SIZE: u64 = 8192;
/// Byte offset of the owner table.
pub(crate) const OWNER_TABLE_OFFSET: u64 = 8192;
/// Byte offset of the first metadata page behind the owner table.
pub(crate) const METADATA_OFFSET: u64 = 16 << 10;
/// Byte offset of the first allocatable page.
pub const PAGES_OFFSET: u64 = 16 << 20;
/// Metadata pages behind the owner table.
pub(crate) const METADATA_PAGES: u64 = (PAGES_OFFSET - METADATA_OFFSET) / METADATA_PAGE_SIZE;
/// The highest number of a journal entry behind which there may be others: as good as endless.
pub(crate) const MOST_SEQ: u64 = u64::MAX / 2;
/// Heads in the owner table, that of owner 0 among them.
pub const OWNERS: usize = 127;
/// Records in a record page.
pub(crate) const RECORDS: usize = 1016;
/// Devices in a device page.
pub(crate) const DEVICES: usize = 63;
/// Extents of a device that its slot holds itself.
pub(crate) const INLINE_EXTENTS: usize = 2;
/// Extents in an extent page.
pub(crate) const EXTENTS: usize = 508;
/// Bytes of a name or a label.
pub(crate) const TEXT_SIZE: usize = 32;

/// The bytes of a metadata page.
pub(crate) type PageBytes = [u8; METADATA_PAGE_SIZE as usize];

/// What every metadata page begins with.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    /// Fletcher-64 of the whole page, this field taken as zero.
    pub checksum: U64,
    /// [`PageKind::magic`].
    pub magic: [u8; 16],
    /// Whose page it is: the uuid of the owner (record page), of the device (extent page), or of the
    /// region.
    pub owner: [u8; 16],
    /// The next page of the chain; of the owner table: the first device page.
    pub link: U64,
    /// Zero.
    pub reserved: [u8; 16],
}

/// A head of the owner table.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Head {
    /// Of the owner; nil: the head is free.
    pub uuid: [u8; 16],
    /// What the owner calls itself, padded with zeroes.
    pub label: [u8; TEXT_SIZE],
    /// The first record page.
    pub records: U64,
    /// Zero.
    pub reserved: U64,
}

/// The owner table.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OwnerTable {
    /// Its link leads to the first device page.
    pub header: Header,
    /// Head 0 is the allocator's own.
    pub heads: [Head; OWNERS],
}

/// A record page.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RecordPage {
    /// Its owner is the owner of the pages.
    pub header: Header,
    /// 0: a free slot.
    pub records: [U64; RECORDS],
}

/// An extent: a run of pages.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtentOnMedia {
    /// Number of the first page, counted from the start of the namespace.
    pub first: U64,
    /// Number of pages.
    pub pages: U64,
}

/// A device.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    /// Nil: the slot is free.
    pub uuid: [u8; 16],
    /// UTF-8, padded with zeroes.
    pub name: [u8; TEXT_SIZE],
    /// UTF-8, padded with zeroes.
    pub label: [u8; TEXT_SIZE],
    /// Number of extents.
    pub extents: U32,
    /// Order of the alignment, in pages.
    pub align_order: u8,
    /// [`CONTIGUOUS`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// The first extent page.
    pub more: U64,
    /// The first extents, in the order of device offsets.
    pub inline: [ExtentOnMedia; INLINE_EXTENTS],
}

/// Flag of a device: it is one extent.
pub(crate) const CONTIGUOUS: u8 = 1;

/// A device page.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DevicePage {
    /// Its owner is the region.
    pub header: Header,
    /// The devices.
    pub devices: [DeviceSlot; DEVICES],
    /// Zero.
    pub reserved: [u8; 64],
}

/// An extent page.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ExtentPage {
    /// Its owner is the device.
    pub header: Header,
    /// The extents behind those in the slot, or in the page before; those that the device's number
    /// of extents does not count mean nothing.
    pub extents: [ExtentOnMedia; EXTENTS],
}

/// Byte offset of the link in a metadata page.
pub(crate) const LINK_AT: u64 = 40;
/// Byte offset of the heads, records, devices or extents in their page.
pub(crate) const BODY_AT: u64 = 64;
/// Bytes of a head.
pub(crate) const HEAD_SIZE: u64 = 64;
/// Byte offset of the first record page in a head.
pub(crate) const HEAD_RECORDS_AT: u64 = 48;
/// Bytes of a device slot.
pub(crate) const SLOT_SIZE: u64 = 128;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Header>() == BODY_AT as usize);
    assert!(offset_of!(Header, checksum) == 0);
    assert!(offset_of!(Header, link) == LINK_AT as usize);
    assert!(size_of::<Head>() == HEAD_SIZE as usize);
    assert!(offset_of!(Head, records) == HEAD_RECORDS_AT as usize);
    assert!(size_of::<DeviceSlot>() == SLOT_SIZE as usize);
    assert!(offset_of!(DeviceSlot, extents) == 80);
    assert!(offset_of!(DeviceSlot, more) == 88);
    assert!(offset_of!(DeviceSlot, inline) == 96);
    assert!(size_of::<OwnerTable>() == METADATA_PAGE_SIZE as usize);
    assert!(size_of::<RecordPage>() == METADATA_PAGE_SIZE as usize);
    assert!(size_of::<DevicePage>() == METADATA_PAGE_SIZE as usize);
    assert!(size_of::<ExtentPage>() == METADATA_PAGE_SIZE as usize);
    assert!(offset_of!(RecordPage, records) == BODY_AT as usize);
    assert!(offset_of!(DevicePage, devices) == BODY_AT as usize);
    assert!(offset_of!(ExtentPage, extents) == BODY_AT as usize);
    assert!(METADATA_PAGES == 2046);
};

/// Most extents of a device: what all metadata pages could hold.
pub(crate) const MOST_EXTENTS: usize = METADATA_PAGES as usize * EXTENTS;

/// Byte offset of slot `index` of a device page at `page`.
#[must_use]
pub(crate) fn slot_offset(page: u64, index: usize) -> u64 {
    page + BODY_AT + index as u64 * SLOT_SIZE
}

/// Byte offset of head `index` of the owner table.
#[must_use]
pub(crate) fn head_offset(index: usize) -> u64 {
    OWNER_TABLE_OFFSET + BODY_AT + index as u64 * HEAD_SIZE
}

/// Offset of the metadata page that `offset` is in.
#[must_use]
pub(crate) fn page_of(offset: u64) -> u64 {
    offset - offset % METADATA_PAGE_SIZE
}

/// An empty metadata page, its checksum not yet there.
#[must_use]
pub(crate) fn new_page(kind: PageKind, owner: Uuid, link: u64) -> Box<PageBytes> {
    let mut bytes = Box::new([0; METADATA_PAGE_SIZE as usize]);
    let header = Header {
        checksum: U64::ZERO,
        magic: kind.magic(),
        owner: owner.into_bytes(),
        link: U64::new(link),
        reserved: [0; 16],
    };
    bytes[..BODY_AT as usize].copy_from_slice(header.as_bytes());
    bytes
}

/// What a page sums to.
#[must_use]
pub(crate) fn checksum(bytes: &PageBytes) -> u64 {
    fletcher64_without_field(bytes, 0)
}

/// Verifies a metadata page before any of its fields is used; returns its link.
pub(crate) fn verify(bytes: &PageBytes, kind: PageKind, owner: Uuid) -> Result<u64, Fault> {
    let (header, _) = Header::ref_from_prefix(&bytes[..]).map_err(|_| Fault::Magic(kind))?;
    // The magic comes first: a page of zeroes has the right checksum, zero.
    if header.magic != kind.magic() {
        return Err(Fault::Magic(kind));
    }
    let (found, expected) = (header.checksum.get(), checksum(bytes));
    if found != expected {
        return Err(Fault::Checksum { found, expected });
    }
    let found = Uuid::from_bytes(header.owner);
    if found != owner {
        return Err(Fault::Owner { found, expected: owner });
    }
    Ok(header.link.get())
}

/// The record of a block: {page number: 52 bits, order: 6, namespace: 3, reserved: 3}.
#[must_use]
pub(crate) fn encode_record(first: u64, order: u32, namespace: u8) -> u64 {
    first | u64::from(order) << 52 | u64::from(namespace) << 58
}

/// First page and order of the block that a record, not 0, tells of.
pub(crate) fn decode_record(
    record: u64,
    namespace: u8,
    bounds: Bounds,
) -> Result<(u64, u32), Fault> {
    let first = record & ((1 << 52) - 1);
    let order = (record >> 52 & 0x3f) as u32;
    let of = (record >> 58) as u8;
    if of != namespace {
        return Err(Fault::Namespace { found: of, expected: namespace });
    }
    if order > super::units::MOST_ORDER {
        return Err(Fault::Order(order));
    }
    let extent = Extent { first, pages: 1 << order };
    check_extent(extent, order, bounds)?;
    Ok((first, order))
}

/// Refuses an extent that does not lie among the allocatable pages, or that does not begin and end at
/// multiples of 2^`align_order` pages.
pub(crate) fn check_extent(extent: Extent, align_order: u32, bounds: Bounds) -> Result<(), Fault> {
    let Extent { first, pages } = extent;
    let Bounds { end, base } = bounds;
    let unit = 1u64 << align_order;
    let inside = first >= PAGES_OFFSET / PAGE_SIZE
        && first.checked_add(pages).is_some_and(|behind| behind <= end);
    // With the base, a page inside has a number far below 2⁶⁴.
    let begins_at_unit = inside && (first + base).is_multiple_of(unit);
    let has_units = pages.is_multiple_of(unit) || mutant!(dax::RemainderIgnored);
    if !inside || pages == 0 || !(begins_at_unit || mutant!(dax::StartIgnored)) || !has_units {
        return Err(Fault::Extent { first, pages, align_order, end });
    }
    Ok(())
}

/// Name or label as on the medium; it has been checked to fit.
#[must_use]
pub(crate) fn encode_text(text: &str) -> [u8; TEXT_SIZE] {
    let mut bytes = [0; TEXT_SIZE];
    let length = text.len().min(TEXT_SIZE);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

/// The text of a name or label.
pub(crate) fn decode_text(bytes: &[u8; TEXT_SIZE]) -> Result<String, Fault> {
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| Fault::Text)?;
    if text.chars().any(char::is_control) {
        return Err(Fault::Text);
    }
    Ok(text.to_owned())
}

impl From<Extent> for ExtentOnMedia {
    fn from(extent: Extent) -> ExtentOnMedia {
        ExtentOnMedia { first: U64::new(extent.first), pages: U64::new(extent.pages) }
    }
}

impl From<ExtentOnMedia> for Extent {
    fn from(extent: ExtentOnMedia) -> Extent {
        Extent { first: extent.first.get(), pages: extent.pages.get() }
    }
}
