//! Following the chains, around whatever is damaged.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use zerocopy::{FromZeros, IntoBytes};

use super::correct::correct;
use super::known;
use super::sense;
use super::{Finding, Fix, Report};
use crate::dax::format::fault::Fault;
use crate::dax::format::layout::{
    HEAD_SIZE, METADATA_PAGE_SIZE, OWNER_TABLE_OFFSET, OwnerTable, PAGES_OFFSET, PageBytes,
    RecordPage, TEXT_SIZE,
};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::PAGE_SIZE;
use crate::pmem::{PersistentMemory, fletcher64_without_field};

/// Most words that one finding brings back: an entry of the journal holds them and their checksum.
const MOST_RESTORED: usize = 250;

/// The owner of a run of pages, and what drops it.
pub(super) struct Claim {
    pub first: u64,
    pub pages: u64,
    pub offset: u64,
    pub fix: Fix,
}

/// A link that does not lead to what it should lead to.
pub(super) struct Broken {
    /// Byte offset of the link.
    pub from: u64,
    /// Where the fault was found.
    pub at: u64,
    pub fault: Fault,
    /// What it should lead to.
    pub kind: PageKind,
    pub owner: Uuid,
    /// What is done if there is no such page.
    pub cut: Fix,
}

pub(super) struct Walk<'a, M> {
    medium: &'a M,
    pub superblock: &'a Superblock,
    pending: BTreeMap<u64, u64>,
    /// Pages that a link leads to.
    pub seen: BTreeSet<u64>,
    pub uuids: BTreeSet<Uuid>,
    /// All uuids that heads and slots have, those not yet come to among them.
    pub known_uuids: BTreeSet<Uuid>,
    pub names: BTreeSet<[u8; TEXT_SIZE]>,
    pub claims: Vec<Claim>,
    pub broken: Vec<Broken>,
    pub report: &'a mut Report,
}

/// Checks all metadata but the superblocks, with what is `pending` in place.
pub(super) fn walk<M: PersistentMemory>(
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
        broken: Vec::new(),
        report,
    };
    walk.restore_known();
    walk.owners();
    walk.relink();
    walk.overlaps();
}

