//! What can go wrong with a region.

use uuid::Uuid;

use super::fault::Fault;
use crate::amount::amount;
use crate::pmem::{Durability, MediaError};

/// What there was no space for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Another owner: the owner table has 126 heads for them.
    Owners,
    /// Another metadata page: there are 2046.
    Metadata,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Space::Owners => "another owner: free all pages of one of the 126",
            Space::Metadata => "another metadata page: free pages, or destroy devices",
        })
    }
}

/// Why a region could not be created, opened or changed. Unless it says otherwise, nothing has
/// changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The medium failed. If that was in the middle of a change, [`Error::Failed`] follows.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// No superblock.
    #[error("no DAX region here: no superblock at byte 4096, and no backup at byte 0")]
    NotFound,
    /// Neither superblock can be used.
    #[error("the superblocks are unusable; at byte 4096: {primary}; at byte 0: {backup}")]
    Superblocks {
        /// What is wrong with the one at byte 4096.
        primary: Fault,
        /// What is wrong with the one at byte 0.
        backup: Fault,
    },
    /// Metadata are damaged.
    #[error("metadata at byte {offset:#x}: {fault}; see 'nvdimmctl dax check'")]
    Damaged {
        /// Byte offset of the page, or of the record.
        offset: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// Too small for a region.
    #[error("{size} bytes are too small for a DAX region, which takes at least {needed}")]
    TooSmall {
        /// Bytes of the namespace.
        size: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A journal that cannot be.
    #[error("a journal of 2^{0} pages: 2^1 to 2^20 are possible")]
    BadJournal(u32),
    /// A change was cut short by the medium.
    #[error("an earlier change was cut short by a failure of the medium: open the region again")]
    Failed,
    /// Another process changed the region whenever it was read.
    #[error("the region is being changed all the while by its holder: try again")]
    Unsteady,
    /// The fences of the medium make nothing durable.
    #[error(
        "a region cannot be changed with {0} durability, which orders its metadata only until the host \
         crashes: map it with strict or dax durability"
    )]
    NotDurable(Durability),
    /// Features that forbid a program which does not know them to change the region.
    #[error(
        "the region has features {0:#x}, which this program does not know: it can be read and not changed; \
         use a newer release"
    )]
    ReadOnlyFeatures(u64),
    /// The region was opened for reading.
    #[error("the region is open for reading only")]
    ReadOnly,
    /// A transaction that no bucket of the journal holds.
    #[error("{stores} stores in a transaction, and a journal entry holds {most}")]
    TooManyStores {
        /// Stores of the transaction.
        stores: usize,
        /// Most that an entry holds.
        most: usize,
    },

    /// Not enough free pages.
    #[error(
        "no space for {}: {} are free at this alignment, and the largest free extent has {}; \
         'nvdimmctl dax list' shows who has the rest",
        amount(*.needed), amount(*.available), amount(*.largest)
    )]
    NoSpace {
        /// Bytes needed, beyond what is there already.
        needed: u64,
        /// Bytes in free, aligned extents.
        available: u64,
        /// Bytes of the largest of them.
        largest: u64,
    },
    /// Not enough metadata.
    #[error("no space for {0}")]
    NoRoomFor(Space),
    /// A size that is no multiple of the alignment.
    #[error(
        "misaligned: {} is no multiple of the device's alignment of {}; the sizes next to it are {} \
         and {}",
        amount(*.size), amount(*.align), amount(.size - .size % .align),
        amount((.size - .size % .align).saturating_add(*.align))
    )]
    Misaligned {
        /// Bytes asked for.
        size: u64,
        /// Alignment in bytes.
        align: u64,
    },
    /// An alignment that a device's extents do not have.
    #[error(
        "device {name:?} cannot have an alignment of {}: its extent at bytes {:#x}..{:#x} of the namespace \
         does not begin and end at multiples of it; a device of size 0 can have any",
        amount(*.align), .extent.start, .extent.end
    )]
    CannotAlign {
        /// Name of the device.
        name: String,
        /// Alignment in bytes.
        align: u64,
        /// Bytes of the extent, in the namespace.
        extent: std::ops::Range<u64>,
    },
    /// In use by a guest.
    #[error("busy: device {name:?} is held; --force takes it away from its holder")]
    Busy {
        /// Name of the device.
        name: String,
    },
    /// No such device.
    #[error("unknown device {0:?}: 'nvdimmctl dax list' lists them")]
    UnknownDevice(String),
    /// A device of that name is there.
    #[error("device {0:?} exists already")]
    DeviceExists(String),
    /// The uuid is in use.
    #[error("uuid {0} is in use, by another device or owner or the region itself, or is nil")]
    UuidInUse(Uuid),
    /// A name that cannot be.
    #[error("{0:?} is no name: 1 to 32 bytes of UTF-8 without control characters or '/'")]
    BadName(String),
    /// A label that cannot be.
    #[error("{0:?} is no label: up to 32 bytes of UTF-8 without control characters")]
    BadLabel(String),

    /// An order that cannot be.
    #[error("order {0}: 0 to 20 are possible, 4 KiB to 4 GiB")]
    BadOrder(u32),
    /// No such owner.
    #[error("unknown owner {0}")]
    UnknownOwner(Uuid),
    /// The pages have another owner.
    #[error("busy: the page at byte {offset:#x} belongs to {owner}")]
    NotYours {
        /// Byte offset in the namespace.
        offset: u64,
        /// The owner that has it.
        owner: Uuid,
    },
    /// The pages are free already.
    #[error("the page at byte {offset:#x} is free already")]
    AlreadyFree {
        /// Byte offset in the namespace.
        offset: u64,
    },
    /// No block begins there.
    #[error("no block begins at byte {offset:#x}")]
    NoBlock {
        /// Byte offset in the namespace.
        offset: u64,
    },
    /// The block has another order.
    #[error("mismatch: the block at byte {offset:#x} has order {order}, not {asked}")]
    WrongOrder {
        /// Byte offset in the namespace.
        offset: u64,
        /// The order that it has.
        order: u32,
        /// The order asked for.
        asked: u32,
    },
    /// An offset behind the end of a device.
    #[error("offset {offset:#x} is beyond the end of device {name:?}, which has {size} bytes")]
    BehindEnd {
        /// Name of the device.
        name: String,
        /// Byte offset in the device.
        offset: u64,
        /// Bytes of the device.
        size: u64,
    },
}
