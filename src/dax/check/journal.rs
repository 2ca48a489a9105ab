//! What the journal has pending, found by the description of the format alone.

use std::collections::BTreeMap;

use crate::dax::format::fault::Fault;
use crate::dax::format::layout::{MOST_SEQ, OWNER_TABLE_OFFSET, PAGES_OFFSET};
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::PAGE_SIZE;
use crate::pmem::PersistentMemory;

/// Words of an entry before its stores.
const HEADER_WORDS: usize = 8;

/// A journal entry.
struct Entry {
    seq: u64,
    /// The oldest entry that was needed when this one was written.
    oldest: u64,
    /// Offsets and values.
    stores: Vec<(u64, u64)>,
}

/// The words that opening would store, with their offsets: those that differ from what is there. A
/// journal that cannot be read, or whose numbers are used up, is a fault.
pub(super) fn pending<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
) -> Result<BTreeMap<u64, u64>, Fault> {
    let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut bucket = vec![0; PAGE_SIZE as usize];
    for offset in superblock.journal().bytes().step_by(PAGE_SIZE as usize) {
        medium.read_bytes(offset, &mut bucket)?;
        for entry in entries_of(&bucket, superblock) {
            entries.entry(entry.seq).or_insert(entry);
        }
    }
    let mut pending = BTreeMap::new();
    if let Some((newest, Entry { oldest, .. })) = entries.last_key_value() {
        if *newest > MOST_SEQ {
            return Err(Fault::Sequence(*newest));
        }
        for seq in *oldest..=*newest {
            let Some(entry) = entries.get(&seq) else { break };
            pending.extend(entry.stores.iter().copied());
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

/// The entries in a bucket.
fn entries_of(bucket: &[u8], superblock: &Superblock) -> Vec<Entry> {
    let words: Vec<u64> =
        bucket.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let mut entries = Vec::new();
    let mut at = 0;
    while at + HEADER_WORDS <= words.len() {
        // What is no entry hides none behind it.
        let entry = entry_at(&words[at..], &bucket[at * 8..], superblock);
        let length = entry.as_ref().map_or(0, |entry| 2 * entry.stores.len());
        at += (HEADER_WORDS + length).next_multiple_of(8);
        entries.extend(entry);
    }
    entries
}

/// The entry at the beginning of `words`, which are those of `bytes`.
fn entry_at(words: &[u64], bytes: &[u8], superblock: &Superblock) -> Option<Entry> {
    let set = superblock.set_uuid.as_bytes();
    let is_ours = words[1].to_le_bytes() == set[..8]
        && words[2].to_le_bytes() == set[8..]
        && words[3] & 0xffff_ffff == u64::from(superblock.version.number());
    let length = HEADER_WORDS + 2 * (words[3] >> 32) as usize;
    let (stores, summed) = (words.get(HEADER_WORDS..length)?, bytes.get(8..length * 8)?);
    let is_whole = || superblock.version.entry_checksum(superblock.set_uuid, summed) == words[0];
    let (seq, oldest) = (words[4], words[5]);
    let is_numbered = seq != u64::MAX && oldest <= seq;
    let is_metadata = |[offset, _]: &[u64; 2]| {
        (OWNER_TABLE_OFFSET..PAGES_OFFSET).contains(offset) && offset.is_multiple_of(8)
    };
    let stores = stores.as_chunks::<2>().0;
    let is_entry = is_ours && is_numbered && is_whole() && stores.iter().all(is_metadata);
    let stores = stores.iter().map(|[offset, value]| (*offset, *value)).collect();
    is_entry.then_some(Entry { seq, oldest, stores })
}
