//! The journal: what makes a change of the metadata happen wholly or not at all.
//!
//! Its space is a block of owner 0, split into buckets of one page each that are used as a ring. An
//! entry holds the 8-byte stores of one transaction:
//!
//! ```text
//!  0 checksum of all that follows   8
//!  8 magic: the region's uuid      16
//! 24 version: the region's          4
//! 28 count of stores                4
//! 32 seq                            8
//! 40 last_seq                       8
//! 48 zero                          16
//! 64 count times {offset, value}   16 each
//! ```
//!
//! An entry begins at a multiple of 64 bytes and lies in one bucket. It is streamed and fenced, which
//! commits; then its stores are made, flushed and fenced, before anything else is written. So one
//! entry at most is not applied, the newest, `last_seq` equals `seq`, and the space of all older ones
//! is free: the ring is never full. There are two buckets or more, so the newest entry is never
//! written over by the next one.
//!
//! Replay makes the stores of the entries from the newest one's `last_seq` on. A torn entry is none;
//! the one before it is applied already, and applying it again changes nothing.
//!
//! Entries are looked for at every multiple of 64 bytes, also after what is no entry. Bit rot in an
//! older entry is thus without effect: it hides no newer one, over which the ring would go on with
//! numbers that are there already.
//!
//! # Torn entries
//!
//! A power failure may leave any of the aligned words of an entry that was being written. The next
//! attempt, after the region was opened again, writes to the same place under the same number, and may
//! be cut off as well. Written over what the first attempt left, its words could be just those that
//! the first one lacks: a change that had not happened would come back later, with the data that were
//! stored since then in its way. So nothing is ever written over the remains of an entry:
//!
//! * Before the first entry after opening, and before the first one in a bucket, the rest of the bucket
//!   is made zero, and that is durable ([`Ring::commit`]). Entries follow each other without a gap, so
//!   the place of every entry is zero when it is written. What a power failure leaves of it is a part
//!   of its own words, and zeroes.
//! * Zeroing can be torn as well. Of an entry that was written over zeroes it can only take more away.
//!   Earlier releases wrote over what was there; such remains may lack nothing but words that are zero.
//!   Where an entry under a number that is still to be used begins, its version is therefore made zero
//!   first, by one store of eight bytes, which cannot tear.
//!
//! What the checksum has to tell apart is thus an entry from the same one with some words replaced by
//! zeroes. Fletcher-64, by which version 1 sums entries, is two sums modulo 2³² over words of 32 bits:
//! it misses every change whose differences `d` at the positions `w`, counted from the end, have
//! Σ d ≡ 0 and Σ w·d ≡ 0. The words of an entry are structured, so that is no matter of one in 2⁶⁴:
//! two words 0x80000000 at an even distance, as in the two halves of a uuid, may both be missing
//! (2 · 2³¹ ≡ 0), and generally the more trailing zero bits the differences have, the fewer bits of the
//! sums are left to notice them. Version 2 sums by SipHash-2-4, a pseudorandom function whose key is the
//! region's uuid. It has no such structure: a given combination of missing words goes unnoticed with a
//! probability of 2⁻⁶⁴, whatever the words are. Regions of version 1 keep Fletcher-64, so that the
//! programs which made them can read what is pending in them, and have the zeroed places.

use std::ops::Range;

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::dax::format::fault::Fault;
use crate::dax::format::layout::{MOST_SEQ, OWNER_TABLE_OFFSET, PAGES_OFFSET};
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::PAGE_SIZE;
use crate::dax::format::version::Version;
use crate::pmem::{Durability, MediaError, PersistentMemory, make_dirty};

/// Bytes of a bucket.
pub(crate) const BUCKET_SIZE: u64 = PAGE_SIZE;
/// Most stores of an entry.
pub(crate) const MOST_STORES: usize = (BUCKET_SIZE as usize - HEADER_SIZE) / STORE_SIZE;
/// Bytes of an entry's header.
const HEADER_SIZE: usize = 64;
/// Bytes of a store in an entry.
const STORE_SIZE: usize = 16;
/// What entries begin at multiples of, in bytes.
const ENTRY_ALIGN: u64 = 64;
/// Byte offset of the word with version and count in an entry: one that is never zero.
const VERSION_AT: u64 = 24;
/// Byte offset of the number in an entry.
const SEQ_AT: u64 = 32;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct EntryHeader {
    checksum: U64,
    magic: [u8; 16],
    version: U32,
    count: U32,
    seq: U64,
    last_seq: U64,
    reserved: [u8; 16],
}

/// A store to the metadata: eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Store {
    /// Byte offset from the start of the namespace, a multiple of eight.
    pub offset: u64,
    /// The value.
    pub value: u64,
}

const _: () = {
    assert!(size_of::<EntryHeader>() == HEADER_SIZE);
    assert!(std::mem::offset_of!(EntryHeader, version) == VERSION_AT as usize);
    assert!(std::mem::offset_of!(EntryHeader, seq) == SEQ_AT as usize);
    assert!(MOST_STORES == 252);
};

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number.
    pub seq: u64,
    /// The first entry that need not have been applied when this one was written.
    pub last_seq: u64,
    /// What to store.
    pub stores: Vec<Store>,
}

