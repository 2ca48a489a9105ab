//! What the superblock alone tells of other metadata.
//!
//! Owner 0, the allocator itself, has the journal and nothing else, for good: its record page is the first
//! metadata page, with one record. So of that page and of its head every word is known, and so are the
//! magic and the owner of the owner table.

use uuid::Uuid;

use crate::dax::format::layout::{
    HEAD_SIZE, METADATA_OFFSET, METADATA_PAGE_SIZE, OWNER_TABLE_OFFSET,
};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::superblock::Superblock;

/// Owner 0's label.
const LABEL: &[u8; 32] = b"nvm pages\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The pages of which words are known, with these words and their byte offsets; the checksums are not
/// among them.
pub(super) fn pages(superblock: &Superblock) -> [(u64, Vec<(u64, u64)>); 2] {
    let mut table = header(OWNER_TABLE_OFFSET, PageKind::Owners, superblock.set_uuid);
    let head = [
        &superblock.set_uuid.as_bytes()[..],
        LABEL,
        &METADATA_OFFSET.to_le_bytes(),
        &0u64.to_le_bytes(),
    ];
    let head = head.concat();
    debug_assert_eq!(head.len() as u64, HEAD_SIZE);
    table.extend(words(OWNER_TABLE_OFFSET + 64, &head));

    let mut records = header(METADATA_OFFSET, PageKind::Records, superblock.set_uuid);
    let record = superblock.journal_first
        | u64::from(superblock.journal_order) << 52
        | u64::from(superblock.namespace) << 58;
    records.push((METADATA_OFFSET + 40, 0));
    records.push((METADATA_OFFSET + 64, record));
    let free = (METADATA_OFFSET + 72..METADATA_OFFSET + METADATA_PAGE_SIZE).step_by(8);
    records.extend(free.map(|offset| (offset, 0)));
    [(OWNER_TABLE_OFFSET, table), (METADATA_OFFSET, records)]
}

/// All words of the page at byte offset `at` that are known if it is of this kind and owner, by their
/// places in the page: those of its header, and those that the superblock tells.
pub(super) fn of_page(
    superblock: &Superblock,
    at: u64,
    (kind, owner): (PageKind, Uuid),
) -> Vec<(u64, u64)> {
    let told = pages(superblock).into_iter().filter(|(page, _)| *page == at);
    let told = told.flat_map(|(_, words)| words).map(|(offset, value)| (offset - at, value));
    header(0, kind, owner).into_iter().chain(told).collect()
}

/// Magic, owner and the reserved words of a page, in this order, with their byte offsets.
pub(super) fn header(page: u64, kind: PageKind, owner: Uuid) -> Vec<(u64, u64)> {
    let mut header = words(page + 8, &kind.magic());
    header.extend(words(page + 24, owner.as_bytes()));
    header.extend(words(page + 48, &[0; 16]));
    header
}

/// Bytes as words, with their byte offsets.
pub(super) fn words(offset: u64, bytes: &[u8]) -> Vec<(u64, u64)> {
    let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    (offset..).step_by(8).zip(words).collect()
}
