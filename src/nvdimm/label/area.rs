//! Finding and reading the label storage area at the end of an NVDIMM.

use super::index_block::SIGNATURE;
use super::{IndexBlock, LabelFault, LabelVersion, Layout, NamespaceLabel};
use crate::pmem::{MediaError, PAGE, PersistentMemory};

/// Bytes of the smallest label area that QEMU makes, and the usual one (QEMU's
/// `MIN_NAMESPACE_LABEL_SIZE`).
pub const LEAST_AREA_SIZE: u64 = 128 << 10;

/// Largest label area that is made, and looked for, in bytes.
pub const MOST_AREA_SIZE: u64 = 16 << 20;

/// How often a reader looks again when the labels change under its eyes.
const MOST_ATTEMPTS: usize = 16;

/// A label storage area, read.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelArea {
    /// Bytes of the area: the last so many of the NVDIMM.
    pub size: u64,
    /// The index block that counts.
    pub index: IndexBlock,
    /// The number of the other index block, and what is wrong with it, if it is unusable: it may have
    /// been the newer one.
    pub unusable: Option<(u64, LabelFault)>,
    /// All of it.
    bytes: Vec<u8>,
}

/// Finds the size of the label storage area at the end of `medium`.
///
/// Usually 128 KiB; else it is looked for in the 4 KiB steps below that.
pub fn find<M: PersistentMemory>(medium: &M) -> Result<Option<u64>, MediaError> {
    let mut size = LEAST_AREA_SIZE;
    while size <= MOST_AREA_SIZE.min(medium.size()) {
        if is_area(medium, size)? {
            return Ok(Some(size));
        }
        size += PAGE;
    }
    Ok(None)
}

/// Returns whether the signature of either index block stands where an area of the last `size` bytes has it.
fn is_area<M: PersistentMemory>(medium: &M, size: u64) -> Result<bool, MediaError> {
    let second = |version| Layout::of(size, version).map(|layout| layout.index_size);
    for place in [0].into_iter().chain(LabelVersion::ALL.into_iter().filter_map(second)) {
        let mut found = [0; SIGNATURE.len()];
        medium.read_bytes(medium.size() - size + place, &mut found)?;
        if found == SIGNATURE {
            return Ok(true);
        }
    }
    Ok(false)
}

impl LabelArea {
    /// Reads the label storage area in the last `size` bytes of `medium`.
    ///
    /// Without a lock: what is read is a state that the labels were in, also if another process changes
    /// them meanwhile. A change ends in an index block, so as long as those are the same after
    /// reading as before, no slot that they name was written.
    ///
    /// # Errors
    ///
    /// The medium cannot be read (outer), or neither index block is valid (inner).
    pub fn read<M: PersistentMemory>(
        medium: &M,
        size: u64,
    ) -> Result<Result<LabelArea, [LabelFault; 2]>, MediaError> {
        let start = medium.size() - size;
        let mut bytes = vec![0; size as usize];
        medium.read_bytes(start, &mut bytes)?;
        for _ in 0..MOST_ATTEMPTS {
            let mut again = vec![0; index_bytes(size) as usize];
            medium.read_bytes(start, &mut again)?;
            if bytes.starts_with(&again) {
                break;
            }
            medium.read_bytes(start, &mut bytes)?;
        }
        Ok(LabelArea::decode(bytes))
    }

    /// Makes durable what was read from `medium`: the index blocks that can be used, and the labels.
    ///
    /// A tool that was killed, or Linux in a guest that was, has stored some of it and not come to its
    /// fence. Such stores are visible to all processes, and a power failure still takes them away, with what was
    /// built on them: every writer of the file makes them durable first.
    pub fn persist<M: PersistentMemory>(&self, medium: &M) -> Result<(), MediaError> {
        let start = medium.size() - self.size;
        let is_usable = |number: &u64| self.unusable.is_none_or(|(bad, _)| bad != *number);
        for number in [0, 1].into_iter().filter(is_usable) {
            medium.flush(start + number * self.index.size, self.index.size)?;
        }
        for slot in self.index.used_slots() {
            let label_size = self.index.version.label_size();
            medium.flush(start + self.index.slot_offset(slot), label_size)?;
        }
        medium.fence()
    }

    /// Returns whether both index blocks can be used, and all labels are whole in themselves.
    pub(in crate::nvdimm) fn is_whole(&self) -> bool {
        self.unusable.is_none() && self.labels().all(|(_, label)| label.is_ok())
    }

    /// Decodes a label storage area.
    fn decode(bytes: Vec<u8>) -> Result<LabelArea, [LabelFault; 2]> {
        let (index, unusable) = match [0, 1].map(|number| IndexBlock::decode(&bytes, number)) {
            [Ok(first), Ok(second)] => (IndexBlock::newer(first, second), None),
            [Ok(first), Err(fault)] => (first, Some((1, fault))),
            [Err(fault), Ok(second)] => (second, Some((0, fault))),
            [Err(first), Err(second)] => return Err([first, second]),
        };
        Ok(LabelArea { size: bytes.len() as u64, index, unusable, bytes })
    }

    /// The labels, by slot, each with what is wrong with it if it cannot be used.
    pub fn labels(&self) -> impl Iterator<Item = (u32, Result<NamespaceLabel, LabelFault>)> {
        self.index
            .used_slots()
            .map(|slot| (slot, NamespaceLabel::decode(self.slot(slot), self.index.version, slot)))
    }

    /// What slot `slot`, which exists, says, whether that is a label that counts or not.
    #[must_use]
    pub fn as_it_seems(&self, slot: u32) -> NamespaceLabel {
        NamespaceLabel::as_it_seems(self.slot(slot), self.index.version, slot)
    }

    fn slot(&self, slot: u32) -> &[u8] {
        let start = self.index.slot_offset(slot) as usize;
        // The index block was checked to have no more slots than the area has room for.
        &self.bytes[start..start + self.index.version.label_size() as usize]
    }
}

/// Bytes of both index blocks together, at the least, in an area of `size` bytes.
pub(super) fn index_bytes(size: u64) -> u64 {
    let layouts = LabelVersion::ALL.into_iter();
    let sizes = layouts.filter_map(|version| Layout::of(size, version)).map(|l| l.index_size);
    sizes.max().map_or(size, |index_size| 2 * index_size)
}
