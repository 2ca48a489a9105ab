//! The buddy allocator: which pages are free, in DRAM alone.
//!
//! Its invariant: a block of order `n` is 2ⁿ free pages at a multiple of 2ⁿ, and no two free blocks
//! are buddies. So the blocks are the same for the same free pages, whatever happened before, and an
//! aligned run of 2ⁿ free pages always lies in one block. Inside, pages are counted from where alignment
//! counts from; callers count them from the start of the namespace. As the pages in front of the region's first are never free, no
//! block ever reaches over it.

use std::collections::BTreeSet;

use crate::dax::format::units::{Bounds, Extent, MOST_ORDER};

/// The free pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buddy {
    /// What is added to page numbers from outside.
    base: u64,
    /// First and last page, the latter exclusive.
    first: u64,
    end: u64,
    /// First pages of the free blocks of each order.
    free: [BTreeSet<u64>; MOST_ORDER as usize + 1],
}

impl Buddy {
    /// No pages at all.
    #[must_use]
    pub(crate) fn empty() -> Buddy {
        Buddy { base: 0, first: 0, end: 0, free: Default::default() }
    }

    /// Pages from `first` to the end of `bounds`, of which those of `used` are not free. `used` is sorted, and lies inside.
    ///
    /// # Errors
    ///
    /// The first page that two of `used` have.
    pub(crate) fn new(first: u64, bounds: Bounds, used: &[Extent]) -> Result<Buddy, u64> {
        let Bounds { end, base } = bounds;
        let (first, end) = (first + base, end + base);
        let mut buddy = Buddy { base, first, end, ..Buddy::empty() };
        let mut next = first;
        for extent in used {
            let extent = buddy.inside(*extent);
            if extent.first < next {
                return Err(extent.first - base);
            }
            buddy.insert(next, extent.first);
            next = extent.end();
        }
        buddy.insert(next, end);
        Ok(buddy)
    }

    /// An extent of the caller's, counted as it is counted here.
    fn inside(&self, extent: Extent) -> Extent {
        Extent { first: extent.first + self.base, ..extent }
    }

    /// The free block of the smallest order, at the lowest address, of at least `order`.
    #[must_use]
    pub(crate) fn best(&self, order: u32) -> Option<u64> {
        let mut blocks = self.free.iter().skip(order as usize);
        blocks.find_map(|blocks| blocks.first()).map(|block| block - self.base)
    }

    /// The free, aligned 2^`order` pages at the lowest address.
    #[must_use]
    pub(crate) fn lowest(&self, order: u32) -> Option<u64> {
        let blocks = self.free.iter().skip(order as usize);
        blocks.filter_map(|blocks| blocks.first()).min().map(|block| block - self.base)
    }

    /// Number of free pages in aligned runs of 2^`order`.
    #[must_use]
    pub(crate) fn available(&self, order: u32) -> u64 {
        let orders = self.free.iter().enumerate().skip(order as usize);
        orders.map(|(order, blocks)| (blocks.len() as u64) << order).sum()
    }

    /// Number of free pages from `page` on, up to `most`.
    #[must_use]
    pub(crate) fn run(&self, page: u64, most: u64) -> u64 {
        self.run_inside(page + self.base, most)
    }

    fn run_inside(&self, page: u64, most: u64) -> u64 {
        let mut end = page;
        while end - page < most {
            match self.block_of(end) {
                Some((block, order)) => end = block + (1 << order),
                None => break,
            }
        }
        (end - page).min(most)
    }

    /// The runs of free pages that hold whole aligned units of 2^`order`, by address, cut down to
    /// whole units. Takes time in proportion to the number of free blocks.
    #[must_use]
    pub(crate) fn runs(&self, order: u32) -> Vec<Extent> {
        let orders = self.free.iter().zip(0..).skip(order as usize);
        let blocks = orders.flat_map(|(blocks, order)| {
            blocks.iter().map(move |first| Extent { first: first - self.base, pages: 1 << order })
        });
        let mut runs: Vec<Extent> = blocks.collect();
        runs.sort_unstable();
        runs.dedup_by(|next, run| {
            let touches = run.end() == next.first;
            run.pages += if touches { next.pages } else { 0 };
            touches
        });
        runs
    }

    /// Returns whether none of the pages is free.
    #[must_use]
    pub(crate) fn is_taken(&self, extent: Extent) -> bool {
        let extent = self.inside(extent);
        let begins_inside = |(blocks, order): (&BTreeSet<u64>, u32)| {
            let size = 1 << order;
            let from = (extent.first + 1).saturating_sub(size);
            blocks.range(from..extent.end()).next().is_some()
        };
        !self.free.iter().zip(0..).any(begins_inside)
    }

    /// Takes pages, all of which are free, out. Returns whether they were: else nothing changes.
    #[must_use]
    pub(crate) fn take(&mut self, extent: Extent) -> bool {
        let extent = self.inside(extent);
        if self.run_inside(extent.first, extent.pages) < extent.pages {
            return false;
        }
        let mut next = extent.first;
        while next < extent.end()
            && let Some((block, order)) = self.block_of(next)
        {
            self.free[order as usize].remove(&block);
            let end = block + (1 << order);
            self.insert(block, next);
            next = extent.end().min(end);
            self.insert(next, end);
        }
        true
    }

    /// Gives pages, none of which is free, back. Returns whether none was: else nothing changes.
    #[must_use]
    pub(crate) fn give(&mut self, extent: Extent) -> bool {
        if !self.is_taken(extent) {
            return false;
        }
        let extent = self.inside(extent);
        if extent.first < self.first || extent.end() > self.end {
            return false;
        }
        for (block, order) in blocks(extent.first, extent.end()) {
            self.merge(block, order);
        }
        true
    }

    /// First page and order of the free block that holds `page`.
    fn block_of(&self, page: u64) -> Option<(u64, u32)> {
        let orders = self.free.iter().zip(0..);
        orders
            .map(|(blocks, order)| (blocks, page >> order << order, order))
            .find(|(blocks, block, _)| blocks.contains(block))
            .map(|(_, block, order)| (block, order))
    }

    /// Makes pages free whose neighbours are not.
    fn insert(&mut self, first: u64, end: u64) {
        for (block, order) in blocks(first, end) {
            self.free[order as usize].insert(block);
        }
    }

    /// Makes a block free, as one with its buddy if that is, and so on.
    fn merge(&mut self, mut block: u64, mut order: u32) {
        while order < MOST_ORDER && self.free[order as usize].remove(&(block ^ 1 << order)) {
            block &= !(1 << order);
            order += 1;
        }
        self.free[order as usize].insert(block);
    }
}

/// The fewest aligned blocks that are the pages `first..end`, by address.
fn blocks(mut first: u64, end: u64) -> impl Iterator<Item = (u64, u32)> {
    std::iter::from_fn(move || {
        let rest = end.checked_sub(first).filter(|rest| *rest > 0)?;
        let order = first.trailing_zeros().min(rest.ilog2()).min(MOST_ORDER);
        let block = first;
        first += 1 << order;
        Some((block, order))
    })
}

#[cfg(test)]
mod tests;
