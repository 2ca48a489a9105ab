//! Mending what the checker finds.

use super::check::{Finding, Fix, Report, check};
use super::error::Error;
use super::journal::{self, Ring};
use super::layout::{self, METADATA_PAGE_SIZE, PageBytes};
use super::load;
use crate::pmem::{MediaError, PersistentMemory};

/// Most rounds of checking and mending: a page that is mended can lead to others. Each round mends
/// all that the one before brought to light, and chains of damaged pages are rarely long.
const MOST_ROUNDS: usize = 64;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// What was mended.
    pub mended: Vec<Finding>,
    /// What is still wrong.
    pub left: Report,
}

/// Mends what is damaged on `medium`, which nobody else uses.
///
/// A pending change is completed first, and the journal emptied, so that it cannot undo a repair.
/// What loses something, a record, a device or a whole chain, is done only if `drop_damaged`; pages
/// that are lost that way are free, and zeroed when somebody gets them.
///
/// # Errors
///
/// No superblock can be used; the medium's.
pub fn repair<M: PersistentMemory>(medium: &M, drop_damaged: bool) -> Result<Repaired, Error> {
    let superblock = load::superblock(medium)?;
    let mut mended = Vec::new();
    for round in 0..MOST_ROUNDS {
        let report = check(medium);
        let can_be_mended =
            |finding: &&Finding| finding.fix != Fix::None && (drop_damaged || !finding.fix.loses());
        let findings: Vec<Finding> =
            report.findings.iter().filter(can_be_mended).cloned().collect();
        if findings.is_empty() {
            return Ok(Repaired { mended, left: report });
        }
        if round == 0 {
            let (pending, _) = Ring::read(medium, &superblock)?;
            journal::apply(medium, &pending)?;
            let bytes = superblock.journal().bytes();
            medium.zero(bytes.start, bytes.end - bytes.start)?;
        }
        for finding in findings {
            match finding.fix {
                Fix::CopySuperblock(offset) => superblock.write(medium, offset)?,
                Fix::Checksum(page) => store_checksum(medium, page)?,
                Fix::Drop { offset, length } => {
                    medium.write_bytes(offset, &vec![0; length as usize])?;
                    store_checksum(medium, layout::page_of(offset))?;
                }
                Fix::None => continue,
            }
            mended.push(finding);
        }
    }
    Ok(Repaired { mended, left: check(medium) })
}

/// Makes the checksum of a metadata page right; durable on return.
fn store_checksum<M: PersistentMemory>(medium: &M, page: u64) -> Result<(), MediaError> {
    let mut bytes: PageBytes = [0; METADATA_PAGE_SIZE as usize];
    medium.read_bytes(page, &mut bytes)?;
    medium.store_u64(page, layout::checksum(&bytes))?;
    medium.flush(page, 8)?;
    medium.fence()
}
