//! Checks that the contents of a page make sense by themselves, without a look at other pages.

use zerocopy::{FromBytes, IntoBytes};

use super::walk::{is_text, misplaced};
use crate::dax::format::layout::{
    CONTIGUOUS, DevicePage, DeviceSlot, ExtentPage, Head, Header, METADATA_OFFSET,
    METADATA_PAGE_SIZE, OwnerTable, PAGES_OFFSET, PageBytes, RecordPage,
};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::Align;

/// Returns whether a page of this kind can have these contents, whatever its header and checksum.
pub(super) fn makes_sense(page: &PageBytes, kind: PageKind, superblock: &Superblock) -> bool {
    let body = match kind {
        PageKind::Owners => {
            OwnerTable::ref_from_bytes(page).is_ok_and(|page| page.heads.iter().all(is_head))
        }
        PageKind::Records => RecordPage::ref_from_bytes(page)
            .is_ok_and(|page| page.records.iter().all(|one| is_record(one.get(), superblock))),
        PageKind::Devices => DevicePage::ref_from_bytes(page).is_ok_and(|page| {
            page.reserved == [0; 64] && page.devices.iter().all(|slot| is_slot(slot, superblock))
        }),
        PageKind::Extents => ExtentPage::ref_from_bytes(page).is_ok_and(|page| {
            let mut extents = page.extents.iter().map(|one| (one.first.get(), one.pages.get()));
            extents.all(|extent| extent == (0, 0) || is_extent(extent, 0, superblock))
        }),
    };
    let header = Header::ref_from_prefix(page);
    body && header.is_ok_and(|(header, _)| header.reserved == [0; 16] && is_link(header.link.get()))
}

/// Returns whether a link can be this: none, or to a metadata page.
pub(super) fn is_link(link: u64) -> bool {
    let is_page =
        (METADATA_OFFSET..PAGES_OFFSET).contains(&link) && link.is_multiple_of(METADATA_PAGE_SIZE);
    link == 0 || is_page
}

fn is_head(head: &Head) -> bool {
    if head.uuid == [0; 16] {
        return head.as_bytes().iter().all(|byte| *byte == 0);
    }
    is_text(&head.label)
        && head.records.get() != 0
        && is_link(head.records.get())
        && head.reserved.get() == 0
}

fn is_record(record: u64, superblock: &Superblock) -> bool {
    let order = (record >> 52 & 0x3f) as u32;
    let extent = (record & 0xf_ffff_ffff_ffff, 1u64 << order.min(63));
    let is_ours = record >> 58 == u64::from(superblock.namespace) && order <= 20;
    record == 0 || is_ours && is_extent(extent, order, superblock)
}

fn is_slot(slot: &DeviceSlot, superblock: &Superblock) -> bool {
    if slot.uuid == [0; 16] {
        return slot.as_bytes().iter().all(|byte| *byte == 0);
    }
    let order = u32::from(slot.align_order);
    if !Align::ALL.iter().any(|align| align.order() == order) {
        return false;
    }
    let count = slot.extents.get() as usize;
    let has_inline = slot.inline.iter().enumerate().all(|(index, extent)| {
        let extent = (extent.first.get(), extent.pages.get());
        if index < count { is_extent(extent, order, superblock) } else { extent == (0, 0) }
    });
    slot.name[0] != 0
        && is_text(&slot.name)
        && is_text(&slot.label)
        && slot.flags & !CONTIGUOUS == 0
        && (slot.flags == 0 || count <= 1)
        && slot.reserved == [0; 2]
        && is_link(slot.more.get())
        && (slot.more.get() == 0) == (count <= slot.inline.len())
        && has_inline
}

fn is_extent((first, pages): (u64, u64), order: u32, superblock: &Superblock) -> bool {
    misplaced(superblock, first, pages, order).is_none()
}
