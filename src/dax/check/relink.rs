//! Finding the page that a broken link should lead to.
//!
//! Every metadata page says what it is and what it belongs to. So the page that a link lost is one of the
//! right kind and owner that no link leads to. Pages that are no longer used may look the same: regions of
//! earlier releases keep them as they were. A link is therefore mended only if there is one such page.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::Fix;
use super::sense;
use super::walk::{Broken, Walk, header_fault, word};
use crate::dax::format::layout::{
    Head, METADATA_OFFSET, METADATA_PAGE_SIZE, PAGES_OFFSET, PageBytes,
};
use crate::dax::format::page_kind::PageKind;
use crate::pmem::{PersistentMemory, fletcher64_without_field};

impl<M: PersistentMemory> Walk<'_, M> {
    /// Reports the links that are broken, with the pages that they should lead to.
    pub(super) fn relink(&mut self) {
        for broken in std::mem::take(&mut self.broken) {
            let Broken { from, at, fault, kind, owner, cut } = broken;
            let candidates = self.candidates(kind, owner);
            let is_lost = self.is_lost(at, from);
            let fix = match candidates[..] {
                [page] if is_lost => Fix::Replace(vec![(from, page)]),
                [page] => Fix::Restore(vec![(from, page)]),
                // Nothing was there, or nothing can be found.
                [] if !is_lost && kind != PageKind::Extents => Fix::Restore(vec![(from, 0)]),
                _ => cut,
            };
            self.found(at, fault, &fix);
        }
    }

    /// Returns whether the page at `at`, to which the link at `from` leads, cannot be read or is nothing
    /// that it could be: then it is the page that is damaged, and not the link.
    fn is_lost(&self, at: u64, from: u64) -> bool {
        let mut page: PageBytes = [0; METADATA_PAGE_SIZE as usize];
        at != from
            && (self.bytes(at, &mut page).is_err()
                || word(&page, 0) != fletcher64_without_field(&page, 0))
    }

    /// Pages of this kind and owner that nothing leads to, not even one of them.
    fn candidates(&self, kind: PageKind, owner: Uuid) -> Vec<u64> {
        let mut page: PageBytes = [0; METADATA_PAGE_SIZE as usize];
        let (mut found, mut linked) = (Vec::new(), BTreeSet::new());
        let pages = (METADATA_OFFSET..PAGES_OFFSET).step_by(METADATA_PAGE_SIZE as usize);
        for at in pages.filter(|at| !self.seen.contains(at)) {
            if self.bytes(at, &mut page).is_err() {
                continue;
            }
            let is_whole = word(&page, 0) == fletcher64_without_field(&page, 0);
            let is_of_kind = header_fault(&page, kind, owner).is_none()
                || !is_whole && self.is_damaged_header(&page, kind, owner);
            if is_of_kind && (is_whole || sense::makes_sense(&page, kind, self.superblock)) {
                linked.insert(word(&page, 40));
                found.push(at);
            }
        }
        found.retain(|at| !linked.contains(at));
        found
    }

    /// The fix for a head whose uuid is none, or another's: the owner of its records, or else `drop`.
    pub(super) fn owner_of_records(&self, head: &Head, at: u64, drop: Fix) -> Fix {
        let mut page: PageBytes = [0; METADATA_PAGE_SIZE as usize];
        let records = head.records.get();
        if records == 0 || !sense::is_link(records) || self.bytes(records, &mut page).is_err() {
            return drop;
        }
        let mut owner = [0; 16];
        owner.copy_from_slice(&page[24..40]);
        let owner = Uuid::from_bytes(owner);
        let is_page = header_fault(&page, PageKind::Records, owner).is_none();
        if !is_page || owner.is_nil() || self.known_uuids.contains(&owner) {
            return drop;
        }
        Fix::Restore(super::known::words(at, &owner.into_bytes()))
    }
}
