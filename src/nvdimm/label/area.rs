//! Finding and reading the label storage area at the end of an NVDIMM.

use super::index_block::SIGNATURE;
use super::{IndexBlock, LabelFault, LabelVersion, NamespaceLabel};
use crate::pmem::{MediaError, PAGE, PersistentMemory};

/// Bytes of the smallest label area that QEMU makes, and the usual one.
pub const DEFAULT_AREA_SIZE: u64 = 128 << 10;

/// Largest label area that is looked for, in bytes.
pub const MOST_AREA_SIZE: u64 = 16 << 20;

/// A label storage area, read.
#[derive(Debug, Clone)]
pub struct LabelArea {
    /// Bytes of the area: the last so many of the NVDIMM.
    pub size: u64,
    /// The index block that counts.
    pub index: IndexBlock,
    bytes: Vec<u8>,
}

/// Finds the size of the label storage area at the end of `medium`.
///
/// Usually 128 KiB; else it is looked for in the 4 KiB steps below that.
pub fn find<M: PersistentMemory>(medium: &M) -> Result<Option<u64>, MediaError> {
    let mut size = DEFAULT_AREA_SIZE;
    while size <= MOST_AREA_SIZE.min(medium.size()) {
        if is_area(medium, size)? {
            return Ok(Some(size));
        }
        size += PAGE;
    }
    Ok(None)
}

/// Whether the signature of either index block stands where an area of the last `size` bytes has it.
fn is_area<M: PersistentMemory>(medium: &M, size: u64) -> Result<bool, MediaError> {
    let second = |version: LabelVersion| IndexBlock::layout(size, version.label_size()).0;
    for place in [0, second(LabelVersion::V1_2), second(LabelVersion::V1_1)] {
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
    /// # Errors
    ///
    /// The medium cannot be read (outer), or neither index block is valid (inner).
    pub fn read<M: PersistentMemory>(
        medium: &M,
        size: u64,
    ) -> Result<Result<LabelArea, [LabelFault; 2]>, MediaError> {
        let mut bytes = vec![0; size as usize];
        medium.read_bytes(medium.size() - size, &mut bytes)?;
        let indexes = [IndexBlock::decode(&bytes, 0), IndexBlock::decode(&bytes, 1)];
        let index = match indexes {
            [Ok(first), Ok(second)] => {
                if second.is_newer_than(&first) {
                    second
                } else {
                    first
                }
            }
            [Ok(only), Err(_)] | [Err(_), Ok(only)] => only,
            [Err(first), Err(second)] => return Ok(Err([first, second])),
        };
        Ok(Ok(LabelArea { size, index, bytes }))
    }

    /// The labels, by slot, each with what is wrong with it if it cannot be used.
    pub fn labels(&self) -> impl Iterator<Item = (u32, Result<NamespaceLabel, LabelFault>)> {
        self.index.used_slots().map(|slot| {
            let start = self.index.slot_offset(slot) as usize;
            // The index block was checked to have no more slots than the area has room for.
            let bytes = &self.bytes[start..start + self.index.version.label_size() as usize];
            (slot, NamespaceLabel::decode(bytes, self.index.version, slot))
        })
    }
}
