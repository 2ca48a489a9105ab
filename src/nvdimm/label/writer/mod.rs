//! Changes labels, such that a crash leaves the old state or the new one.
//!
//! Nothing that counts is written in place. A label goes into a slot that the index block in force
//! says is free; then the *other* index block is written, with the sequence number that follows, and
//! is in force from then on. The order, each step durable before the next:
//!
//! 1. the label, into a free slot; and the other index block's checksum becomes zero: that block is
//!    void, whatever becomes of the rest of it;
//! 2. the rest of that index block;
//! 3. its checksum, in one aligned store of eight bytes: the commit point.
//!
//! Linux writes the same bytes in fewer steps (`__pmem_label_update`, `nd_label_write_index`), and
//! leaves it to the checksum to tell a torn index block; here it takes no luck. Linux also writes every
//! label twice, first with the flag "updating", which matters for namespaces that are interleaved over
//! several NVDIMMs: with one label, one index block commits it all.

use super::area::index_bytes;
use super::index_block::CHECKSUM_OFFSET;
use super::{IndexBlock, LabelArea, LabelFault, LabelVersion, Layout, NamespaceLabel};
use crate::pmem::{MediaError, PersistentMemory};

/// Why the labels could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The medium failed. The labels are as they were, unless the commit point had been reached.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// There is no index block to start from.
    #[error("neither index block is valid; first: {}; second: {}", .0[0], .0[1])]
    NoIndex([LabelFault; 2]),
    /// All slots but one are taken; that one is needed to change any of the labels ever again.
    #[error("all but one of the {slots} label slots are taken, and that one has to stay free")]
    NoSlot {
        /// Number of slots.
        slots: u32,
    },
    /// There is no label in the slot that was to be replaced or taken away.
    #[error("label slot {0} is free already")]
    NotUsed(u32),
    /// The label is of another version than the area.
    #[error("a label of version {label} in an area of version {area}")]
    Version {
        /// Version of the label.
        label: LabelVersion,
        /// Version of the area.
        area: LabelVersion,
    },
    /// There is no room for two index blocks and two labels.
    #[error("{size} bytes are too few for a label storage area")]
    TooSmall {
        /// Bytes there are.
        size: u64,
    },
}

/// A label storage area that can be written. Its owner must be the only one that changes the
/// labels; readers may read meanwhile.
#[derive(Debug)]
pub struct LabelWriter<'m, M> {
    medium: &'m M,
    /// Offset of the area in the medium.
    start: u64,
    area: LabelArea,
}

impl<'m, M: PersistentMemory> LabelWriter<'m, M> {
    /// Opens the label storage area in the last `size` bytes of `medium`; what it holds is durable on
    /// return, whichever process stored it.
    pub fn open(medium: &'m M, size: u64) -> Result<Self, UpdateError> {
        let start = medium.size().checked_sub(size).ok_or(UpdateError::TooSmall { size })?;
        let area = LabelArea::read(medium, size)?.map_err(UpdateError::NoIndex)?;
        area.persist(medium)?;
        Ok(LabelWriter { medium, start, area })
    }

    /// Makes the last `size` bytes of `medium` a label storage area without labels; what they held
    /// is lost.
    ///
    /// A crash leaves what was there, or no label storage area, or the new one.
    pub fn initialize(
        medium: &'m M,
        size: u64,
        version: LabelVersion,
    ) -> Result<Self, UpdateError> {
        let layout = Layout::of(size, version).ok_or(UpdateError::TooSmall { size })?;
        let start = erase(medium, size)?;
        // With the sequence numbers that Linux and ndctl begin with; the last one written counts.
        for (number, seq) in [(1, 2), (0, 3)] {
            publish(medium, start, &IndexBlock::empty(version, layout, number, seq))?;
        }
        LabelWriter::open(medium, size)
    }

    /// The labels as they are.
    #[must_use]
    pub fn area(&self) -> &LabelArea {
        &self.area
    }

    /// Adds a label; its field `slot` is of no concern. Returns the slot that it went into.
    pub fn create(&mut self, label: &NamespaceLabel) -> Result<u32, UpdateError> {
        if self.area.index.free_slots().nth(1).is_none() {
            return Err(UpdateError::NoSlot { slots: self.area.index.nslot });
        }
        let slot = self.put(label)?;
        self.flip(&[], Some(slot))?;
        Ok(slot)
    }

