//! The two superblocks, each of which makes up for the other, and both together for what is damaged in both.

use super::correct::correct;
use super::{Finding, Fix};
use crate::dax::format::discovery;
use crate::dax::format::error::Error;
use crate::dax::format::fault::Fault;
use crate::dax::format::superblock::{
    BACKUP_OFFSET, MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock,
};
use crate::pmem::{PersistentMemory, fletcher64_without_field};

type Bytes = [u8; SUPERBLOCK_SIZE as usize];

/// Most words in which two damaged superblocks may differ for all their combinations to be tried.
const MOST_DIFFERING: usize = 12;
/// Byte offset of what is reserved, and zero.
const RESERVED_AT: usize = 120;

/// The superblock, its backup, or what can be worked out from both if both are damaged.
///
/// # Errors
///
/// [`Error::NotFound`], [`Error::Superblocks`].
pub(crate) fn superblock<M: PersistentMemory>(medium: &M) -> Result<Superblock, Error> {
    discovery::superblock(medium).or_else(|error| match &error {
        Error::Superblocks { .. } => recovered(medium).ok_or(error),
        _ => Err(error),
    })
}

/// Reports superblocks that are damaged; returns what the region is, if that can be told.
pub(super) fn check<M: PersistentMemory>(
    medium: &M,
    findings: &mut Vec<Finding>,
) -> Option<Superblock> {
    let copies = [SUPERBLOCK_OFFSET, BACKUP_OFFSET].map(|at| (at, Superblock::read(medium, at)));
    let superblock = superblock(medium).ok();
    for (offset, copy) in copies {
        let fix = if superblock.is_some() { Fix::CopySuperblock(offset) } else { Fix::None };
        match copy {
            Ok(copy) if Some(copy) == superblock => {}
            // It describes something else: what an earlier region left.
            Ok(_) => findings.push(Finding { offset, fault: Fault::NoSuperblock, fix }),
            Err(fault) => findings.push(Finding { offset, fault, fix }),
        }
        if superblock.is_none() {
            break;
        }
    }
    superblock
}

/// What two damaged superblocks were: one of them with one word corrected, or a mixture of both, as its
/// checksum tells.
fn recovered<M: PersistentMemory>(medium: &M) -> Option<Superblock> {
    let read = |offset| {
        let mut bytes: Bytes = [0; SUPERBLOCK_SIZE as usize];
        medium.read_bytes(offset, &mut bytes).ok()?;
        bytes[8..8 + MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[RESERVED_AT..].fill(0);
        Some(bytes)
    };
    let copies = [read(SUPERBLOCK_OFFSET), read(BACKUP_OFFSET)];
    let whole = |bytes: &Bytes| Superblock::decode(bytes, medium.size()).ok();
    let one = copies.iter().flatten().find_map(|bytes| {
        whole(bytes).or_else(|| {
            let makes_sense = |bytes: &Bytes| whole(&sealed(*bytes)).is_some();
            let (at, value) = correct(bytes, sum_of(bytes), makes_sense)?;
            let mut bytes = *bytes;
            bytes[at as usize..][..8].copy_from_slice(&value.to_le_bytes());
            whole(&bytes)
        })
    });
    one.or_else(|| {
        let [Some(primary), Some(backup)] = &copies else { return None };
        mixture(primary, backup, medium.size())
    })
}

/// The one whole superblock that each word of comes from one of two, if there is one.
fn mixture(primary: &Bytes, backup: &Bytes, size: u64) -> Option<Superblock> {
    let (first, second) = (primary.as_chunks::<8>().0, backup.as_chunks::<8>().0);
    let differing = (0..first.len()).filter(|word| first[*word] != second[*word]);
    let differing: Vec<usize> = differing.collect();
    if differing.len() > MOST_DIFFERING {
        return None;
    }
    let mut all = (0..1u32 << differing.len()).filter_map(|from_backup| {
        let mut bytes = *primary;
        for (number, word) in differing.iter().enumerate() {
            if from_backup >> number & 1 == 1 {
                bytes[word * 8..][..8].copy_from_slice(&second[*word]);
            }
        }
        Superblock::decode(&bytes, size).ok()
    });
    // Both are damaged, so neither is among them.
    let found = all.next()?;
    all.next().is_none().then_some(found)
}

fn sum_of(bytes: &Bytes) -> u64 {
    u64::from_le_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

/// The same with the right checksum.
fn sealed(mut bytes: Bytes) -> Bytes {
    let sum = fletcher64_without_field(&bytes, 0);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}
