//! A transaction: the stores to metadata that belong together.

use std::collections::BTreeMap;

use crate::dax::format::error::Error;
use crate::dax::format::layout::{self, METADATA_PAGE_SIZE, PageBytes};
use crate::dax::journal::ring::{self, MOST_STORES, Ring, Store};
use crate::pmem::{MediaError, PersistentMemory};

/// Stores and new pages that become visible at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transaction {
    stores: BTreeMap<u64, u64>,
    fresh: BTreeMap<u64, Box<PageBytes>>,
}

impl Transaction {
    /// Stores eight bytes at `offset`; into a new page of this transaction, if it is in one.
    pub(crate) fn store(&mut self, offset: u64, value: u64) {
        match self.fresh.get_mut(&layout::page_of(offset)) {
            Some(page) => {
                let at = (offset % METADATA_PAGE_SIZE) as usize;
                page[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            None => drop(self.stores.insert(offset, value)),
        }
    }

    /// Stores bytes, a multiple of eight, at `offset`.
    pub(crate) fn store_bytes(&mut self, offset: u64, bytes: &[u8]) {
        for (word, offset) in bytes.as_chunks::<8>().0.iter().zip((offset..).step_by(8)) {
            self.store(offset, u64::from_le_bytes(*word));
        }
    }

    /// Fills a metadata page at `offset` that no chain reaches. It is written, and durable, before
    /// the stores that link it.
    pub(crate) fn fresh_page(&mut self, offset: u64, bytes: Box<PageBytes>) {
        self.fresh.insert(offset, bytes);
    }

    /// Makes everything ready but for the journal entry: new pages are durable, and there is room in the
    /// journal. Whatever fails until then, a full file system for instance, the region is as it was.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyStores`], and nothing has been written; the medium's.
    pub(crate) fn prepare<M: PersistentMemory>(
        self,
        medium: &M,
        ring: &mut Ring,
    ) -> Result<Prepared, Error> {
        let stores = self.sealed(medium)?;
        if stores.len() > MOST_STORES {
            return Err(Error::TooManyStores { stores: stores.len(), most: MOST_STORES });
        }
        self.write_fresh_pages(medium)?;
        ring.make_room(medium, stores.len())?;
        Ok(Prepared { stores })
    }

    /// What changes, the checksums of the pages among it.
    fn sealed<M: PersistentMemory>(&self, medium: &M) -> Result<Vec<Store>, MediaError> {
        let mut changes = Vec::new();
        let mut page: PageBytes = [0; METADATA_PAGE_SIZE as usize];
        let mut stores = self.stores.iter().peekable();
        while let Some((first, _)) = stores.peek() {
            let start = layout::page_of(**first);
            medium.read_bytes(start, &mut page)?;
            while let Some((&offset, &value)) =
                stores.next_if(|(offset, _)| layout::page_of(**offset) == start)
            {
                let at = (offset - start) as usize;
                if page[at..at + 8] != value.to_le_bytes() {
                    page[at..at + 8].copy_from_slice(&value.to_le_bytes());
                    changes.push(Store { offset, value });
                }
            }
            let is_changed = changes.last().is_some_and(|store| store.offset >= start);
            if is_changed && !mutant!(dax::ChecksumForgotten) {
                changes.push(Store { offset: start, value: layout::checksum(&page) });
            }
        }
        Ok(changes)
    }

    fn write_fresh_pages<M: PersistentMemory>(&self, medium: &M) -> Result<(), MediaError> {
        for (offset, page) in &self.fresh {
            let mut page = page.clone();
            let checksum = layout::checksum(&page);
            page[..8].copy_from_slice(&checksum.to_le_bytes());
            medium.write_bytes(*offset, &page[..])?;
        }
        if !self.fresh.is_empty() {
            medium.fence()?;
        }
        Ok(())
    }
}

/// A transaction that only has to be committed.
#[derive(Debug)]
pub(crate) struct Prepared {
    stores: Vec<Store>,
}

impl Prepared {
    /// Makes it happen. A failure of the medium leaves it unknown whether it did: the region must be
    /// opened again before it is used.
    pub(crate) fn commit<M: PersistentMemory>(
        self,
        medium: &M,
        ring: &mut Ring,
    ) -> Result<(), MediaError> {
        ring.commit(medium, &self.stores)?;
        ring::apply(medium, &self.stores).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dax::format::features::Features;
    use crate::dax::format::layout::{METADATA_OFFSET, OWNER_TABLE_OFFSET, PAGES_OFFSET};
    use crate::dax::format::superblock::Superblock;
    use crate::dax::format::units::{Align, PAGE_SIZE};
    use crate::dax::format::version::Version;
    use crate::pmem::simulated::{Event, Recorder, Simulated};
    use uuid::Uuid;

    fn ring(medium: &impl PersistentMemory) -> Ring {
        let superblock = Superblock {
            version: Version::Two,
            set_uuid: Uuid::from_u128(7),
            namespace: 0,
            namespaces: 1,
            align: Align::Page,
            page_count: 8,
            journal_first: 4096,
            journal_order: 1,
            features: Features::default(),
            align_base: 0,
        };
        Ring::read(medium, &superblock).unwrap().1
    }

    fn recorder() -> Recorder {
        Recorder::new(Simulated::new(PAGES_OFFSET + 8 * PAGE_SIZE))
    }

    fn commit(transaction: Transaction, medium: &Recorder) {
        let ring = &mut ring(medium);
        transaction.prepare(medium, ring).unwrap().commit(medium, ring).unwrap();
    }

    #[test]
    fn an_entry_larger_than_a_bucket_is_refused_before_anything_changes() {
        let medium = recorder();
        let mut ring = ring(&medium);
        let before = ring.clone();
        let mut transaction = Transaction::default();
        transaction.fresh_page(METADATA_OFFSET, Box::new([1; METADATA_PAGE_SIZE as usize]));
        // 252 stores and a checksum.
        for word in 1..=252 {
            transaction.store(OWNER_TABLE_OFFSET + word * 8, word);
        }
        let refused = transaction.prepare(&medium, &mut ring).map(drop);
        assert_eq!(refused, Err(Error::TooManyStores { stores: 253, most: 252 }));
        assert_eq!(medium.take_trace().len(), 0);
        assert_eq!(ring, before);
    }

    #[test]
    fn a_record_is_one_aligned_8_byte_store() {
        let medium = recorder();
        let mut transaction = Transaction::default();
        transaction.store(METADATA_OFFSET + 64, 5);
        commit(transaction, &medium);
        let trace = medium.take_trace();
        let stores = trace.iter().filter_map(|event| match event {
            Event::Store { offset, bytes } => Some((*offset, bytes.len())),
            _ => None,
        });
        let stores: Vec<(u64, usize)> = stores.collect();
        assert_eq!(stores, [(METADATA_OFFSET + 64, 8), (METADATA_OFFSET, 8)]);
    }

    #[test]
    fn the_pages_of_a_chain_are_linked_only_when_complete() {
        let medium = recorder();
        let mut transaction = Transaction::default();
        transaction.fresh_page(METADATA_OFFSET, Box::new([1; METADATA_PAGE_SIZE as usize]));
        transaction.store(OWNER_TABLE_OFFSET + 40, METADATA_OFFSET);
        transaction.store(METADATA_OFFSET + 64, 5);
        commit(transaction, &medium);
        let kinds: String = medium
            .take_trace()
            .iter()
            .map(|event| match event {
                Event::Stream { offset: METADATA_OFFSET, .. } => 'P',
                Event::Stream { .. } => 'J',
                Event::Store { .. } => 's',
                Event::Flush { .. } => 'f',
                Event::Fence { .. } => '|',
                _ => '?',
            })
            .collect();
        // The journal: its place is made zero, then the entry is written.
        assert_eq!(kinds, "P|J|J|sfsf|");
    }
}
