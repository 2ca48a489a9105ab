//! Parses flush requests, and stores their results in guest memory.

use crate::virtio::memory::{BadAddress, GuestRam, Span, Spans};
use crate::virtio::{DescriptorChain, SyncError};

/// `VIRTIO_PMEM_REQ_TYPE_FLUSH`: make durable what was stored.
const FLUSH: u32 = 0;

/// What a guest reads in `struct virtio_pmem_resp` when all went well.
const SUCCESS: u32 = 0;
/// What it reads otherwise, as from QEMU's own device; Linux takes anything but zero for an error.
const FAILURE: u32 = 1;

/// Bytes of a request, and of an answer.
const REQUEST_SIZE: u64 = 4;
const ANSWER_SIZE: u64 = 4;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There are fewer than four bytes to read.
    #[error("the request is of {0} bytes")]
    NoRequest(u64),
    /// The chain does not end, or a descriptor to read comes after one to write.
    #[error("the descriptor chain is malformed")]
    Malformed,
    /// An address that is not guest memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// Something that the device does not know.
    #[error("request type {0} is not supported")]
    Unsupported(u32),
    /// What the guest has stored is not durable.
    #[error(transparent)]
    Unsynced(#[from] SyncError),
}

impl RequestError {
    /// Returns whether the guest is to blame, rather than the medium or the frontend.
    #[must_use]
    pub fn is_the_guests(&self) -> bool {
        !matches!(self, RequestError::Unsynced(_))
    }
}

/// A request that was taken off the ring.
#[derive(Debug)]
pub struct Request {
    head: u16,
    /// Where the answer goes.
    answer: Vec<Span>,
    /// What is wrong with it, if anything is.
    fault: Option<RequestError>,
}

impl Request {
    /// The request in `chain`, of guest memory `memory`.
    #[must_use]
    pub fn new(chain: DescriptorChain<'_>, memory: &GuestRam) -> Request {
        let head = chain.head();
        let (mut readable, mut answer) = (Vec::new(), Vec::new());
        let (mut ends, mut is_in_order) = (false, true);
        for descriptor in chain {
            let span = Span { address: descriptor.addr(), length: descriptor.len() };
            ends = !descriptor.has_next();
            if descriptor.is_write_only() {
                answer.push(span);
            } else {
                is_in_order &= answer.is_empty();
                readable.push(span);
            }
        }
        let kind = if ends && is_in_order {
            kind(Spans::new(&readable), memory)
        } else {
            Err(RequestError::Malformed)
        };
        let fault = match kind {
            Ok(FLUSH) => None,
            Ok(other) => Some(RequestError::Unsupported(other)),
            Err(error) => Some(error),
        };
        Request { head, answer, fault }
    }

    /// Returns whether something has to be made durable for it.
    #[must_use]
    pub fn is_flush(&self) -> bool {
        self.fault.is_none()
    }

    /// Index of its first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Answers it, now that `synced` has come of what it asks for. Returns how many bytes of guest
    /// memory were filled, and what is to be said of it.
    #[must_use]
    pub fn answer(
        self,
        memory: &GuestRam,
        synced: Result<(), SyncError>,
    ) -> (u32, Option<RequestError>) {
        let error = self.fault.or_else(|| synced.err().map(RequestError::Unsynced));
        let value = if error.is_none() { SUCCESS } else { FAILURE };
        let mut answer = Spans::new(&self.answer);
        if answer.len() < ANSWER_SIZE {
            return (0, error.or(Some(RequestError::Malformed)));
        }
        match answer.scatter(memory, &value.to_le_bytes()) {
            Ok(()) => (ANSWER_SIZE as u32, error),
            Err(bad_address) => (0, error.or(Some(bad_address.into()))),
        }
    }
}

/// What is asked for.
fn kind(mut readable: Spans<'_>, memory: &GuestRam) -> Result<u32, RequestError> {
    if readable.len() < REQUEST_SIZE {
        return Err(RequestError::NoRequest(readable.len()));
    }
    Ok(u32::from_le(readable.object(memory)?))
}
