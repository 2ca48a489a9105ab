//! Following the chains, around whatever is damaged.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use zerocopy::{FromZeros, IntoBytes};

use super::correct::correct;
use super::known;
use super::sense;
use super::{Finding, Fix, Report};
use crate::dax::fault::Fault;
use crate::dax::layout::{
    CONTIGUOUS, DevicePage, DeviceSlot, ExtentPage, HEAD_SIZE, Header, METADATA_OFFSET,
    METADATA_PAGE_SIZE, OWNER_TABLE_OFFSET, OwnerTable, PAGES_OFFSET, PageBytes, RecordPage,
    SLOT_SIZE, TEXT_SIZE,
};
use crate::dax::page_kind::PageKind;
use crate::dax::superblock::Superblock;
use crate::dax::units::{Align, PAGE_SIZE};
use crate::pmem::{PersistentMemory, fletcher64_without_field};

/// Most words that one finding brings back: an entry of the journal holds them and their checksum.
const MOST_RESTORED: usize = 250;

/// Who has a run of pages, and what drops it.
struct Claim {
    first: u64,
    pages: u64,
    offset: u64,
    fix: Fix,
}

struct Walk<'a, M> {
    medium: &'a M,
    superblock: &'a Superblock,
    pending: BTreeMap<u64, u64>,
    seen: BTreeSet<u64>,
    uuids: BTreeSet<Uuid>,
    /// All uuids that heads and slots have, those not yet come to among them.
    known_uuids: BTreeSet<Uuid>,
    names: BTreeSet<[u8; TEXT_SIZE]>,
    claims: Vec<Claim>,
    report: &'a mut Report,
}

/// Checks all metadata but the superblocks, with what is `pending` in place.
pub fn walk<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
    pending: BTreeMap<u64, u64>,
    report: &mut Report,
) {
    report.pending = pending.len();
    let mut walk = Walk {
        medium,
        superblock,
        pending,
        seen: BTreeSet::new(),
        uuids: BTreeSet::new(),
        known_uuids: BTreeSet::new(),
        names: BTreeSet::new(),
        claims: Vec::new(),
        report,
    };
    walk.restore_known();
    walk.owners();
    walk.overlaps();
}