impl Entry {
    /// Bytes of an entry of `count` stores, up to where the next one begins.
    #[must_use]
    pub(crate) fn size(count: usize) -> u64 {
        ((HEADER_SIZE + count * STORE_SIZE) as u64).next_multiple_of(ENTRY_ALIGN)
    }

    /// The bytes on the medium, in the region of this version and uuid.
    #[must_use]
    pub(crate) fn encode(&self, version: Version, magic: Uuid) -> Vec<u8> {
        let header = EntryHeader {
            checksum: U64::ZERO,
            magic: magic.into_bytes(),
            version: U32::new(version.number()),
            count: U32::new(self.stores.len() as u32),
            seq: U64::new(self.seq),
            last_seq: U64::new(self.last_seq),
            reserved: [0; 16],
        };
        let mut bytes = header.as_bytes().to_vec();
        for store in &self.stores {
            bytes.extend(store.offset.to_le_bytes());
            bytes.extend(store.value.to_le_bytes());
        }
        let checksum = version.entry_checksum(magic, &bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The entry at the start of `bytes`, if there is a whole one that makes sense in the region of this
    /// version and uuid.
    #[must_use]
    pub(crate) fn decode(bytes: &[u8], version: Version, magic: Uuid) -> Option<Entry> {
        let (header, rest) = EntryHeader::ref_from_prefix(bytes).ok()?;
        let count = header.count.get() as usize;
        let is_ours =
            header.magic == magic.into_bytes() && header.version.get() == version.number();
        if !is_ours || count > MOST_STORES {
            return None;
        }
        let stores = rest.get(..count * STORE_SIZE)?;
        let sum = version.entry_checksum(magic, &bytes[8..HEADER_SIZE + stores.len()]);
        if sum != header.checksum.get() && !mutant!(dax::TornEntryReplayed) {
            return None;
        }
        let (seq, last_seq) = (header.seq.get(), header.last_seq.get());
        if seq == u64::MAX || last_seq > seq {
            return None;
        }
        let words = stores.as_chunks::<8>().0.as_chunks::<2>().0;
        let stores = words.iter().map(|[offset, value]| Store {
            offset: u64::from_le_bytes(*offset),
            value: u64::from_le_bytes(*value),
        });
        let stores: Vec<Store> = stores.collect();
        // Nothing but metadata is ever stored by way of the journal.
        let legal = |store: &Store| {
            (OWNER_TABLE_OFFSET..PAGES_OFFSET).contains(&store.offset)
                && store.offset.is_multiple_of(8)
        };
        stores.iter().all(legal).then_some(Entry { seq, last_seq, stores })
    }
}

/// Where the next entry goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ring {
    version: Version,
    magic: Uuid,
    /// Byte offset of the first bucket.
    start: u64,
    buckets: u64,
    bucket: u64,
    /// Byte in the bucket.
    position: u64,
    /// Of the next entry.
    seq: u64,
    /// The bucket is known to be zero from `position` on, and that to be durable.
    is_void: bool,
}

impl Ring {
    /// Reads the journal: what to replay, oldest store first, and where to go on.
    pub(crate) fn read<M: PersistentMemory>(
        medium: &M,
        superblock: &Superblock,
    ) -> Result<(Vec<Store>, Ring), MediaError> {
        let journal = superblock.journal().bytes();
        let mut ring = Ring {
            version: superblock.version,
            magic: superblock.set_uuid,
            start: journal.start,
            buckets: (journal.end - journal.start) / BUCKET_SIZE,
            bucket: 0,
            position: 0,
            seq: 1,
            is_void: false,
        };
        let mut entries = Vec::new();
        let mut bytes = vec![0; BUCKET_SIZE as usize];
        for bucket in 0..ring.buckets {
            medium.read_bytes(ring.start + bucket * BUCKET_SIZE, &mut bytes)?;
            let mut position = 0;
            while position < BUCKET_SIZE {
                let found = Entry::decode(&bytes[position as usize..], ring.version, ring.magic);
                let Some(entry) = found else {
                    position += ENTRY_ALIGN;
                    continue;
                };
                position += Entry::size(entry.stores.len());
                if entry.seq >= ring.seq {
                    ring.seq = entry.seq + 1;
                    (ring.bucket, ring.position) = (bucket, position);
                }
                entries.push(entry);
            }
        }
        if mutant!(dax::SequenceRestarts) {
            ring.seq = 1;
        }
        if mutant!(dax::RingRestarts) {
            (ring.bucket, ring.position) = (0, 0);
        }
        Ok((pending(entries), ring))
    }

    /// Sequence number of the newest entry; 0 if there is none.
    pub(crate) fn newest<M: PersistentMemory>(
        medium: &M,
        superblock: &Superblock,
    ) -> Result<u64, MediaError> {
        let (_, ring) = Ring::read(medium, superblock)?;
        Ok(ring.seq - 1)
    }

    /// Makes sure that there are numbers for all entries to come.
    pub(crate) fn check_numbers(&self) -> Result<(), Fault> {
        let newest = self.seq - 1;
        if newest > MOST_SEQ { Err(Fault::Sequence(newest)) } else { Ok(()) }
    }

