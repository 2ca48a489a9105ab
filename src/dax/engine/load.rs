//! Reading a region: all metadata, every page verified before its fields are used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::buddy::Buddy;
use super::chain::Chain;
use super::state::{Block, Device, Owner, State, extent_pages};
use crate::dax::format::error::Error;
use crate::dax::format::fault::Fault;
use crate::dax::format::layout::{
    self, BODY_AT, CONTIGUOUS, DEVICES, DevicePage, DeviceSlot, EXTENTS, ExtentPage,
    HEAD_RECORDS_AT, INLINE_EXTENTS, LINK_AT, METADATA_OFFSET, METADATA_PAGE_SIZE, MOST_EXTENTS,
    OWNER_TABLE_OFFSET, OWNERS, OwnerTable, PAGES_OFFSET, PageBytes, RECORDS, RecordPage,
    SLOT_SIZE,
};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::{Align, Extent, PAGE_SIZE};
use crate::dax::journal::ring::{Ring, Store};
use crate::pmem::PersistentMemory;

/// Replays the journal and reads everything; a region that is open for reading only is replayed in
/// DRAM.
pub(super) fn load<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
    read_only: bool,
) -> Result<State, Error> {
    let (mut pending, ring) = Ring::read(medium, superblock)?;
    if !read_only {
        Superblock::persist(medium)?;
        let offset = superblock.journal().bytes().start;
        ring.check_numbers().map_err(|fault| Error::Damaged { offset, fault })?;
        let replayed = ring.replay(medium, &pending)?;
        if replayed > 0 {
            log::info!("replayed {replayed} stores of a change that was cut off");
        }
        pending = Vec::new();
    }
    let pool = (METADATA_OFFSET..PAGES_OFFSET).step_by(METADATA_PAGE_SIZE as usize).collect();
    let pending = pending.iter().map(|Store { offset, value }| (*offset, *value)).collect();
    let mut loader = Loader { medium, superblock, pending, pool, used: Vec::new() };
    let (owners, first_device_page) = loader.owners()?;
    let slots = Chain::new(
        PageKind::Devices,
        superblock.set_uuid,
        OWNER_TABLE_OFFSET + LINK_AT,
        SLOT_SIZE,
        DEVICES,
    );
    let mut state = State {
        ring,
        buddy: Buddy::empty(),
        pool: BTreeSet::new(),
        owners,
        slots,
        devices: BTreeMap::new(),
        names: HashMap::new(),
        failed: false,
    };
    loader.devices(first_device_page, &mut state)?;
    let Loader { pool, used, .. } = loader;
    state.pool = pool;
    state.buddy = free_pages(superblock, used)?;
    Ok(state)
}

/// The pages that no owner and no device has. `used`: those that one has, each with the byte offset of what says
/// so.
fn free_pages(superblock: &Superblock, mut used: Vec<(Extent, u64)>) -> Result<Buddy, Error> {
    used.sort_unstable_by_key(|(extent, _)| *extent);
    let extents: Vec<Extent> = used.iter().map(|(extent, _)| *extent).collect();
    Buddy::new(PAGES_OFFSET / PAGE_SIZE, superblock.bounds(), &extents).map_err(|page| {
        // The later one of the two in the order of their addresses.
        let found = used.partition_point(|(extent, _)| extent.first < page);
        let offset = used.get(found).map_or(0, |(_, offset)| *offset);
        Error::Damaged { offset, fault: Fault::Overlap { page } }
    })
}

struct Loader<'a, M> {
    medium: &'a M,
    superblock: &'a Superblock,
    /// What the journal has, and the medium not yet.
    pending: BTreeMap<u64, u64>,
    /// Metadata pages that no chain has reached yet.
    pool: BTreeSet<u64>,
    /// Extents in use, and where that is said.
    used: Vec<(Extent, u64)>,
}

