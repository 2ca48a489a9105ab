//! The log of what was written to a disk, in the format of dm-log-writes.
//!
//! All numbers are little-endian, and all sectors are those of the log, whose size is in its first sector. That
//! sector is the superblock. Then comes one sector with a header per entry, followed by the entry's data. A mark
//! has its text in the sector of its header, behind the four fields; it has no sectors.
//!
//! Within what the format calls the padding of a header, at byte 64, entries of ours have a note of when and by
//! which queue they were submitted. Readers of the format skip it.

mod reader;
mod writer;

pub use reader::{Entry, Log, LogError};
pub use writer::{Change, Content, LogWriter};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of a log.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The one version that there is.
const VERSION: u64 = 1;
/// First word of a note.
const NOTE_MAGIC: u64 = u64::from_le_bytes(*b"powercut");
/// Where a mark's text begins in its sector.
const TEXT: usize = size_of::<Header>();
/// Where a note begins in its sector.
const NOTE: usize = 64;

/// What an entry is, in bits.
pub mod flag {
    /// All writes before this entry are durable before it.
    pub const FLUSH: u64 = 1;
    /// The entry itself is durable when it completes.
    pub const FUA: u64 = 2;
    /// The sectors read as zeroes from here on; there are no data.
    pub const DISCARD: u64 = 4;
    /// A text, at this place in the order.
    pub const MARK: u64 = 8;
    /// Metadata of a file system, as the kernel knows them.
    pub const METADATA: u64 = 16;
}

/// The first sector.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Superblock {
    magic: U64,
    version: U64,
    entries: U64,
    sector_size: U32,
}

/// How an entry begins.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    sector: U64,
    sectors: U64,
    flags: U64,
    /// Bytes of a mark's text.
    length: U64,
}

/// When an entry was submitted, and by which queue.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawNote {
    magic: U64,
    submitted: U64,
    microseconds: U64,
    queue: U32,
    in_flight: U32,
}

/// When an entry was submitted, and by which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Note {
    /// Number of the request, in the order of submission.
    pub submitted: u64,
    /// Microseconds since the recording began.
    pub microseconds: u64,
    /// Number of the queue.
    pub queue: u32,
    /// It had not completed when the recording ended.
    pub in_flight: bool,
}

impl From<Note> for RawNote {
    fn from(note: Note) -> RawNote {
        RawNote {
            magic: U64::new(NOTE_MAGIC),
            submitted: U64::new(note.submitted),
            microseconds: U64::new(note.microseconds),
            queue: U32::new(note.queue),
            in_flight: U32::new(note.in_flight.into()),
        }
    }
}

impl Note {
    fn read(raw: &RawNote) -> Option<Note> {
        (raw.magic.get() == NOTE_MAGIC).then(|| Note {
            submitted: raw.submitted.get(),
            microseconds: raw.microseconds.get(),
            queue: raw.queue.get(),
            in_flight: raw.in_flight.get() != 0,
        })
    }
}

/// Most bytes of a mark's text in a log of sectors of `sector_size` bytes: a zero byte follows it.
#[must_use]
pub fn longest_mark(sector_size: u32) -> usize {
    sector_size as usize - TEXT - 1
}
