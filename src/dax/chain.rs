//! A chain of metadata pages with slots of one size: an owner's record pages, or the device pages.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::error::{Error, Space};
use super::layout::{self, BODY_AT, LINK_AT, PageKind};
use super::transaction::Transaction;

/// A chain of metadata pages.
#[derive(Debug)]
pub struct Chain {
    kind: PageKind,
    /// To whom the pages belong.
    owner: Uuid,
    /// Byte offset of the link to the first page.
    head: u64,
    /// Bytes of a slot.
    slot_size: u64,
    /// Slots of a page.
    slots: usize,
    /// Offsets of the pages, in the order of the chain.
    pages: Vec<u64>,
    /// Number of slots in use, by page.
    used: BTreeMap<u64, usize>,
    /// Offsets of free slots.
    free: BTreeSet<u64>,
}

/// A slot that a transaction fills.
#[derive(Debug, Clone, Copy)]
pub struct Filled {
    /// Byte offset of the slot.
    pub slot: u64,
    /// A page that is linked for it.
    pub page: Option<u64>,
}

impl Chain {
    /// A chain without pages, of slots of `slot_size` bytes; its first link is at `head`.
    pub fn new(kind: PageKind, owner: Uuid, head: u64, slot_size: u64, slots: usize) -> Chain {
        Chain {
            kind,
            owner,
            head,
            slot_size,
            slots,
            pages: Vec::new(),
            used: BTreeMap::new(),
            free: BTreeSet::new(),
        }
    }

    /// Appends a page that was found on the medium, with the offsets of its free slots.
    pub fn found(&mut self, page: u64, free: impl IntoIterator<Item = u64>) {
        let before = self.free.len();
        self.free.extend(free);
        self.used.insert(page, self.slots - (self.free.len() - before));
        self.pages.push(page);
    }

    /// Finds a free slot; links a page from `pool` in front of the others if there is none.
    pub fn fill(&self, pool: &BTreeSet<u64>, into: &mut Transaction) -> Result<Filled, Error> {
        if let Some(slot) = self.free.first() {
            return Ok(Filled { slot: *slot, page: None });
        }
        let page = *pool.first().ok_or(Error::NoRoomFor(Space::Metadata))?;
        let link = self.pages.first().copied().unwrap_or(0);
        into.fresh_page(page, layout::new_page(self.kind, self.owner, link));
        into.store(self.head, page);
        Ok(Filled { slot: page + BODY_AT, page: Some(page) })
    }

    /// The slot is filled.
    pub fn filled(&mut self, filled: Filled, pool: &mut BTreeSet<u64>) {
        if let Some(page) = filled.page {
            pool.remove(&page);
            self.pages.insert(0, page);
            let slots = (0..self.slots as u64).map(|slot| page + BODY_AT + slot * self.slot_size);
            self.free.extend(slots);
            self.used.insert(page, 0);
        }
        self.free.remove(&filled.slot);
        *self.used.entry(layout::page_of(filled.slot)).or_default() += 1;
    }

    /// Empties a slot; unlinks its page if it was the last one there.
    pub fn empty(&self, slot: u64, into: &mut Transaction) {
        let page = layout::page_of(slot);
        if self.used.get(&page) == Some(&1) {
            let (link, next) = self.neighbours(page);
            into.store(link, next);
        } else {
            into.store_bytes(slot, &vec![0; self.slot_size as usize]);
        }
    }

    /// The slot is empty.
    pub fn emptied(&mut self, slot: u64, pool: &mut BTreeSet<u64>) {
        let page = layout::page_of(slot);
        match self.used.get_mut(&page) {
            Some(1) => {
                self.used.remove(&page);
                self.pages.retain(|other| *other != page);
                let mut behind = self.free.split_off(&page);
                self.free.append(&mut behind.split_off(&(page + layout::METADATA_PAGE_SIZE)));
                pool.insert(page);
            }
            Some(used) => {
                *used -= 1;
                self.free.insert(slot);
            }
            None => {}
        }
    }

    /// Offset of the link that leads to `page`, and where its own leads to.
    fn neighbours(&self, page: u64) -> (u64, u64) {
        let index = self.pages.iter().position(|other| *other == page).unwrap_or(0);
        let link = index.checked_sub(1).map_or(self.head, |before| self.pages[before] + LINK_AT);
        (link, self.pages.get(index + 1).copied().unwrap_or(0))
    }
}