impl<M: PersistentMemory> Loader<'_, M> {
    /// Reads and verifies a metadata page; returns its link.
    fn page(
        &self,
        offset: u64,
        kind: PageKind,
        owner: Uuid,
        into: &mut PageBytes,
    ) -> Result<u64, Error> {
        let damaged = |fault| Error::Damaged { offset, fault };
        self.medium.read_bytes(offset, into).map_err(|error| damaged(error.into()))?;
        for (at, value) in self.pending.range(offset..offset + METADATA_PAGE_SIZE) {
            let at = (at - offset) as usize;
            into[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        layout::verify(into, kind, owner).map_err(damaged)
    }

    /// Takes the page that the link at `from` leads to out of the pool: no two links lead to a page,
    /// so no chain is a ring.
    fn follow(&mut self, from: u64, link: u64) -> Result<u64, Error> {
        if self.pool.remove(&link) {
            Ok(link)
        } else {
            Err(Error::Damaged { offset: from, fault: Fault::Link(link) })
        }
    }

    /// The heads, and the first device page.
    fn owners(&mut self) -> Result<(Vec<Option<Owner>>, u64), Error> {
        let set = self.superblock.set_uuid;
        let mut table = OwnerTable::new_zeroed();
        let bytes = zerocopy::transmute_mut!(&mut table);
        let first_device_page = self.page(OWNER_TABLE_OFFSET, PageKind::Owners, set, bytes)?;
        let mut owners: Vec<Option<Owner>> = Vec::with_capacity(OWNERS);
        for (index, head) in table.heads.iter().enumerate() {
            let uuid = Uuid::from_bytes(head.uuid);
            let offset = layout::head_offset(index);
            if uuid.is_nil() && index > 0 {
                check_empty(head, offset)?;
                owners.push(None);
                continue;
            }
            let damaged = |fault| Error::Damaged { offset, fault };
            if index == 0 && uuid != set {
                return Err(damaged(Fault::Owner { found: uuid, expected: set }));
            }
            if owners.iter().flatten().any(|other| other.uuid == uuid) {
                return Err(damaged(Fault::UuidTwice(uuid)));
            }
            let label = layout::decode_text(&head.label).map_err(damaged)?;
            let owner = self.owner(uuid, label, offset + HEAD_RECORDS_AT, head.records.get())?;
            owners.push(Some(owner));
        }
        let journal = self.superblock.journal();
        let recorded = owners[0].as_ref().and_then(|owner| owner.blocks.get(&journal.first));
        if recorded.is_none_or(|block| block.order != self.superblock.journal_order) {
            let offset = layout::head_offset(0);
            return Err(Error::Damaged { offset, fault: Fault::Journal });
        }
        Ok((owners, first_device_page))
    }

    fn owner(&mut self, uuid: Uuid, label: String, head: u64, first: u64) -> Result<Owner, Error> {
        let mut records = Chain::new(PageKind::Records, uuid, head, 8, RECORDS);
        let mut blocks = BTreeMap::new();
        let (mut from, mut link) = (head, first);
        let mut page = RecordPage::new_zeroed();
        while link != 0 {
            let offset = self.follow(from, link)?;
            let bytes = zerocopy::transmute_mut!(&mut page);
            link = self.page(offset, PageKind::Records, uuid, bytes)?;
            from = offset + LINK_AT;
            let mut free = Vec::new();
            for (record, at) in page.records.iter().zip((offset + BODY_AT..).step_by(8)) {
                if record.get() == 0 {
                    free.push(at);
                    continue;
                }
                let (namespace, bounds) = (self.superblock.namespace, self.superblock.bounds());
                let (first, order) = layout::decode_record(record.get(), namespace, bounds)
                    .map_err(|fault| Error::Damaged { offset: at, fault })?;
                blocks.insert(first, Block { order, record: at });
                self.used.push((Extent { first, pages: 1 << order }, at));
            }
            records.found(offset, free);
        }
        Ok(Owner { uuid, label, records, blocks })
    }

    fn devices(&mut self, first: u64, state: &mut State) -> Result<(), Error> {
        let (mut from, mut link) = (OWNER_TABLE_OFFSET + LINK_AT, first);
        let mut page = DevicePage::new_zeroed();
        while link != 0 {
            let offset = self.follow(from, link)?;
            let bytes = zerocopy::transmute_mut!(&mut page);
            link = self.page(offset, PageKind::Devices, self.superblock.set_uuid, bytes)?;
            from = offset + LINK_AT;
            let mut free = Vec::new();
            for (index, slot) in page.devices.iter().enumerate() {
                let at = layout::slot_offset(offset, index);
                if slot.uuid == [0; 16] {
                    check_empty(slot, at)?;
                    free.push(at);
                    continue;
                }
                let (name, device) = self.device(at, slot)?;
                let damaged = |fault| Err(Error::Damaged { offset: at, fault });
                if state.is_in_use(device.uuid) {
                    return damaged(Fault::UuidTwice(device.uuid));
                }
                if state.devices.contains_key(&name) {
                    return damaged(Fault::NameTwice(name));
                }
                state.names.insert(device.uuid, name.clone());
                state.devices.insert(name, device);
            }
            state.slots.found(offset, free);
        }
        Ok(())
    }

    fn device(&mut self, at: u64, slot: &DeviceSlot) -> Result<(String, Device), Error> {
        let damaged = |fault| Error::Damaged { offset: at, fault };
        let align = Align::of_order(slot.align_order)
            .ok_or_else(|| damaged(Fault::Align(slot.align_order)))?;
        let contiguous = slot.flags & CONTIGUOUS != 0;
        let most = if contiguous { 1 } else { MOST_EXTENTS };
        let count = slot.extents.get();
        if count as usize > most {
            return Err(damaged(Fault::ExtentCount(count)));
        }
        let mut device = Device {
            slot: at,
            uuid: Uuid::from_bytes(slot.uuid),
            label: layout::decode_text(&slot.label).map_err(damaged)?,
            align,
            contiguous,
            extents: Vec::new(),
            chain: Vec::new(),
            holders: Arc::default(),
        };
        let inline = slot.inline.iter().take(count as usize);
        device.extents.extend(inline.map(|extent| Extent::from(*extent)));
        self.extent_pages(at, slot.more.get(), count as usize, &mut device)?;
        for extent in &device.extents {
            layout::check_extent(*extent, align.order(), self.superblock.bounds())
                .map_err(damaged)?;
            self.used.push((*extent, at));
        }
        let name = layout::decode_text(&slot.name).map_err(damaged)?;
        if name.is_empty() {
            return Err(damaged(Fault::Text));
        }
        Ok((name, device))
    }

    fn extent_pages(
        &mut self,
        slot: u64,
        first: u64,
        count: usize,
        device: &mut Device,
    ) -> Result<(), Error> {
        let (mut from, mut link) = (slot, first);
        let mut rest = count.saturating_sub(INLINE_EXTENTS);
        let mut page = ExtentPage::new_zeroed();
        for _ in 0..extent_pages(count) {
            let offset = self.follow(from, link)?;
            let bytes = zerocopy::transmute_mut!(&mut page);
            link = self.page(offset, PageKind::Extents, device.uuid, bytes)?;
            from = offset + LINK_AT;
            let here = rest.min(EXTENTS);
            device.extents.extend(page.extents[..here].iter().map(|extent| Extent::from(*extent)));
            device.chain.push(offset);
            rest -= here;
        }
        if link != 0 {
            return Err(Error::Damaged { offset: from, fault: Fault::Link(link) });
        }
        Ok(())
    }
}

/// A head or slot without a uuid is free, and all of it is zero then: otherwise it is the uuid that is
/// damaged, and what it named would be given to another owner.
fn check_empty<T: IntoBytes + Immutable>(structure: &T, offset: u64) -> Result<(), Error> {
    if structure.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(Error::Damaged { offset, fault: Fault::NotEmpty })
}
