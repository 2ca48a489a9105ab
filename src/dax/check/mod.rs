//! The checker: whether what is on the medium is a region, whole and consistent.
//!
//! It shares the on-media structures and the words for what is wrong with the region itself, but none
//! of its logic: it scans the journal, follows the chains and counts the pages in its own way, so that
//! an error in one is caught by the other.
//!
//! A check never writes: a change that is pending in the journal is no fault, and is made in DRAM. It
//! survives any bytes: no page is followed twice, and what is damaged is a [`Finding`], around which
//! the check goes on. Its memory is in proportion to the number of extents.

mod correct;
mod devices;
mod journal;
mod known;
mod relink;
mod sense;
mod superblocks;
mod walk;

pub(super) use superblocks::superblock;

use crate::dax::format::fault::Fault;
use crate::pmem::PersistentMemory;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Byte offset of the structure.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: Fault,
    /// What would mend it.
    pub fix: Fix,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metadata at byte {:#x}: {}; {}", self.offset, self.fault, self.fix)
    }
}

/// What mends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Nothing that could be done without knowing more.
    None,
    /// Copying the other superblock over the one at this byte offset.
    CopySuperblock(u64),
    /// Making the checksum of the page at this byte offset right: all else that can be told about it
    /// is.
    Checksum(u64),
    /// Storing these words at these byte offsets, all in one page: they are known from other metadata.
    Restore(Vec<(u64, u64)>),
    /// Storing these words at these byte offsets, all in one page: what was there is lost, a name, a label,
    /// a uuid or a part of a chain, and the rest can be used again.
    Replace(Vec<(u64, u64)>),
    /// Storing zeroes: cuts a link, or drops a record, an owner or a device, and loses what it led to.
    Drop {
        /// Byte offset.
        offset: u64,
        /// Bytes, a multiple of eight.
        length: u64,
    },
}

impl Fix {
    /// Returns whether there is one.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        *self != Fix::None
    }

    /// Returns whether something is lost by it.
    #[must_use]
    pub fn loses(&self) -> bool {
        matches!(self, Fix::Drop { .. } | Fix::Replace(_))
    }
}

impl std::fmt::Display for Fix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fix::None => f.write_str("cannot be repaired"),
            Fix::CopySuperblock(_) => f.write_str("can be copied from the other superblock"),
            Fix::Checksum(_) => f.write_str("can be repaired"),
            Fix::Restore(_) => f.write_str("can be brought back from other metadata"),
            Fix::Replace(_) => f.write_str("can be replaced by something else"),
            Fix::Drop { .. } => f.write_str("can be dropped"),
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// All that is wrong.
    pub findings: Vec<Finding>,
    /// Stores of a change that was cut off, which opening replays.
    pub pending: usize,
    /// Number of owners, owner 0 among them.
    pub owners: usize,
    /// Number of devices.
    pub devices: usize,
    /// Pages in use.
    pub used_pages: u64,
    /// Pages that are free.
    pub free_pages: u64,
}

impl Report {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks the region on `medium`, which must not be written to meanwhile.
pub fn check<M: PersistentMemory>(medium: &M) -> Report {
    let mut report = Report::default();
    let superblock = superblocks::check(medium, &mut report.findings);
    if let Some(superblock) = superblock {
        match journal::pending(medium, &superblock) {
            Ok(pending) => walk::walk(medium, &superblock, pending, &mut report),
            Err(fault) => {
                let offset = superblock.journal().bytes().start;
                report.findings.push(Finding { offset, fault, fix: Fix::None });
            }
        }
    }
    report
}