impl<M: PersistentMemory> Walk<'_, M> {
    pub(super) fn found(&mut self, offset: u64, fault: Fault, fix: &Fix) {
        self.report.findings.push(Finding { offset, fault, fix: fix.clone() });
    }

    /// Compares what is known of the owner table and of owner 0's records from the superblock alone with
    /// what is there, and goes on with what is known.
    fn restore_known(&mut self) {
        for (page, words) in known::pages(self.superblock) {
            let mut bytes: PageBytes = [0; METADATA_PAGE_SIZE as usize];
            if self.bytes(page, &mut bytes).is_err() {
                continue;
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

    /// Follows the link stored at `from`, and reads the page that it leads to. Returns whether that is one
    /// of this kind and owner, to which nothing else leads; if not, the link is [broken](Broken), and `cut`
    /// is what is left if no other page is found for it.
    pub(super) fn follow(
        &mut self,
        (from, link): (u64, u64),
        (kind, owner): (PageKind, Uuid),
        cut: &Fix,
        page: &mut PageBytes,
    ) -> bool {
        let is_free = link != 0 && sense::is_link(link) && self.seen.insert(link);
        let (at, fault) = if is_free {
            match self.read(link, kind, owner, page) {
                Ok(()) => return true,
                Err(fault) => {
                    // What it really belongs to may lead to it as well.
                    self.seen.remove(&link);
                    (link, fault)
                }
            }
        } else {
            (from, Fault::Link(link))
        };
        self.broken.push(Broken { from, at, fault, kind, owner, cut: cut.clone() });
        false
    }

    /// The bytes of a page, with what is pending in place.
    pub(super) fn bytes(&self, at: u64, page: &mut PageBytes) -> Result<(), Fault> {
        self.medium.read_bytes(at, page)?;
        for (offset, value) in self.pending.range(at..at + METADATA_PAGE_SIZE) {
            page[(offset - at) as usize..][..8].copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Reads a page, and corrects what is damaged in it as far as that is known. It is a fault if it is none
    /// of this kind and owner.
    fn read(
        &mut self,
        at: u64,
        kind: PageKind,
        owner: Uuid,
        page: &mut PageBytes,
    ) -> Result<(), Fault> {
        self.bytes(at, page)?;
        let (found, expected) = (word(page, 0), fletcher64_without_field(page, 0));
        let fault = header_fault(page, kind, owner);
        let (words, is_sure) = self.corrections((at, page), (kind, owner), found);
        let is_other = fault.is_some() && !is_sure && !self.is_damaged_header(page, kind, owner);
        if let (Some(fault), true) = (&fault, is_other) {
            return Err(fault.clone());
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
        Ok(())
    }

    /// The words of the page at `at` that should have other values, by their places in it, and whether the
    /// page has the checksum `sum` with them.
    ///
    /// A word whose value is known is never corrected to another one: if the page was sealed while such a
    /// word was damaged, the checksum asks for the damaged value.
    fn corrections(
        &self,
        (at, page): (u64, &PageBytes),
        (kind, owner): (PageKind, Uuid),
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
        let known = known::of_page(self.superblock, at, (kind, owner));
        let makes_sense = |page: &PageBytes| {
            known.iter().all(|(place, value)| word(page, *place) == *value)
                && sense::makes_sense(page, kind, self.superblock)
        };
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
    pub(super) fn is_damaged_header(&self, page: &PageBytes, kind: PageKind, owner: Uuid) -> bool {
        let magic_and_owner = &known::header(0, kind, owner)[..4];
        let wrong = magic_and_owner.iter().filter(|(place, value)| word(page, *place) != *value);
        let mut found = [0; 16];
        found.copy_from_slice(&page[24..40]);
        let found = Uuid::from_bytes(found);
        wrong.count() <= 1 && (found == owner || !self.known_uuids.contains(&found))
    }

    fn owners(&mut self) {
        let set = self.superblock.set_uuid;
        let mut table = OwnerTable::new_zeroed();
        let bytes: &mut PageBytes = zerocopy::transmute_mut!(&mut table);
        if let Err(fault) = self.read(OWNER_TABLE_OFFSET, PageKind::Owners, set, bytes) {
            return self.found(OWNER_TABLE_OFFSET, fault, &Fix::None);
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
                    self.found(at, Fault::NotEmpty, &self.owner_of_records(head, at, fix));
                }
                continue;
            }
            if !self.uuids.insert(uuid) {
                let fix = self.owner_of_records(head, at, fix);
                self.found(at, Fault::UuidTwice(uuid), &fix);
                continue;
            }
            if !is_text(&head.label) {
                self.found(at, Fault::Text, &Fix::Replace(text_words(at + 16, "")));
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
            if !self.follow((from, link), (PageKind::Records, owner), cut, bytes) {
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

    /// No page belongs to two.
    fn overlaps(&mut self) {
        let mut claims = std::mem::take(&mut self.claims);
        claims.sort_by_key(|claim| claim.first);
        let conflicts = conflicts(&claims);
        let number = |claim: &Claim| conflicts.get(&claim.offset).copied().unwrap_or(0);
        // The claim that reaches furthest so far.
        let mut furthest: Option<&Claim> = None;
        for claim in &claims {
            match furthest {
                Some(before) if before.first + before.pages > claim.first => {
                    // Owner 0's pages are never dropped. Of two others, the one with more conflicts is
                    // dropped: one damaged extent must not cost all devices that it overlaps.
                    let drops_before = claim.fix == Fix::None
                        || before.fix != Fix::None && number(before) > number(claim);
                    let (other, kept) =
                        if drops_before { (before, claim) } else { (claim, before) };
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

/// The number of overlaps that each structure with claims is part of, by its byte offset. The claims are
/// in the order of their pages.
fn conflicts(claims: &[Claim]) -> BTreeMap<u64, usize> {
    let mut conflicts = BTreeMap::new();
    let mut furthest: Option<&Claim> = None;
    for claim in claims {
        let end = |claim: &Claim| claim.first + claim.pages;
        if let Some(before) = furthest.filter(|before| end(before) > claim.first) {
            *conflicts.entry(before.offset).or_insert(0) += 1;
            *conflicts.entry(claim.offset).or_insert(0) += 1;
        }
        furthest = furthest.filter(|before| end(before) >= end(claim)).or(Some(claim));
    }
    conflicts
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
    let counted = first.wrapping_add(superblock.align_base);
    let aligned = (counted | pages) & ((1 << align_order) - 1) == 0;
    let is_right = inside && aligned && pages > 0;
    (!is_right).then_some(Fault::Extent { first, pages, align_order, end })
}

/// The word at a place in a page.
pub(super) fn word(page: &PageBytes, place: u64) -> u64 {
    let bytes = page[place as usize..].first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(bytes)
}

/// What is wrong with magic and owner of a page, if anything.
pub(super) fn header_fault(page: &PageBytes, kind: PageKind, owner: Uuid) -> Option<Fault> {
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

/// The words of a name or label at `offset`.
pub(super) fn text_words(offset: u64, text: &str) -> Vec<(u64, u64)> {
    let mut bytes = [0; TEXT_SIZE];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    known::words(offset, &bytes)
}
