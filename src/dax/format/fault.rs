//! Why bytes are not the metadata that belongs at their place.

use uuid::Uuid;

use super::page_kind::PageKind;
use crate::pmem::MediaError;

/// Why bytes are not the metadata that belongs at their place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The superblock's magic is not there.
    #[error("no superblock")]
    NoSuperblock,
    /// The magic of the page is not there.
    #[error("no {}", .0.name())]
    Magic(PageKind),
    /// The checksum does not match.
    #[error("checksum {found:#018x} where the contents sum to {expected:#018x}")]
    Checksum {
        /// What it says.
        found: u64,
        /// What it sums to.
        expected: u64,
    },
    /// A version of the format that is not known.
    #[error("version {0} of the format, which this program does not know: it knows 1 and 2")]
    Version(u32),
    /// Features that forbid a program which does not know them to use the region.
    #[error(
        "incompatible features {0:#x} of the format, which this program does not know: use a newer release"
    )]
    Features(u64),
    /// A superblock that does not describe this namespace.
    #[error(
        "superblock: {field} is {value:#x}, which this namespace of {size:#x} bytes cannot have"
    )]
    Superblock {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// Bytes of the namespace.
        size: u64,
    },
    /// The page has another owner.
    #[error("it belongs to {found}, not to {expected}")]
    Owner {
        /// What the page says.
        found: Uuid,
        /// Whose chain it is in.
        expected: Uuid,
    },
    /// A link that leads to no metadata page, or to one that something else leads to as well.
    #[error("its link {0:#x} leads to no metadata page, or to one that is in use")]
    Link(u64),
    /// A record of another namespace.
    #[error("a record of namespace {found} in namespace {expected}")]
    Namespace {
        /// What the record says.
        found: u8,
        /// The namespace that it is in.
        expected: u8,
    },
    /// An order beyond 20.
    #[error("order {0} is not in 0..=20")]
    Order(u32),
    /// An extent outside the allocatable pages, empty, or misaligned.
    #[error(
        "extent of {pages} pages at page {first} is empty, not aligned to 2^{align_order} pages, \
         or outside pages 4096..{end}"
    )]
    Extent {
        /// First page.
        first: u64,
        /// Number of pages.
        pages: u64,
        /// Alignment, as a power of two of pages.
        align_order: u32,
        /// Number of the page behind the last one.
        end: u64,
    },
    /// Two things have the same page.
    #[error("page {page} belongs to two of them")]
    Overlap {
        /// The page.
        page: u64,
    },
    /// Two owners, or two devices, with the same uuid.
    #[error("uuid {0} is there twice")]
    UuidTwice(Uuid),
    /// Two devices of the same name.
    #[error("the name {0:?} is there twice")]
    NameTwice(String),
    /// A name or label that is no text.
    #[error("a name or label is not UTF-8, or has control characters, or there is no name")]
    Text,
    /// Other metadata say that something else has to be there.
    #[error("it does not match the superblock")]
    Known,
    /// A head or a slot that has no uuid, and should be zero.
    #[error("it has no uuid, and is not empty")]
    NotEmpty,
    /// An alignment that devices do not have.
    #[error("alignment of 2^{0} pages is not 4 KiB, 2 MiB or 1 GiB")]
    Align(u8),
    /// More extents than fit into the metadata, or several in a contiguous device.
    #[error("{0} extents are more than the device can have")]
    ExtentCount(u32),
    /// The pages of the journal are not those of owner 0.
    #[error("the journal's pages are not recorded as owner 0's")]
    Journal,
    /// The journal's newest entry has a number that no region ever gets to.
    #[error("journal entry {0} leaves too few numbers for entries to come")]
    Sequence(u64),
    /// It could not be read.
    #[error(transparent)]
    Media(#[from] MediaError),
}