    /// Replaces the label in slot `old` by `label`, whose field `slot` is of no concern. Returns the
    /// slot that the new one went into.
    pub fn update(&mut self, old: u32, label: &NamespaceLabel) -> Result<u32, UpdateError> {
        self.check_used(&[old])?;
        let slot = self.put(label)?;
        self.flip(&[old], Some(slot))?;
        Ok(slot)
    }

    /// Takes the labels in `slots` away, all at once.
    pub fn delete(&mut self, slots: &[u32]) -> Result<(), UpdateError> {
        self.check_used(slots)?;
        self.flip(slots, None)
    }

    /// Takes all labels away at once.
    pub fn clear(&mut self) -> Result<(), UpdateError> {
        let used: Vec<u32> = self.area.index.used_slots().collect();
        self.delete(&used)
    }

    fn check_used(&self, slots: &[u32]) -> Result<(), UpdateError> {
        let index = &self.area.index;
        let is_used = |slot: u32| slot < index.nslot && !index.is_free(slot);
        match slots.iter().find(|slot| !is_used(**slot)) {
            Some(slot) => Err(UpdateError::NotUsed(*slot)),
            None => Ok(()),
        }
    }

    /// Writes `label` into the first free slot, and returns that; durable after the next fence.
    fn put(&self, label: &NamespaceLabel) -> Result<u32, UpdateError> {
        let index = &self.area.index;
        if label.version != index.version {
            return Err(UpdateError::Version { label: label.version, area: index.version });
        }
        let slot = index.free_slots().next().ok_or(UpdateError::NoSlot { slots: index.nslot })?;
        let bytes = NamespaceLabel { slot, ..label.clone() }.encode();
        self.medium.write_bytes(self.start + index.slot_offset(slot), &bytes)?;
        Ok(slot)
    }

    /// Puts the next index block in force: without the labels in the slots `gone`, and with the one
    /// in slot `new`.
    fn flip(&mut self, gone: &[u32], new: Option<u32>) -> Result<(), UpdateError> {
        let mut index = self.area.index.successor();
        for slot in gone {
            index.set_free(*slot, true);
        }
        if let Some(slot) = new {
            index.set_free(slot, false);
        }
        publish(self.medium, self.start, &index)?;
        self.area = LabelArea::read(self.medium, self.area.size)?.map_err(UpdateError::NoIndex)?;
        Ok(())
    }
}

/// Zeroes the last `size` bytes of `medium`, where a label storage area may be, and returns where
/// they start. A crash leaves the area as it was, or none.
pub fn erase<M: PersistentMemory>(medium: &M, size: u64) -> Result<u64, UpdateError> {
    let start = medium.size().checked_sub(size).ok_or(UpdateError::TooSmall { size })?;
    match LabelArea::read(medium, size) {
        Ok(Ok(area)) => {
            // Not the one in force first: what it has replaced would be in force again.
            let current = area.index;
            for offset in [current.successor().offset(), current.offset()] {
                store_checksum(medium, start + offset, 0)?;
            }
        }
        // Void, as it seems: where a tool was killed that made them so, not before this fence.
        Ok(Err(_)) => {
            medium.flush(start, index_bytes(size))?;
            medium.fence()?;
        }
        // What cannot be read is not mistaken for labels.
        Err(_) => {}
    }
    medium.zero(start, size)?;
    Ok(start)
}

/// Puts an index block of the area at `start` in force.
fn publish<M: PersistentMemory>(
    medium: &M,
    start: u64,
    index: &IndexBlock,
) -> Result<(), MediaError> {
    let mut bytes = index.encode();
    let place = CHECKSUM_OFFSET..CHECKSUM_OFFSET + size_of::<u64>();
    let mut checksum = [0; size_of::<u64>()];
    checksum.copy_from_slice(&bytes[place.clone()]);
    bytes[place].fill(0);

    let offset = start + index.offset();
    // Ends in a fence, which is also that of the label.
    store_checksum(medium, offset, 0)?;
    medium.write_bytes(offset, &bytes)?;
    medium.fence()?;
    store_checksum(medium, offset, u64::from_le_bytes(checksum))
}

/// Stores the checksum of the index block at `offset`; durable on return.
fn store_checksum<M: PersistentMemory>(
    medium: &M,
    offset: u64,
    checksum: u64,
) -> Result<(), MediaError> {
    let place = offset + CHECKSUM_OFFSET as u64;
    medium.store_u64(place, checksum)?;
    medium.flush(place, size_of::<u64>() as u64)?;
    medium.fence()
}

#[cfg(test)]
mod killed_tests;
#[cfg(test)]
mod tests;
