//! The available ring, in which the guest offers requests.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Address, GuestAddress, GuestAddressSpace, GuestMemoryError};

use super::completions::USED_HEADER;
use super::ring::Memory;
use crate::virtio::{BadAddress, GuestArray, GuestRam};

/// Bytes before the elements (VIRTIO 1.2, 2.7.6).
pub(super) const AVAILABLE_HEADER: u64 = 4;
/// Bytes of each.
pub(super) const AVAILABLE_ELEMENT: u64 = 2;

/// Guest memory as it was at some moment.
pub(super) type Snapshot = <Memory as GuestAddressSpace>::T;

/// How many requests are offered in `ring`, and guest memory with all that they refer to.
///
/// In this order: a frontend adds memory while rings are running, and a guest may use it as soon as
/// it is there. A request that is offered after the look at the ring is left for the next one.
pub(super) fn look(ring: &Queue, memory: &Memory) -> Result<(usize, Snapshot), Error> {
    let index = ring.avail_idx(&*memory.memory(), Ordering::Acquire)?;
    let offered = index - Wrapping(ring.next_avail());
    Ok((offered.0.into(), memory.memory()))
}

/// Returns whether `ring` was in use before it starts: it goes on at an index, or its used elements are not
/// zero, as those of a new ring are. An index of 0 alone does not tell, since indexes wrap around.
pub(super) fn has_been_used(ring: &Queue, memory: &GuestRam) -> Result<bool, Error> {
    if ring.next_avail() != 0 || ring.next_used() != 0 {
        return Ok(true);
    }
    let start = GuestAddress(ring.used_ring());
    let start = start.checked_add(USED_HEADER).ok_or(Error::AddressOverflow)?;
    let elements = GuestArray::<u64>::new(memory, start, ring.size().into());
    for element in 0..ring.size() {
        if elements.load(element.into()).map_err(not_there)? != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes up to `most` of the `offered` requests off `ring`: puts the index of the first descriptor of each
/// into `into`.
///
/// # Errors
///
/// The guest offers more than the ring holds, or there is no memory; then none are taken off.
pub(super) fn take_heads(
    ring: &mut Queue,
    memory: &GuestRam,
    offered: usize,
    most: usize,
    into: &mut Vec<u16>,
) -> Result<(), Error> {
    let size = ring.size();
    if offered > usize::from(size) {
        return Err(Error::InvalidAvailRingIndex);
    }
    let start = GuestAddress(ring.avail_ring());
    let start = start.checked_add(AVAILABLE_HEADER).ok_or(Error::AddressOverflow)?;
    let heads = GuestArray::<u16>::new(memory, start, size.into());
    let mut next = Wrapping(ring.next_avail());
    for _ in 0..offered.min(most) {
        let head = heads.load((next.0 % size).into()).map_err(not_there)?;
        into.push(u16::from_le(head));
        next += 1;
    }
    ring.set_next_avail(next.0);
    Ok(())
}

/// A part of a ring is not guest memory.
pub(super) fn not_there(error: BadAddress) -> Error {
    Error::GuestMemory(GuestMemoryError::InvalidGuestAddress(GuestAddress(error.address)))
}
