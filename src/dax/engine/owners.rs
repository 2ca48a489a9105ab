//! Pages for owners: an application that finds its pages again, by its uuid, after a power failure.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::chain::Chain;
use super::region::Region;
use super::state::{Block, Owner, State, is_text};
use super::transaction::Transaction;
use crate::dax::format::error::{Error, Space};
use crate::dax::format::layout::{self, HEAD_RECORDS_AT, HEAD_SIZE, RECORDS};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::units::MOST_ORDER;
use crate::dax::format::units::{Extent, PAGE_SIZE};
use crate::pmem::PersistentMemory;

/// An owner, and how much it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// What it calls itself.
    pub label: String,
    /// Number of its blocks.
    pub blocks: usize,
    /// Bytes of its blocks.
    pub size: u64,
    /// True if it is owner 0, the allocator itself.
    pub is_allocator: bool,
}

/// A block of pages with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnedBlock {
    /// Byte offset of its first page in the namespace.
    pub offset: u64,
    /// It has 2^`order` pages.
    pub order: u32,
}

impl<M: PersistentMemory> Region<M> {
    /// Allocates 2^`order` pages, 0 to 20, aligned to their number, for `owner`; returns their byte
    /// offset. They are zero. A new owner gets `label`; that of one with pages stays.
    ///
    /// # Errors
    ///
    /// [`Error::BadOrder`], [`Error::BadLabel`]; [`Error::UuidInUse`] if the uuid is nil, the
    /// region's or a device's; [`Error::NoSpace`], [`Error::NoRoomFor`]; the medium's.
    pub fn allocate(&self, owner: Uuid, label: &str, order: u32) -> Result<u64, Error> {
        if order > MOST_ORDER {
            return Err(Error::BadOrder(order));
        }
        if !is_text(label) {
            return Err(Error::BadLabel(label.to_owned()));
        }
        let layout = self.begin_change()?;
        let state = self.look();
        if owner.is_nil() || owner == self.superblock.set_uuid || state.names.contains_key(&owner) {
            return Err(Error::UuidInUse(owner));
        }
        let Some(first) = state.buddy.best(order) else {
            return Err(no_space(&state, 1 << order, order));
        };
        let block = Extent { first, pages: 1 << order };
        let mut change = Transaction::default();
        let (head, new) = head_for(&state, owner, label, &mut change)?;
        let records = match (&new, &state.owners[head]) {
            (Some(new), _) => &new.records,
            (None, Some(owner)) => &owner.records,
            (None, None) => return Err(Error::NoRoomFor(Space::Owners)),
        };
        let filled = records.fill(&state.pool, &mut change)?;
        let record = layout::encode_record(first, order, self.superblock.namespace);
        change.store(filled.slot, record);
        drop(state);
        self.zero_for_new_owner(&[block])?;
        let state = &mut *layout.state_mut();
        self.commit(state, change)?;
        let taken = state.buddy.take(block);
        debug_assert!(taken, "the block was free");
        if new.is_some() {
            state.owners[head] = new;
        }
        if let Some(owner) = &mut state.owners[head] {
            owner.records.filled(filled, &mut state.pool);
            owner.blocks.insert(first, Block { order, record: filled.slot });
        }
        Ok(first * PAGE_SIZE)
    }

    /// Frees the block of 2^`order` pages at `offset`, which `owner` has. The owner is forgotten with
    /// its last block.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownOwner`]; [`Error::AlreadyFree`] if the page has no owner; [`Error::NotYours`] if
    /// it has another owner; [`Error::NoBlock`] if it lies inside one; [`Error::WrongOrder`]; the
    /// medium's.
    pub fn free(&self, owner: Uuid, offset: u64, order: u32) -> Result<(), Error> {
        let layout = self.begin_change()?;
        let mut guard = layout.state_mut();
        let state = &mut *guard;
        let (head, found) = match state.owner(owner) {
            Some((head, found)) if head > 0 => (head, found),
            _ => return Err(Error::UnknownOwner(owner)),
        };
        let first = offset / PAGE_SIZE;
        let Some(block) =
            found.blocks.get(&first).copied().filter(|_| offset.is_multiple_of(PAGE_SIZE))
        else {
            return Err(self.why_not(state, owner, offset));
        };
        if block.order != order {
            return Err(Error::WrongOrder { offset, order: block.order, asked: order });
        }
        let is_last = found.blocks.len() == 1;
        let extent = Extent { first, pages: 1 << order };
        let mut change = Transaction::default();
        if is_last {
            // Its one record page is no longer reached.
            change.store_bytes(layout::head_offset(head), &[0; HEAD_SIZE as usize]);
        } else {
            found.records.empty(block.record, &mut change);
        }
        self.commit_freed(state, change, &[extent])?;

        if let Some(owner) = &mut state.owners[head] {
            owner.records.emptied(block.record, &mut state.pool);
            owner.blocks.remove(&first);
        }
        if is_last {
            state.owners[head] = None;
        }
        drop(guard);
        self.give_back(&[extent]);
        Ok(())
    }

