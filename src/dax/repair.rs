//! Mending what the checker finds.

use super::check::{self, Finding, Fix, Report, check};
use crate::dax::format::error::Error;
use crate::dax::format::layout::{self, METADATA_PAGE_SIZE, PageBytes};
use crate::dax::format::superblock::Superblock;
use crate::dax::journal::durable;
use crate::dax::journal::ring::{self, Ring, Store};
use crate::pmem::{MediaError, Overlay, PersistentMemory, Saved};

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

/// Repairs the region on `medium`, which no other process uses.
///
/// What loses something, a record, a device or a whole chain, is done only if `drop_damaged`, and only if
/// the region is whole then; pages that are lost that way are free, and zeroed before they are given to
/// another owner.
///
/// Every step is an entry of the journal, be it one store: so it happens wholly or not at all, and what
/// an older entry stored in the same place cannot come back at the next replay. A repair that was cut
/// off, at any point, is repeated, and comes to the same end. A change that was pending is completed
/// first.
///
/// # Errors
///
/// No superblock can be used; [`Error::ReadOnlyFeatures`]; the medium's, in the middle of the repair: repeat it.
pub fn repair<M: PersistentMemory>(medium: &M, drop_damaged: bool) -> Result<Repaired, Error> {
    durable::require(medium)?;
    let superblock = check::superblock(medium)?;
    superblock.features.check_change()?;
    // Where that leaves no region that can be used, nothing is lost for it.
    let drop_damaged =
        drop_damaged && mend_all(&Overlay::new(medium), &superblock, true)?.left.is_clean();
    mend_all(medium, &superblock, drop_damaged)
}

/// Mends what can be mended, until nothing more is found that can.
fn mend_all<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
    drop_damaged: bool,
) -> Result<Repaired, Error> {
    let mut journal: Option<Ring> = None;
    let mut mended = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let report = check(medium);
        let can_be_mended =
            |finding: &&Finding| finding.fix != Fix::None && (drop_damaged || !finding.fix.loses());
        let findings: Vec<Finding> =
            report.findings.iter().filter(can_be_mended).cloned().collect();
        if findings.is_empty() {
            return Ok(Repaired { mended, left: report });
        }
        let ring = match &mut journal {
            Some(ring) => ring,
            None => journal.insert(complete_pending(medium, superblock)?),
        };
        for finding in findings {
            mend(medium, superblock, ring, &finding.fix)?;
            mended.push(finding);
        }
    }
    Ok(Repaired { mended, left: check(medium) })
}

/// The bytes that [`repair`] would change, as they are and as they would be; nothing is stored.
///
/// Where the next entry of the journal goes is among them: so whatever is changed after the repair is seen
/// there, and the bytes are not put back then.
///
/// # Errors
///
/// As [`repair`].
pub fn preview_repair<M: PersistentMemory>(
    medium: &M,
    drop_damaged: bool,
) -> Result<Vec<Saved>, Error> {
    let overlay = Overlay::new(medium);
    repair(&overlay, drop_damaged)?;
    let (_, ring) = Ring::read(&overlay, &check::superblock(&overlay)?)?;
    if overlay.saved().is_empty() {
        return Ok(Vec::new());
    }
    ring.next_places().for_each(|place| overlay.note(place));
    Ok(overlay.saved())
}

/// Completes a change that was cut off, and returns where the journal goes on.
fn complete_pending<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
) -> Result<Ring, MediaError> {
    Superblock::persist(medium)?;
    let (pending, ring) = Ring::read(medium, superblock)?;
    if !mutant!(dax::PendingForgotten) {
        ring.replay(medium, &pending)?;
    }
    Ok(ring)
}

/// Mends one thing; durable on return.
fn mend<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
    ring: &mut Ring,
    fix: &Fix,
) -> Result<(), MediaError> {
    let words = match fix {
        Fix::CopySuperblock(offset) => return mend_superblock(medium, superblock, *offset),
        Fix::Checksum(page) => (*page, Vec::new()),
        Fix::Restore(words) | Fix::Replace(words) => {
            (words.first().map_or(0, |(offset, _)| *offset), words.clone())
        }
        Fix::Drop { offset, length } => {
            (*offset, (*offset..offset + length).step_by(8).map(|offset| (offset, 0)).collect())
        }
        Fix::None => return Ok(()),
    };
    let stores = sealed(medium, layout::page_of(words.0), &words.1)?;
    ring.make_room(medium, stores.len())?;
    ring.commit(medium, &stores)?;
    ring::apply(medium, &stores).map(drop)
}

/// Mends the superblock at `offset`. The other one may be damaged as well: so it is mended word by word,
/// and what both together tell is the same at each moment. One that cannot be read is written anew.
fn mend_superblock<M: PersistentMemory>(
    medium: &M,
    superblock: &Superblock,
    offset: u64,
) -> Result<(), MediaError> {
    superblock.update(medium, offset).or_else(|_| superblock.write(medium, offset))?;
    medium.fence()
}

/// The stores of `words` to `page`, and of the checksum that it has then.
fn sealed<M: PersistentMemory>(
    medium: &M,
    page: u64,
    words: &[(u64, u64)],
) -> Result<Vec<Store>, MediaError> {
    let mut bytes: PageBytes = [0; METADATA_PAGE_SIZE as usize];
    medium.read_bytes(page, &mut bytes)?;
    for (offset, value) in words {
        bytes[(offset - page) as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let sum = Store { offset: page, value: layout::checksum(&bytes) };
    let stores = words.iter().map(|&(offset, value)| Store { offset, value });
    Ok(stores.chain([sum]).collect())
}
