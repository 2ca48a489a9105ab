//! Finding and reading the label storage area at the end of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::index_block::SIGNATURE;
use super::{IndexBlock, LabelFault, LabelVersion, NamespaceLabel};
use crate::pmem::PAGE;

/// Bytes of the smallest label area that QEMU makes, and the usual one.
pub const DEFAULT_AREA_SIZE: u64 = 128 << 10;

/// Largest label area that is looked for, in bytes.
const MOST_AREA_SIZE: u64 = 16 << 20;

/// A label storage area, read.
#[derive(Debug, Clone)]
pub struct LabelArea {
    /// Offset in the file: the data area ends here.
    pub offset: u64,
    /// Bytes of the area.
    pub size: u64,
    /// The index block that counts.
    pub index: IndexBlock,
    bytes: Vec<u8>,
}

/// Finds where the label storage area of a file of `file_size` bytes starts.
///
/// Usually 128 KiB from the end; else it is looked for in the 4 KiB steps below that.
pub fn find(file: &File, file_size: u64) -> io::Result<Option<u64>> {
    let mut size = DEFAULT_AREA_SIZE;
    while size <= MOST_AREA_SIZE && size < file_size {
        if is_area(file, file_size - size, size)? {
            return Ok(Some(file_size - size));
        }
        size += PAGE;
    }
    Ok(None)
}

/// Whether the signature of either index block stands where an area of `size` bytes at `offset` has
/// it.
fn is_area(file: &File, offset: u64, size: u64) -> io::Result<bool> {
    let second = |version: LabelVersion| IndexBlock::layout(size, version.label_size()).0;
    for place in [0, second(LabelVersion::V1_2), second(LabelVersion::V1_1)] {
        let mut found = [0; SIGNATURE.len()];
        file.read_exact_at(&mut found, offset + place)?;
        if found == SIGNATURE {
            return Ok(true);
        }
    }
    Ok(false)
}

impl LabelArea {
    /// Reads the label storage area from `offset` to the end of a file of `file_size` bytes.
    ///
    /// # Errors
    ///
    /// The file cannot be read (outer), or neither index block is valid (inner).
    pub fn read(
        file: &File,
        offset: u64,
        file_size: u64,
    ) -> io::Result<Result<LabelArea, [LabelFault; 2]>> {
        let size = file_size - offset;
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, offset)?;
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
        Ok(Ok(LabelArea { offset, size, index, bytes }))
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