    /// Frees all that `owner` has, and forgets it: what an application left that is gone. Returns its
    /// blocks, by offset.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownOwner`], also for owner 0 and for devices; the medium's.
    pub fn free_all(&self, owner: Uuid) -> Result<Vec<OwnedBlock>, Error> {
        let layout = self.begin_change()?;
        let mut guard = layout.state_mut();
        let state = &mut *guard;
        let Some((head, found)) = state.owner(owner).filter(|(head, _)| *head > 0) else {
            return Err(Error::UnknownOwner(owner));
        };
        let blocks: Vec<OwnedBlock> = found.all_blocks().collect();
        let extents: Vec<Extent> = found.extents().collect();
        let mut change = Transaction::default();
        // Its record pages are no longer reached.
        change.store_bytes(layout::head_offset(head), &[0; HEAD_SIZE as usize]);
        self.commit_freed(state, change, &extents)?;
        if let Some(owner) = state.owners[head].take() {
            state.pool.extend(owner.records.pages());
        }
        drop(guard);
        self.give_back(&extents);
        Ok(blocks)
    }

    /// The blocks of `owner`, by offset; those of a device are its extents, see
    /// [`device`](Self::device).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownOwner`]: it has none.
    pub fn pages_of(&self, owner: Uuid) -> Result<Vec<OwnedBlock>, Error> {
        let state = self.look();
        let (_, owner) = state.owner(owner).ok_or(Error::UnknownOwner(owner))?;
        Ok(owner.all_blocks().collect())
    }

    /// All owners, owner 0 first.
    #[must_use]
    pub fn owners(&self) -> Vec<OwnerInfo> {
        let state = self.look();
        let heads = state.owners.iter().enumerate();
        let owners = heads.filter_map(|(head, owner)| Some((head, owner.as_ref()?)));
        owners
            .map(|(head, owner)| OwnerInfo {
                uuid: owner.uuid,
                label: owner.label.clone(),
                blocks: owner.blocks.len(),
                size: owner.blocks.values().map(|block| PAGE_SIZE << block.order).sum(),
                is_allocator: head == 0,
            })
            .collect()
    }

    /// Why `owner` cannot free what is at `offset`.
    fn why_not(&self, state: &State, owner: Uuid, offset: u64) -> Error {
        let page = offset / PAGE_SIZE;
        let outside = page < layout::PAGES_OFFSET / PAGE_SIZE || page >= self.superblock.end();
        if outside || !offset.is_multiple_of(PAGE_SIZE) {
            return Error::NoBlock { offset };
        }
        if state.buddy.run(page, 1) > 0 {
            return Error::AlreadyFree { offset };
        }
        let holds = |extent: &Extent| (extent.first..extent.end()).contains(&page);
        let is_owner = |owner: &&Owner| {
            owner.blocks.range(..=page).next_back().is_some_and(|(first, block)| {
                holds(&Extent { first: *first, pages: 1 << block.order })
            })
        };
        let owners = state.owners.iter().flatten().find(is_owner).map(|owner| owner.uuid);
        let devices = || {
            let mut devices = state.devices.values();
            devices.find(|device| device.extents.iter().any(holds)).map(|device| device.uuid)
        };
        match owners.or_else(devices) {
            Some(other) if other != owner => Error::NotYours { offset, owner: other },
            _ => Error::NoBlock { offset },
        }
    }
}

impl Owner {
    /// Its blocks, by offset.
    fn all_blocks(&self) -> impl Iterator<Item = OwnedBlock> {
        let blocks = self.blocks.iter();
        blocks.map(|(first, block)| OwnedBlock { offset: first * PAGE_SIZE, order: block.order })
    }

    /// The pages of its blocks.
    fn extents(&self) -> impl Iterator<Item = Extent> {
        let blocks = self.blocks.iter();
        blocks.map(|(first, block)| Extent { first: *first, pages: 1 << block.order })
    }
}

/// The head of `uuid`: its own, or a free one, which `change` fills.
fn head_for(
    state: &State,
    uuid: Uuid,
    label: &str,
    change: &mut Transaction,
) -> Result<(usize, Option<Owner>), Error> {
    if let Some((head, _)) = state.owner(uuid) {
        return Ok((head, None));
    }
    let free = state.owners.iter().position(Option::is_none);
    let head = free.ok_or(Error::NoRoomFor(Space::Owners))?;
    let offset = layout::head_offset(head);
    change.store_bytes(offset, uuid.as_bytes());
    change.store_bytes(offset + 16, &layout::encode_text(label));
    let link = offset + HEAD_RECORDS_AT;
    let records = Chain::new(PageKind::Records, uuid, link, 8, RECORDS);
    let owner = Owner { uuid, label: label.to_owned(), records, blocks: BTreeMap::new() };
    Ok((head, Some(owner)))
}

/// The error for `needed` pages that there are not, at an alignment of 2^`order` pages.
pub(super) fn no_space(state: &State, needed: u64, order: u32) -> Error {
    let runs = state.buddy.runs(order);
    Error::NoSpace {
        needed: needed * PAGE_SIZE,
        available: state.buddy.available(order) * PAGE_SIZE,
        largest: runs.iter().map(|run| run.pages).max().unwrap_or(0) * PAGE_SIZE,
    }
}
