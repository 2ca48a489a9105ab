//! Devices and their extents.

use uuid::Uuid;
use zerocopy::{FromZeros, IntoBytes};

use super::Fix;
use super::known;
use super::walk::{Claim, Walk, header_fault, is_text, misplaced, text_words};
use crate::dax::format::fault::Fault;
use crate::dax::format::layout::{
    CONTIGUOUS, DevicePage, DeviceSlot, ExtentPage, METADATA_PAGE_SIZE, MOST_EXTENTS,
    OWNER_TABLE_OFFSET, PageBytes, SLOT_SIZE,
};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::units::Align;
use crate::pmem::PersistentMemory;

/// Byte offset of the first link to extent pages in a slot.
const MORE_AT: u64 = 88;
/// Byte offset of the link in a page.
const LINK_AT: u64 = 40;
/// With more things wrong with it, a slot is noise.
const MOST_REPLACED: usize = 2;

impl<M: PersistentMemory> Walk<'_, M> {
    pub(super) fn devices(&mut self, mut link: u64) {
        let set = self.superblock.set_uuid;
        let mut from = OWNER_TABLE_OFFSET + LINK_AT;
        let mut page = DevicePage::new_zeroed();
        while link != 0 {
            let cut = &Fix::Drop { offset: from, length: 8 };
            let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut page);
            if !self.follow((from, link), (PageKind::Devices, set), cut, bytes) {
                return;
            }
            let slots = page.devices.iter().zip((link + 64..).step_by(SLOT_SIZE as usize));
            self.known_uuids.extend(page.devices.iter().map(|slot| Uuid::from_bytes(slot.uuid)));
            for (slot, at) in slots {
                if slot.as_bytes().iter().any(|byte| *byte != 0) {
                    self.device(*slot, at);
                }
            }
            from = link + LINK_AT;
            link = page.header.link.get();
        }
    }

    fn device(&mut self, mut slot: DeviceSlot, at: u64) {
        let fix = Fix::Drop { offset: at, length: SLOT_SIZE };
        let replaced = self.replaced(&mut slot, at);
        if replaced.len() > MOST_REPLACED || replaced.iter().any(|(_, words)| words.is_empty()) {
            let (fault, _) = &replaced[0];
            return self.found(at, fault.clone(), &fix);
        }
        for (fault, words) in replaced {
            self.found(at, fault, &Fix::Replace(words));
        }
        self.uuids.insert(Uuid::from_bytes(slot.uuid));
        self.names.insert(slot.name);
        self.report.devices += 1;
        let Some(mut extents) = self.extents(&slot, at, &fix) else { return };
        extents.truncate(slot.extents.get() as usize);
        for (first, pages) in extents {
            match misplaced(self.superblock, first, pages, slot.align_order.into()) {
                Some(fault) => self.found(at, fault, &fix),
                None => self.claims.push(Claim { first, pages, offset: at, fix: fix.clone() }),
            }
        }
    }

    /// Puts something else in the place of what is wrong with a slot, and does not say where its data are.
    /// Returns the faults, each with the words that are stored instead; none if there is nothing better.
    fn replaced(&self, slot: &mut DeviceSlot, at: u64) -> Vec<(Fault, Vec<(u64, u64)>)> {
        let mut replaced = Vec::new();
        let uuid = Uuid::from_bytes(slot.uuid);
        if uuid.is_nil() || self.uuids.contains(&uuid) {
            let fault = if uuid.is_nil() { Fault::NotEmpty } else { Fault::UuidTwice(uuid) };
            slot.uuid = self.other_uuid(slot, at).into_bytes();
            replaced.push((fault, known::words(at, &slot.uuid)));
        }
        let fault = if slot.name[0] == 0 || !is_text(&slot.name) {
            Some(Fault::Text)
        } else {
            let name = || String::from_utf8_lossy(&slot.name).trim_end_matches('\0').to_owned();
            self.names.contains(&slot.name).then(|| Fault::NameTwice(name()))
        };
        if let Some(fault) = fault {
            let words = text_words(at + 16, &format!("lost-{at:x}"));
            for (bytes, (_, word)) in slot.name.as_chunks_mut::<8>().0.iter_mut().zip(&words) {
                *bytes = word.to_le_bytes();
            }
            replaced.push((fault, words));
        }
        if !is_text(&slot.label) {
            slot.label.fill(0);
            replaced.push((Fault::Text, text_words(at + 48, "")));
        }
        if let Some(fault) = self.replace_shape(slot) {
            let is_right = shape_fault(slot).is_none();
            let words = known::words(at + 80, &slot.as_bytes()[80..88]);
            replaced.push((fault, if is_right { words } else { Vec::new() }));
        }
        replaced
    }

    /// A uuid for a device that has none of its own: that of its extent pages, or one made from its place,
    /// so that a repair which is repeated makes the same.
    fn other_uuid(&self, slot: &DeviceSlot, at: u64) -> Uuid {
        let mut page = [0; METADATA_PAGE_SIZE as usize];
        let more = slot.more.get();
        if more != 0 && super::sense::is_link(more) && self.bytes(more, &mut page).is_ok() {
            let mut owner = [0; 16];
            owner.copy_from_slice(&page[24..40]);
            let owner = Uuid::from_bytes(owner);
            let is_extent_page = header_fault(&page, PageKind::Extents, owner).is_none();
            if is_extent_page && !owner.is_nil() && !self.uuids.contains(&owner) {
                return owner;
            }
        }
        Uuid::from_u128(self.superblock.set_uuid.as_u128() ^ u128::from(at))
    }

    /// Makes count, alignment and flags of a slot agree with its extents. Returns what was wrong.
    fn replace_shape(&self, slot: &mut DeviceSlot) -> Option<Fault> {
        let fault = shape_fault(slot)?;
        if !Align::ALL.iter().any(|align| align.order() == u32::from(slot.align_order)) {
            let fits = |order| {
                let extents = slot.inline.iter().filter(|one| one.pages.get() > 0);
                let mut extents = extents.map(|one| (one.first.get(), one.pages.get()));
                extents
                    .all(|(first, pages)| misplaced(self.superblock, first, pages, order).is_none())
            };
            let default = self.superblock.align.order();
            slot.align_order = if fits(default) { default as u8 } else { 0 };
        }
        if slot.more.get() == 0 {
            slot.extents.set(inline_extents(slot));
        }
        slot.reserved = [0; 2];
        let is_contiguous = slot.flags & CONTIGUOUS != 0 && slot.extents.get() <= 1;
        slot.flags = if is_contiguous { CONTIGUOUS } else { 0 };
        Some(fault)
    }

    /// All extents of a device, and such as are not counted.
    fn extents(&mut self, slot: &DeviceSlot, at: u64, fix: &Fix) -> Option<Vec<(u64, u64)>> {
        let mut extents: Vec<(u64, u64)> =
            slot.inline.iter().map(|extent| (extent.first.get(), extent.pages.get())).collect();
        let (mut from, mut link) = (at + MORE_AT, slot.more.get());
        let mut page = ExtentPage::new_zeroed();
        let kind = (PageKind::Extents, Uuid::from_bytes(slot.uuid));
        while extents.len() < slot.extents.get() as usize {
            let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut page);
            if !self.follow((from, link), kind, fix, bytes) {
                return None;
            }
            extents.extend(page.extents.iter().map(|one| (one.first.get(), one.pages.get())));
            from = link + LINK_AT;
            link = page.header.link.get();
        }
        if link != 0 {
            // Either the link is damaged, or the number of extents is.
            let mut page = [0; METADATA_PAGE_SIZE as usize];
            let is_more = super::sense::is_link(link)
                && self.bytes(link, &mut page).is_ok()
                && header_fault(&page, kind.0, kind.1).is_none();
            let fix = if is_more { fix.clone() } else { Fix::Restore(vec![(from, 0)]) };
            self.found(from, Fault::Link(link), &fix);
            return (!is_more).then_some(extents);
        }
        Some(extents)
    }
}

/// What is wrong with count, alignment or flags of a slot, if anything.
fn shape_fault(slot: &DeviceSlot) -> Option<Fault> {
    let count = slot.extents.get();
    if !Align::ALL.iter().any(|align| align.order() == u32::from(slot.align_order)) {
        return Some(Fault::Align(slot.align_order));
    }
    let is_contiguous = slot.flags & CONTIGUOUS != 0;
    let is_inline = slot.more.get() == 0;
    let is_wrong = count as usize > MOST_EXTENTS
        || is_contiguous && count > 1
        || is_inline && count != inline_extents(slot);
    is_wrong.then_some(Fault::ExtentCount(count))
}

/// Number of extents in the slot itself: what is not in use there is zero.
fn inline_extents(slot: &DeviceSlot) -> u32 {
    let is_zero = |(first, pages): (u64, u64)| (first, pages) == (0, 0);
    let mut extents = slot.inline.iter().map(|one| (one.first.get(), one.pages.get()));
    extents.rposition(|extent| !is_zero(extent)).map_or(0, |last| last as u32 + 1)
}
