//! A chain of metadata pages with slots of one size: an owner's record pages, or the device pages.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::transaction::Transaction;
use crate::dax::format::error::{Error, Space};
use crate::dax::format::layout::{self, BODY_AT, LINK_AT, RECORDS};
use crate::dax::format::page_kind::PageKind;

/// A chain of metadata pages.
#[derive(Debug)]
pub(crate) struct Chain {
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
    /// What is free in each page, by its offset.
    room: BTreeMap<u64, Room>,
    /// Offsets of the pages that have free slots.
    with_room: BTreeSet<u64>,
}

/// Which slots of a page are free. A set of their numbers would take longer to make for a new page
/// than all else that an allocation does.
#[derive(Debug)]
struct Room {
    used: usize,
    /// Bit n of word m: slot 64 m + n is free.
    free: [u64; RECORDS.div_ceil(64)],
}

impl Room {
    fn none(slots: usize) -> Room {
        Room { used: slots, free: [0; RECORDS.div_ceil(64)] }
    }

    fn all(slots: usize) -> Room {
        let mut room = Room { used: 0, ..Room::none(slots) };
        for (word, first) in room.free.iter_mut().zip((0..slots).step_by(64)) {
            *word = u64::MAX >> 64usize.saturating_sub(slots - first).min(63);
        }
        room
    }

    /// Number of the first free slot.
    fn first(&self) -> Option<u64> {
        let mut words = self.free.iter().zip((0..).step_by(64));
        words.find(|(word, _)| **word != 0).map(|(word, first)| {
            let first: u64 = first;
            first + u64::from(word.trailing_zeros())
        })
    }

    fn take(&mut self, slot: u64) {
        self.used += 1;
        self.free[slot as usize / 64] &= !(1 << (slot % 64));
    }

    fn give(&mut self, slot: u64) {
        self.used -= 1;
        self.free[slot as usize / 64] |= 1 << (slot % 64);
    }
}

/// A slot that a transaction fills.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    /// Byte offset of the slot.
    pub slot: u64,
    /// A page that is linked for it.
    pub page: Option<u64>,
}

impl Chain {
    /// A chain without pages, of slots of `slot_size` bytes; its first link is at `head`.
    pub(crate) fn new(
        kind: PageKind,
        owner: Uuid,
        head: u64,
        slot_size: u64,
        slots: usize,
    ) -> Chain {
        Chain {
            kind,
            owner,
            head,
            slot_size,
            slots,
            pages: Vec::new(),
            room: BTreeMap::new(),
            with_room: BTreeSet::new(),
        }
    }

    /// Appends a page that was found on the medium, with the offsets of its free slots.
    pub(crate) fn found(&mut self, page: u64, free: impl IntoIterator<Item = u64>) {
        let mut room = Room::none(self.slots);
        for slot in free {
            room.give(self.number(slot));
        }
        self.pages.push(page);
        self.set_room(page, room);
    }

    /// Offsets of its pages.
    pub(crate) fn pages(self) -> Vec<u64> {
        self.pages
    }

    /// Finds a free slot; links a page from `pool` in front of the others if there is none.
    pub(crate) fn fill(
        &self,
        pool: &BTreeSet<u64>,
        into: &mut Transaction,
    ) -> Result<Filled, Error> {
        let room =
            self.with_room.first().and_then(|page| Some((page, self.room.get(page)?.first()?)));
        if let Some((page, number)) = room {
            return Ok(Filled { slot: page + BODY_AT + number * self.slot_size, page: None });
        }
        let page = *pool.first().ok_or(Error::NoRoomFor(Space::Metadata))?;
        let link = self.pages.first().copied().unwrap_or(0);
        into.fresh_page(page, layout::new_page(self.kind, self.owner, link));
        into.store(self.head, page);
        Ok(Filled { slot: page + BODY_AT, page: Some(page) })
    }

    /// The slot is filled.
    pub(crate) fn filled(&mut self, filled: Filled, pool: &mut BTreeSet<u64>) {
        if let Some(page) = filled.page {
            pool.remove(&page);
            self.pages.insert(0, page);
            self.set_room(page, Room::all(self.slots));
        }
        let (page, number) = (layout::page_of(filled.slot), self.number(filled.slot));
        if let Some(mut room) = self.room.remove(&page) {
            room.take(number);
            self.set_room(page, room);
        }
    }

    fn set_room(&mut self, page: u64, room: Room) {
        if room.first().is_some() {
            self.with_room.insert(page);
        } else {
            self.with_room.remove(&page);
        }
        self.room.insert(page, room);
    }

    /// Number of a slot in its page.
    fn number(&self, slot: u64) -> u64 {
        (slot - layout::page_of(slot) - BODY_AT) / self.slot_size
    }

    /// Returns whether a page has one slot in use.
    fn is_last(&self, page: u64) -> bool {
        self.room.get(&page).is_some_and(|room| room.used == 1)
    }

    /// Empties a slot; unlinks its page if it was the last one there.
    pub(crate) fn empty(&self, slot: u64, into: &mut Transaction) {
        let page = layout::page_of(slot);
        if self.is_last(page) {
            let (link, next) = self.neighbours(page);
            into.store(link, next);
        } else {
            into.store_bytes(slot, &vec![0; self.slot_size as usize]);
        }
    }

    /// The slot is empty.
    pub(crate) fn emptied(&mut self, slot: u64, pool: &mut BTreeSet<u64>) {
        let (page, number) = (layout::page_of(slot), self.number(slot));
        if self.is_last(page) {
            self.room.remove(&page);
            self.with_room.remove(&page);
            self.pages.retain(|other| *other != page);
            pool.insert(page);
        } else if let Some(mut room) = self.room.remove(&page) {
            room.give(number);
            self.set_room(page, room);
        }
    }

    /// Offset of the link that leads to `page`, and where its own leads to.
    fn neighbours(&self, page: u64) -> (u64, u64) {
        let index = self.pages.iter().position(|other| *other == page).unwrap_or(0);
        let link = index.checked_sub(1).map_or(self.head, |before| self.pages[before] + LINK_AT);
        (link, self.pages.get(index + 1).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_slots_of_a_page_are_free_once() {
        for slots in [1, 63, 64, 65, RECORDS] {
            let mut room = Room::all(slots);
            for number in 0..slots as u64 {
                assert_eq!(room.first(), Some(number), "of {slots}");
                room.take(number);
            }
            assert_eq!((room.first(), room.used), (None, slots));
            room.give(slots as u64 - 1);
            assert_eq!((room.first(), room.used), (Some(slots as u64 - 1), slots - 1));
        }
    }
}
