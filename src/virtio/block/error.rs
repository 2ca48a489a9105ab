//! The reasons for which a request fails, and the status that the guest gets.

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP};

use crate::btt;
use crate::pmem::MediaError;
use crate::virtio::SyncError;
use crate::virtio::memory::BadAddress;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no chain yet, or it was not parsed.
    #[error("the request was not parsed")]
    NotParsed,
    /// Fewer than the 16 bytes of the header can be read.
    #[error("the request has no header: {0} bytes to read")]
    NoHeader(u64),
    /// A descriptor for the device to read comes after one for it to write.
    #[error("a descriptor to read comes after one to write")]
    OutOfOrder,
    /// The chain does not end: it loops, or leads out of its table.
    #[error("the descriptor chain does not end")]
    Endless,
    /// An address that is not guest memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The data are not whole sectors of 512 bytes.
    #[error("{length} bytes of data are not whole sectors of 512 bytes")]
    Misaligned {
        /// Bytes of data.
        length: u64,
    },
    /// Part of a logical block that is several sectors.
    #[error("{length} bytes at sector {sector} are not whole blocks of {block} bytes")]
    PartOfBlock {
        /// First sector, of 512 bytes.
        sector: u64,
        /// Bytes of data.
        length: u64,
        /// Bytes of a logical block.
        block: u32,
    },
    /// Sectors beyond the end.
    #[error("{length} bytes at sector {sector} are beyond the end, byte {size}")]
    OutOfRange {
        /// First sector, of 512 bytes.
        sector: u64,
        /// Bytes from there.
        length: u64,
        /// Bytes of the device.
        size: u64,
    },
    /// A change to a device that takes none.
    #[error("the device is read-only")]
    ReadOnly,
    /// A kind of request that the device does not offer.
    #[error("request type {0} is not supported")]
    Unsupported(u32),
    /// Bits in a segment's flags that the device does not know.
    #[error("segment flags {0:#x} are not supported")]
    UnsupportedFlags(u32),
    /// The segments of a request are not whole, too many, or one is too long.
    #[error("{bytes} bytes of segments, of 16 bytes and at most {most}; longest {longest} sectors")]
    Segments {
        /// Bytes of data.
        bytes: u64,
        /// Most segments of a request.
        most: u32,
        /// Sectors of the longest segment.
        longest: u32,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] btt::Error),
    /// What was written is not durable.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// A transfer is longer than any driver's.
    #[error("a transfer of {length} bytes is longer than {most}")]
    TooLong {
        /// Bytes of data.
        length: u64,
        /// The most there can be.
        most: u64,
    },
    /// Something else comes first: the request is carried out again from its beginning. No guest hears it.
    #[error("interrupted")]
    Interrupted,
}

impl From<MediaError> for RequestError {
    fn from(error: MediaError) -> RequestError {
        RequestError::Sync(error.into())
    }
}

impl RequestError {
    /// The status byte that the guest reads.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            RequestError::Unsupported(_) | RequestError::UnsupportedFlags(_) => {
                VIRTIO_BLK_S_UNSUPP as u8
            }
            _ => VIRTIO_BLK_S_IOERR as u8,
        }
    }

    /// Returns whether the guest is to blame, rather than the medium.
    #[must_use]
    pub fn is_the_guests(&self) -> bool {
        !matches!(self, RequestError::Engine(_) | RequestError::Sync(_))
    }
}