impl<M: PersistentMemory> Walk<'_, M> {
    fn found(&mut self, offset: u64, fault: Fault, fix: &Fix) {
        self.report.findings.push(Finding { offset, fault, fix: fix.clone() });
    }

    /// Compares what is known of the owner table and of owner 0's records from the superblock alone with
    /// what is there, and goes on with what is known.
    fn restore_known(&mut self) {
        for (page, words) in known::pages(self.superblock) {
            let mut bytes: PageBytes = [0; METADATA_PAGE_SIZE as usize];
            if self.medium.read_bytes(page, &mut bytes).is_err() {
                continue;
            }
            for (offset, value) in self.pending.range(page..page + METADATA_PAGE_SIZE) {
                bytes[(offset - page) as usize..][..8].copy_from_slice(&value.to_le_bytes());
            }
            let differs = |(offset, value): &(u64, u64)| {
                bytes[(offset - page) as usize..][..8] != value.to_le_bytes()
            };
            let differing: Vec<(u64, u64)> = words.into_iter().filter(differs).collect();
            for words in differing.chunks(MOST_RESTORED) {
                self.pending.extend(words.iter().copied());
                self.found(words[0].0, Fault::Known, &Fix::Restore(words.to_vec()));
            }
        }
    }

    /// Reads a page that a link leads to, and corrects what is damaged in it as far as that is known.
    /// Returns whether it is one of this kind and owner.
    fn read(
        &mut self,
        at: u64,
        kind: PageKind,
        owner: Uuid,
        cut: &Fix,
        page: &mut PageBytes,
    ) -> bool {
        if let Err(error) = self.medium.read_bytes(at, page) {
            self.found(at, error.into(), cut);
            return false;
        }
        for (offset, value) in self.pending.range(at..at + METADATA_PAGE_SIZE) {
            page[(offset - at) as usize..][..8].copy_from_slice(&value.to_le_bytes());
        }
        let (found, expected) = (word(page, 0), fletcher64_without_field(page, 0));
        let fault = header_fault(page, kind, owner);
        let (words, is_sure) = self.corrections(page, kind, owner, found);
        let is_other = fault.is_some() && !is_sure && !self.is_damaged_header(page, kind, owner);
        if let (Some(fault), true) = (&fault, is_other) {
            self.found(at, fault.clone(), cut);
            return false;
        }
        if !words.is_empty() {
            for (place, value) in &words {
                page[*place as usize..][..8].copy_from_slice(&value.to_le_bytes());
            }
            let words = words.iter().map(|(place, value)| (at + place, *value)).collect();
            let fault = fault.unwrap_or(Fault::Checksum { found, expected });
            self.found(at, fault, &Fix::Restore(words));
        } else if found != expected {
            self.found(at, Fault::Checksum { found, expected }, &Fix::Checksum(at));
        }
        true
    }

    /// The words of a page that should have other values, by their places in it, and whether the page has
    /// the checksum `sum` with them.
    fn corrections(
        &self,
        page: &PageBytes,
        kind: PageKind,
        owner: Uuid,
        sum: u64,
    ) -> (Vec<(u64, u64)>, bool) {
        let is_sealed = fletcher64_without_field(page, 0) == sum;
        if is_sealed && header_fault(page, kind, owner).is_none() {
            return (Vec::new(), true);
        }
        let mut corrected = *page;
        let mut words = Vec::new();
        for (place, value) in known::header(0, kind, owner) {
            if word(page, place) != value {
                corrected[place as usize..][..8].copy_from_slice(&value.to_le_bytes());
                words.push((place, value));
            }
        }
        if fletcher64_without_field(&corrected, 0) == sum {
            return (words, true);
        }
        let makes_sense = |page: &PageBytes| sense::makes_sense(page, kind, self.superblock);
        match correct(&corrected, sum, makes_sense).filter(|_| !is_sealed) {
            Some(correction) => {
                words.push(correction);
                (words, true)
            }
            None => (words, false),
        }
    }

    /// Returns whether the header of a page, which is not that of this kind and owner, has one damaged word
    /// and is not another's.
    fn is_damaged_header(&self, page: &PageBytes, kind: PageKind, owner: Uuid) -> bool {
        let magic_and_owner = &known::header(0, kind, owner)[..4];
        let wrong = magic_and_owner.iter().filter(|(place, value)| word(page, *place) != *value);
        let mut found = [0; 16];
        found.copy_from_slice(&page[24..40]);
        let found = Uuid::from_bytes(found);
        wrong.count() <= 1 && (found == owner || !self.known_uuids.contains(&found))
    }

    /// Whether the link stored at `from` leads to a page that nothing else leads to.
    fn leads_on(&mut self, from: u64, link: u64, cut: &Fix) -> bool {
        let is_page = (METADATA_OFFSET..PAGES_OFFSET).contains(&link)
            && link.is_multiple_of(METADATA_PAGE_SIZE);
        let leads_on = is_page && self.seen.insert(link);
        if !leads_on {
            self.found(from, Fault::Link(link), cut);
        }
        leads_on
    }

    fn owners(&mut self) {
        let set = self.superblock.set_uuid;
        let mut table = OwnerTable::new_zeroed();
        let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut table);
        if !self.read(OWNER_TABLE_OFFSET, PageKind::Owners, set, &Fix::None, bytes) {
            return;
        }
        self.known_uuids.extend(table.heads.iter().map(|head| Uuid::from_bytes(head.uuid)));
        for (index, (head, at)) in table
            .heads
            .iter()
            .zip((OWNER_TABLE_OFFSET + 64..).step_by(HEAD_SIZE as usize))
            .enumerate()
        {
            let uuid = Uuid::from_bytes(head.uuid);
            let fix =
                if index == 0 { Fix::None } else { Fix::Drop { offset: at, length: HEAD_SIZE } };
            if index == 0 && uuid != set {
                self.found(at, Fault::Owner { found: uuid, expected: set }, &fix);
            } else if uuid.is_nil() {
                if head.as_bytes().iter().any(|byte| *byte != 0) {
                    self.found(at, Fault::NotEmpty, &fix);
                }
                continue;
            }
            if !self.uuids.insert(uuid) {
                self.found(at, Fault::UuidTwice(uuid), &fix);
                continue;
            }
            if !is_text(&head.label) {
                self.found(at, Fault::Text, &fix);
            }
            self.report.owners += 1;
            self.records(uuid, at + 48, head.records.get());
        }
        let journal = self.superblock.journal();
        let is_owner_0s = |claim: &Claim| {
            (claim.first, claim.pages) == (journal.first, journal.pages)
                && matches!(claim.fix, Fix::None)
        };
        if !self.claims.iter().any(is_owner_0s) {
            self.found(OWNER_TABLE_OFFSET + 64, Fault::Journal, &Fix::None);
        }
        self.devices(table.header.link.get());
    }

    fn records(&mut self, owner: Uuid, mut from: u64, mut link: u64) {
        let is_allocator = owner == self.superblock.set_uuid;
        let mut page = RecordPage::new_zeroed();
        while link != 0 {
            let cut = &Fix::Drop { offset: from, length: 8 };
            let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut page);
            if !self.leads_on(from, link, cut)
                || !self.read(link, PageKind::Records, owner, cut, bytes)
            {
                return;
            }
            for (record, at) in page.records.iter().zip((link + 64..).step_by(8)) {
                let record = record.get();
                let order = (record >> 52 & 0x3f) as u32;
                let first = record & 0xf_ffff_ffff_ffff;
                let drop = Fix::Drop { offset: at, length: 8 };
                let found = (record >> 58) as u8;
                let fault = if record == 0 {
                    continue;
                } else if found != self.superblock.namespace {
                    Some(Fault::Namespace { found, expected: self.superblock.namespace })
                } else if order > 20 {
                    Some(Fault::Order(order))
                } else {
                    misplaced(self.superblock, first, 1 << order, order)
                };
                let fix = if is_allocator { Fix::None } else { drop };
                match fault {
                    Some(fault) => self.found(at, fault, &fix),
                    None => self.claims.push(Claim { first, pages: 1 << order, offset: at, fix }),
                }
            }
            from = link + 40;
            link = page.header.link.get();
        }
    }

    fn devices(&mut self, mut link: u64) {
        let set = self.superblock.set_uuid;
        let mut from = OWNER_TABLE_OFFSET + 40;
        let mut page = DevicePage::new_zeroed();
        while link != 0 {
            let cut = &Fix::Drop { offset: from, length: 8 };
            let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut page);
            if !self.leads_on(from, link, cut)
                || !self.read(link, PageKind::Devices, set, cut, bytes)
            {
                return;
            }
            let slots = page.devices.iter().zip((link + 64..).step_by(SLOT_SIZE as usize));
            self.known_uuids.extend(page.devices.iter().map(|slot| Uuid::from_bytes(slot.uuid)));
            for (slot, at) in slots {
                if slot.uuid != [0; 16] {
                    self.device(slot, at);
                } else if slot.as_bytes().iter().any(|byte| *byte != 0) {
                    let fix = Fix::Drop { offset: at, length: SLOT_SIZE };
                    self.found(at, Fault::NotEmpty, &fix);
                }
            }
            from = link + 40;
            link = page.header.link.get();
        }
    }

    fn device(&mut self, slot: &DeviceSlot, at: u64) {
        let fix = Fix::Drop { offset: at, length: SLOT_SIZE };
        let uuid = Uuid::from_bytes(slot.uuid);
        let count = slot.extents.get();
        let align =
            Align::ALL.into_iter().find(|align| align.order() == u32::from(slot.align_order));
        let fault = if !self.uuids.insert(uuid) {
            Some(Fault::UuidTwice(uuid))
        } else if slot.name[0] == 0 || !is_text(&slot.name) || !is_text(&slot.label) {
            Some(Fault::Text)
        } else if !self.names.insert(slot.name) {
            Some(Fault::NameTwice(String::from_utf8_lossy(&slot.name).into_owned()))
        } else if align.is_none() {
            Some(Fault::Align(slot.align_order))
        } else if count > 2046 * 508 || slot.flags & CONTIGUOUS != 0 && count > 1 {
            Some(Fault::ExtentCount(count))
        } else {
            None
        };
        if let Some(fault) = fault {
            return self.found(at, fault, &fix);
        }
        self.report.devices += 1;
        let Some(mut extents) = self.extents(slot, at, &fix) else { return };
        extents.truncate(count as usize);
        for (first, pages) in extents {
            match misplaced(self.superblock, first, pages, slot.align_order.into()) {
                Some(fault) => self.found(at, fault, &fix),
                None => self.claims.push(Claim { first, pages, offset: at, fix: fix.clone() }),
            }
        }
    }

    /// All extents of a device, and such as are not counted.
    fn extents(&mut self, slot: &DeviceSlot, at: u64, fix: &Fix) -> Option<Vec<(u64, u64)>> {
        let mut extents: Vec<(u64, u64)> =
            slot.inline.iter().map(|extent| (extent.first.get(), extent.pages.get())).collect();
        let mut link = slot.more.get();
        let mut page = ExtentPage::new_zeroed();
        while extents.len() < slot.extents.get() as usize {
            let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut page);
            let uuid = Uuid::from_bytes(slot.uuid);
            if !self.leads_on(at, link, fix)
                || !self.read(link, PageKind::Extents, uuid, fix, bytes)
            {
                return None;
            }
            extents.extend(page.extents.iter().map(|one| (one.first.get(), one.pages.get())));
            let Header { link: next, .. } = &page.header;
            link = next.get();
        }
        if link != 0 {
            self.found(at, Fault::Link(link), &fix);
            return None;
        }
        Some(extents)
    }

    /// No page belongs to two.
    fn overlaps(&mut self) {
        let mut claims = std::mem::take(&mut self.claims);
        claims.sort_by_key(|claim| claim.first);
        // The claim that reaches furthest so far.
        let mut furthest: Option<&Claim> = None;
        for claim in &claims {
            match furthest {
                Some(before) if before.first + before.pages > claim.first => {
                    // Owner 0's pages are never dropped. What is, is in nobody's way.
                    let (other, kept) =
                        if claim.fix == Fix::None { (before, claim) } else { (claim, before) };
                    self.found(other.offset, Fault::Overlap { page: claim.first }, &other.fix);
                    furthest = Some(kept);
                }
                _ => {
                    self.report.used_pages += claim.pages;
                    furthest = Some(claim);
                }
            }
        }
        self.report.free_pages = self.superblock.page_count.saturating_sub(self.report.used_pages);
    }
}

