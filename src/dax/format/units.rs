//! Pages, orders and extents.

use std::ops::Range;

/// Bytes of an allocatable page.
pub const PAGE_SIZE: u64 = 4096;

/// The largest order: a block of 2²⁰ pages, which is 4 GiB.
pub const MOST_ORDER: u32 = 20;

/// A run of pages, counted from the start of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// Number of the first page.
    pub first: u64,
    /// Number of pages.
    pub pages: u64,
}

impl Extent {
    /// Number of the page behind the last one.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first + self.pages
    }

    /// The bytes of the namespace.
    #[must_use]
    pub fn bytes(self) -> Range<u64> {
        self.first * PAGE_SIZE..self.end() * PAGE_SIZE
    }
}

/// Where the allocatable pages of a region end, and what their alignment counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Number of the page behind the last one.
    pub end: u64,
    /// What is added to the number of a page before it is compared with a multiple of the alignment.
    pub base: u64,
}

/// What a device's extents and offsets are multiples of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Align {
    /// 4 KiB.
    Page,
    /// 2 MiB, the huge page of x86-64.
    #[default]
    Huge,
    /// 1 GiB.
    Giant,
}

impl Align {
    /// All, smallest first.
    pub const ALL: [Align; 3] = [Align::Page, Align::Huge, Align::Giant];

    /// The alignment of so many bytes, if it is one.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Option<Align> {
        Align::ALL.into_iter().find(|align| align.bytes() == bytes)
    }

    /// The alignment of 2^`order` pages, if it is one.
    #[must_use]
    pub fn of_order(order: u8) -> Option<Align> {
        Align::ALL.into_iter().find(|align| align.order() == u32::from(order))
    }

    /// As a power of two of pages.
    #[must_use]
    pub fn order(self) -> u32 {
        match self {
            Align::Page => 0,
            Align::Huge => 9,
            Align::Giant => 18,
        }
    }

    /// In pages.
    #[must_use]
    pub fn pages(self) -> u64 {
        1 << self.order()
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.pages() * PAGE_SIZE
    }
}
