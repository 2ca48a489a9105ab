//! What the journal has pending, found by the description of the format alone.

use std::collections::BTreeMap;

use crate::dax::format::fault::Fault;
use crate::dax::format::layout::{MOST_SEQ, OWNER_TABLE_OFFSET, PAGES_OFFSET};
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::PAGE_SIZE;
use crate::pmem::PersistentMemory;

/// The words that opening would store, with their offsets: those that differ from what is there. A
/// journal that cannot be read, or whose numbers are used up, is a fault.
pub(super) fn pending<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
) -> Result<BTreeMap<u64, u64>, Fault> {
    let journal = superblock.journal().bytes();
    // By sequence number: the oldest that was needed, and the stores.
    let mut entries: BTreeMap<u64, (u64, Vec<(u64, u64)>)> = BTreeMap::new();
    let mut bucket = vec![0; PAGE_SIZE as usize];
    for offset in journal.step_by(PAGE_SIZE as usize) {
        medium.read_bytes(offset, &mut bucket)?;
        let words: Vec<u64> =
            bucket.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let mut at = 0;
        while let Some(entry) = words.get(at..).filter(|entry| entry.len() >= 8) {
            let count = (entry[3] >> 32) as usize;
            let length = 8 + 2 * count;
            let is_ours = entry[1].to_le_bytes() == superblock.set_uuid.as_bytes()[..8]
                && entry[2].to_le_bytes() == superblock.set_uuid.as_bytes()[8..]
                && entry[3] & 0xffff_ffff == u64::from(superblock.version.number());
            let sums = || {
                let summed = bucket.get(at * 8 + 8..(at + length) * 8);
                let sum = |bytes| superblock.version.entry_checksum(superblock.set_uuid, bytes);
                summed.map(sum) == Some(entry[0])
            };
            let is_metadata = |[offset, _]: &[u64; 2]| {
                (OWNER_TABLE_OFFSET..PAGES_OFFSET).contains(offset) && offset.is_multiple_of(8)
            };
            let stores = entry.get(8..length).map_or(&[][..], |words| words.as_chunks::<2>().0);
            let is_numbered = entry[4] != u64::MAX && entry[5] <= entry[4];
            if !is_ours || !is_numbered || !sums() || !stores.iter().all(is_metadata) {
                // What is none hides no entry behind it.
                at += 8;
                continue;
            }
            let stores = stores.iter().map(|[offset, value]| (*offset, *value)).collect();
            entries.entry(entry[4]).or_insert((entry[5], stores));
            at += length.next_multiple_of(8);
        }
    }
    let mut pending = BTreeMap::new();
    if let Some((newest, (oldest, _))) = entries.last_key_value() {
        if *newest > MOST_SEQ {
            return Err(Fault::Sequence(*newest));
        }
        for seq in *oldest..=*newest {
            let Some((_, stores)) = entries.get(&seq) else { break };
            pending.extend(stores.iter().copied());
        }
    }
    let mut differing = BTreeMap::new();
    for (offset, value) in pending {
        if medium.load_u64(offset)? != value {
            differing.insert(offset, value);
        }
    }
    Ok(differing)
}