/// What is wrong with the place of a run of pages, if anything.
pub(super) fn misplaced(
    superblock: &Superblock,
    first: u64,
    pages: u64,
    align_order: u32,
) -> Option<Fault> {
    let end = PAGES_OFFSET / PAGE_SIZE + superblock.page_count;
    let inside = first >= PAGES_OFFSET / PAGE_SIZE && first <= end && pages <= end - first;
    let aligned = (first | pages) & ((1 << align_order) - 1) == 0;
    let is_right = inside && aligned && pages > 0;
    (!is_right).then_some(Fault::Extent { first, pages, align_order, end })
}

/// The word at a place in a page.
fn word(page: &PageBytes, place: u64) -> u64 {
    let bytes = page[place as usize..].first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(bytes)
}

/// What is wrong with magic and owner of a page, if anything.
fn header_fault(page: &PageBytes, kind: PageKind, owner: Uuid) -> Option<Fault> {
    if page[8..24] != kind.magic() {
        return Some(Fault::Magic(kind));
    }
    let mut found = [0; 16];
    found.copy_from_slice(&page[24..40]);
    let found = Uuid::from_bytes(found);
    (found != owner).then_some(Fault::Owner { found, expected: owner })
}

pub(super) fn is_text(bytes: &[u8; TEXT_SIZE]) -> bool {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let rest_is_zero = bytes[text.len()..].iter().all(|byte| *byte == 0);
    rest_is_zero && std::str::from_utf8(text).is_ok_and(|text| !text.chars().any(char::is_control))
}
