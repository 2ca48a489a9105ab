//! Creating a region.

use uuid::Uuid;

use crate::dax::format::error::Error;
use crate::dax::format::features::Features;
use crate::dax::format::layout::{
    self, BODY_AT, HEAD_RECORDS_AT, METADATA_OFFSET, OWNER_TABLE_OFFSET, PAGES_OFFSET, PageBytes,
};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::superblock::{
    BACKUP_OFFSET, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock,
};
use crate::dax::format::units::{Align, MOST_ORDER, PAGE_SIZE};
use crate::dax::format::version::Version;
use crate::dax::journal::durable;
use crate::pmem::{MediaError, PersistentMemory};

/// What to create.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// Of the region: as a rule, that of the namespace.
    pub uuid: Uuid,
    /// Default alignment of devices.
    pub align: Align,
    /// Order of the journal's block, 1 to 20: 2 to 2²⁰ buckets of 4 KiB.
    pub journal_order: u32,
    /// Byte offset of the namespace in its file: alignment counts from the start of the file, as huge
    /// pages do.
    pub file_offset: u64,
}

impl CreateOptions {
    /// Bytes of the smallest namespace that holds such a region.
    #[must_use]
    pub fn least_size(&self) -> u64 {
        (self.journal_first() + (1 << self.journal_order)) * PAGE_SIZE
    }

    /// The first page of the journal, which comes before all others.
    fn journal_first(&self) -> u64 {
        let base = self.align_base();
        (PAGES_OFFSET / PAGE_SIZE + base).next_multiple_of(1 << self.journal_order) - base
    }

    /// See [`Superblock::align_base`]. A namespace that does not begin at a page of the file cannot be
    /// mapped, and has none.
    fn align_base(&self) -> u64 {
        if self.file_offset.is_multiple_of(PAGE_SIZE) {
            self.file_offset / PAGE_SIZE % (1 << MOST_ORDER)
        } else {
            0
        }
    }

    /// A region with devices of 2 MiB alignment, and a journal of 256 KiB, in a namespace at the start of
    /// its file.
    #[must_use]
    pub fn new(uuid: Uuid) -> CreateOptions {
        CreateOptions { uuid, align: Align::Huge, journal_order: 6, file_offset: 0 }
    }
}

/// Owner 0's label.
const OWN_LABEL: &str = "nvm pages";

/// Creates a region that fills `medium`.
///
/// The backup of the superblock commits, the superblock follows: a power failure before leaves no
/// region, one after it a whole one. An existing region is invalidated first; the caller has erased
/// whatever else there is. What the allocatable pages hold is not touched: pages are zeroed when they get an
/// owner.
///
/// # Errors
///
/// The medium is smaller than 16 MiB and the journal; or it fails.
pub fn create<M: PersistentMemory>(medium: &M, options: &CreateOptions) -> Result<(), Error> {
    if !(1..=MOST_ORDER).contains(&options.journal_order) {
        return Err(Error::BadJournal(options.journal_order));
    }
    durable::require(medium)?;
    let needed = options.least_size();
    if medium.size() < needed {
        return Err(Error::TooSmall { size: medium.size(), needed });
    }
    if options.uuid.is_nil() {
        return Err(Error::UuidInUse(options.uuid));
    }
    let align_base = options.align_base();
    let incompat = if align_base == 0 { 0 } else { Features::ALIGN_BASE };
    let superblock = Superblock {
        features: Features { incompat, ..Features::default() },
        align_base,
        version: Version::Two,
        set_uuid: options.uuid,
        namespace: 0,
        namespaces: 1,
        align: options.align,
        page_count: (medium.size() - PAGES_OFFSET) / PAGE_SIZE,
        journal_first: options.journal_first(),
        journal_order: options.journal_order,
    };
    medium.zero(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)?;
    medium.zero(BACKUP_OFFSET, SUPERBLOCK_SIZE)?;
    let journal = superblock.journal().bytes();
    medium.zero(journal.start, journal.end - journal.start)?;
    write_tables(medium, &superblock)?;
    superblock.write(medium, BACKUP_OFFSET)?;
    superblock.write(medium, SUPERBLOCK_OFFSET)?;
    Ok(())
}

/// Writes the owner table with owner 0, whose journal is all that there is; durable on return.
fn write_tables<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
) -> Result<(), MediaError> {
    let set = superblock.set_uuid;
    let mut records = layout::new_page(PageKind::Records, set, 0);
    let record = layout::encode_record(
        superblock.journal_first,
        superblock.journal_order,
        superblock.namespace,
    );
    put(&mut records, BODY_AT, &record.to_le_bytes());
    let mut owners = layout::new_page(PageKind::Owners, set, 0);
    put(&mut owners, BODY_AT, &set.into_bytes());
    put(&mut owners, BODY_AT + 16, &layout::encode_text(OWN_LABEL));
    put(&mut owners, BODY_AT + HEAD_RECORDS_AT, &METADATA_OFFSET.to_le_bytes());
    for (offset, mut page) in [(METADATA_OFFSET, records), (OWNER_TABLE_OFFSET, owners)] {
        let checksum = layout::checksum(&page);
        put(&mut page, 0, &checksum.to_le_bytes());
        medium.write_bytes(offset, &page[..])?;
    }
    medium.fence()
}

fn put(page: &mut PageBytes, offset: u64, bytes: &[u8]) {
    page[offset as usize..][..bytes.len()].copy_from_slice(bytes);
}