    /// Makes room for an entry of `count` stores, at most [`MOST_STORES`]: its place is zero, durably, on
    /// return. Nothing is committed yet, so a failure leaves the region as it was.
    pub(crate) fn make_room<M: PersistentMemory>(
        &mut self,
        medium: &M,
        count: usize,
    ) -> Result<(), MediaError> {
        let fits = self.position + Entry::size(count) <= BUCKET_SIZE;
        if !fits && !mutant!(dax::EntryCrossesBucket) {
            self.bucket = (self.bucket + 1) % self.buckets;
            self.position = 0;
            self.is_void = false;
        }
        if self.is_void { Ok(()) } else { self.void(medium) }
    }

    /// Makes the rest of the bucket zero, so that no entry is completed by the remains of another.
    fn void<M: PersistentMemory>(&mut self, medium: &M) -> Result<(), MediaError> {
        let place = self.place();
        // Only an entry that would be the newest one can do harm.
        if medium.load_u64(place + SEQ_AT)? >= self.seq {
            medium.store_u64(place + VERSION_AT, 0)?;
            medium.flush(place + VERSION_AT, 8)?;
            medium.fence()?;
        }
        let rest = vec![0; (BUCKET_SIZE - self.position) as usize];
        medium.write_bytes(place, &rest)?;
        medium.fence()?;
        self.is_void = true;
        Ok(())
    }

    /// Byte offset of the next entry.
    fn place(&self) -> u64 {
        self.start + self.bucket * BUCKET_SIZE + self.position
    }

    /// Commits `stores`, for which there is [room](Self::make_room): durable on return, and not yet
    /// applied. After a failure it is not known whether they are committed.
    pub(crate) fn commit<M: PersistentMemory>(
        &mut self,
        medium: &M,
        stores: &[Store],
    ) -> Result<(), MediaError> {
        let entry = Entry { seq: self.seq, last_seq: self.seq, stores: stores.to_vec() };
        medium.write_bytes(self.place(), &entry.encode(self.version, self.magic))?;
        medium.fence()?;
        self.position += Entry::size(stores.len());
        self.seq += 1;
        Ok(())
    }

    /// Where the next entry goes, by its size: behind the newest, if that does not fill its bucket, or to the
    /// next bucket. Whatever is changed, one of these places is written to.
    pub(crate) fn next_places(&self) -> impl Iterator<Item = Range<u64>> {
        let behind = self.bucket * BUCKET_SIZE + self.position;
        let next = (self.bucket + 1) % self.buckets * BUCKET_SIZE;
        let is_full = self.position >= BUCKET_SIZE;
        let behind = (!is_full).then_some(behind).into_iter();
        behind.chain([next]).map(|place| self.start + place..self.start + place + ENTRY_ALIGN)
    }

    /// Completes the newest entry, which had `pending`; durable on return. Returns how many of its
    /// stores were not on the medium yet.
    ///
    /// The process that wrote it may have been killed before a fence, or its sync may have failed: what is seen, the
    /// entry or a store, is then durable only by chance. So the entry is made durable before anything is
    /// stored, and each of its words is, whether it is there already or not.
    pub(crate) fn replay<M: PersistentMemory>(
        &self,
        medium: &M,
        pending: &[Store],
    ) -> Result<usize, MediaError> {
        if pending.is_empty() {
            return Ok(0);
        }
        let bucket = self.start + self.bucket * BUCKET_SIZE;
        make_dirty(medium, bucket..bucket + BUCKET_SIZE)?;
        medium.flush(bucket, BUCKET_SIZE)?;
        medium.fence()?;
        apply(medium, pending)
    }
}

/// The stores of the entries from the newest one's `last_seq` on, up to the first gap.
fn pending(mut entries: Vec<Entry>) -> Vec<Store> {
    entries.sort_by_key(|entry| entry.seq);
    if mutant!(dax::OldestReplayed) {
        entries.truncate(1);
    }
    let Some(newest) = entries.last() else { return Vec::new() };
    let mut next = newest.last_seq;
    let mut stores = Vec::new();
    for entry in entries {
        if entry.seq == next {
            next += 1;
            stores.extend(entry.stores);
        }
    }
    if mutant!(dax::NoReplay) { Vec::new() } else { stores }
}

/// Makes `stores`; all are durable on return. Returns how many were not on the medium yet.
///
/// Where stores need a sync, a word that is right already is stored, too: after a sync that has failed, its
/// page may be clean and not on the storage device.
pub(crate) fn apply<M: PersistentMemory>(
    medium: &M,
    stores: &[Store],
) -> Result<usize, MediaError> {
    let store_all = medium.durability() != Durability::Dax && !mutant!(dax::RightWordSkipped);
    let mut made = 0;
    for &Store { offset, value } in stores {
        let is_there = medium.load_u64(offset)? == value;
        made += usize::from(!is_there);
        if !is_there || store_all {
            medium.store_u64(offset, value)?;
        }
        medium.flush(offset, 8)?;
    }
    if !stores.is_empty() {
        medium.fence()?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests;
