//! Requests: from a descriptor chain to an answer in guest memory.

use std::fmt::Display;
use std::io::Write;

use virtio_queue::DescriptorChain;

use crate::pmem::MediaError;
use crate::virtio::GuestRam;

/// `VIRTIO_PMEM_REQ_TYPE_FLUSH`: make durable what was stored.
const FLUSH: u32 = 0;

/// What a guest reads in `struct virtio_pmem_resp` when all went well.
const SUCCESS: u32 = 0;
/// What it reads otherwise, as from QEMU's own device; Linux takes anything but zero for an error.
const FAILURE: u32 = 1;

/// Bytes of an answer.
const ANSWER_SIZE: u32 = 4;

/// Why what a guest has stored is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsynced {
    /// The medium failed to sync.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The guest has stored to where there is no medium.
    #[error("a part of the guest's memory is not mapped, and what it stores there is lost")]
    NotMapped,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no request in the chain, or it is not in guest memory.
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    /// There is no room for an answer.
    #[error("the request cannot be answered: {0}")]
    NoAnswer(String),
    /// Something that the device does not know.
    #[error("request type {0} is not supported")]
    Unsupported(u32),
    /// What the guest has stored is not durable.
    #[error(transparent)]
    Unsynced(#[from] Unsynced),
}

impl RequestError {
    /// Whether it is the guest that is to blame, rather than the medium or the frontend.
    #[must_use]
    pub fn is_the_guests(&self) -> bool {
        !matches!(self, RequestError::Unsynced(_))
    }
}

/// A request that was taken off the ring.
#[derive(Debug)]
pub struct Request<'m> {
    chain: DescriptorChain<&'m GuestRam>,
    memory: &'m GuestRam,
    /// What is wrong with it, if anything is.
    fault: Option<RequestError>,
}

impl<'m> Request<'m> {
    /// The request in `chain`, of guest memory `memory`.
    #[must_use]
    pub fn new(chain: DescriptorChain<&'m GuestRam>, memory: &'m GuestRam) -> Request<'m> {
        let fault = match kind(chain.clone(), memory) {
            Ok(FLUSH) => None,
            Ok(other) => Some(RequestError::Unsupported(other)),
            Err(error) => Some(error),
        };
        Request { chain, memory, fault }
    }

    /// Whether something has to be made durable for it.
    #[must_use]
    pub fn is_flush(&self) -> bool {
        self.fault.is_none()
    }

    /// Index of its first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.chain.head_index()
    }

    /// Answers it, now that `synced` has come of what it asks for. Returns how many bytes of guest
    /// memory were filled, and what is to be said of it.
    #[must_use]
    pub fn answer(self, synced: Result<(), Unsynced>) -> (u32, Option<RequestError>) {
        let error = self.fault.or_else(|| synced.err().map(RequestError::Unsynced));
        let value = if error.is_none() { SUCCESS } else { FAILURE };
        match put(self.chain, self.memory, value) {
            Ok(()) => (ANSWER_SIZE, error),
            Err(no_answer) => (0, error.or(Some(no_answer))),
        }
    }
}

/// What is asked for.
fn kind(chain: DescriptorChain<&GuestRam>, memory: &GuestRam) -> Result<u32, RequestError> {
    let unreadable = |error: &dyn Display| RequestError::Unreadable(error.to_string());
    let mut reader = chain.reader(memory).map_err(|error| unreadable(&error))?;
    let kind = reader.read_obj().map_err(|error| unreadable(&error))?;
    Ok(u32::from_le(kind))
}

fn put(
    chain: DescriptorChain<&GuestRam>,
    memory: &GuestRam,
    value: u32,
) -> Result<(), RequestError> {
    let fails = |error: &dyn Display| RequestError::NoAnswer(error.to_string());
    let mut writer = chain.writer(memory).map_err(|error| fails(&error))?;
    writer.write_all(&value.to_le_bytes()).map_err(|error| fails(&error))
}
