//! What has to be true of any image.
//!
//! * The checker ends, and writes nothing. What it calls clean, the engine opens; all sectors can be
//!   read then, but those that are marked as lost.
//! * Opening twice is opening once.
//! * After writes and trims, a clean image is clean, and sectors are what was written.
//! * Whatever the image, nothing panics and nothing hangs.

use std::collections::HashMap;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vhost_user_btt::btt::{
    Btt, Error, NeverWritten, OpenOptions, Opened, Queue, Version, check, find, lanes,
};
use vhost_user_btt::pmem::simulated::{Contents, Simulated};
use vm_memory::VolatileSlice;

/// Sectors of a disk that are all read; of larger ones, some.
const MOST_SECTORS: u64 = 130;
/// Actions that are done, and sectors that one of them clears: more are slow, and show nothing new.
const MOST_ACTIONS: usize = 24;
const MOST_CLEARED: u64 = 40;

/// Something that is done to an open BTT.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Action {
    /// Writes a sector.
    Write { sector: u16, fill: u8 },
    /// Writes part of a sector.
    WritePart { sector: u16, offset: u8, length: u8, fill: u8 },
    /// Makes sectors read as zeroes.
    Trim { sector: u16, count: u8, all: bool },
    /// Writes zeroes.
    WriteZeroes { sector: u16, count: u8 },
    /// Reads a sector while writes may be staged.
    Read { sector: u16 },
}

/// Checks an image, opens it, and does things to it.
pub fn verify(contents: &Contents, version: Option<Version>, actions: &[Action]) {
    let medium = Arc::new(Simulated::of(contents.clone()));
    let before = run_check(&medium, version);
    assert!(medium.snapshot() == *contents, "the checker wrote");
    let is_clean = before.verdict() == check::Verdict::Clean;
    for (number, arena) in find(&medium, version).iter().flatten().enumerate() {
        let _ = lanes(&medium, number, arena);
    }
    let (btt, mut queues) = match open(&medium, version) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!is_clean, "clean, but not opened: {error}");
            return;
        }
    };
    let opened = medium.snapshot();
    let lost = read_all(&mut queues[0]);
    let marked: u64 = before.arenas.iter().map(|arena| arena.map.error).sum();
    if is_clean && btt.sectors() <= MOST_SECTORS {
        assert_eq!(lost, marked, "sectors that cannot be read");
    }
    drop((btt, queues));
    // A sector that could not be read may have been marked so; there is no poison here, though.
    assert!(medium.snapshot() == opened, "reading wrote");
    let (btt, mut queues) = open(&medium, version).expect("it was opened a moment ago");
    assert!(medium.snapshot() == opened, "opening a second time wrote");

    let writable = btt.infos().all(|info| !info.error);
    act(&mut queues[0], is_clean && writable, actions);
    drop((btt, queues));
    if is_clean {
        let after = run_check(&medium, version);
        assert_eq!(after.verdict(), check::Verdict::Clean, "{:?}", after.findings);
    }
}

fn run_check(medium: &Arc<Simulated>, version: Option<Version>) -> check::Report {
    let options = check::CheckOptions { version, ..check::CheckOptions::default() };
    check::check(medium, &options, &mut |_, _| {})
}

fn open(
    medium: &Arc<Simulated>,
    version: Option<Version>,
) -> Result<Opened<Arc<Simulated>>, Error> {
    let options = OpenOptions { version, namespace: None, read_only: false, queues: 1, atomic: 0 };
    Btt::open(Arc::clone(medium), &options)
}

/// Reads all sectors, or some at either end. How many cannot be read.
fn read_all(queue: &mut Queue<Arc<Simulated>>) -> u64 {
    let (sectors, size) = (queue.btt().sectors(), queue.btt().sector_size() as usize);
    let mut bytes = vec![0; size];
    let mut batch = queue.batch();
    let mut lost = 0;
    let at_end = sectors.saturating_sub(16).max(MOST_SECTORS)..sectors;
    for sector in (0..sectors.min(MOST_SECTORS)).chain(at_end) {
        let read = batch.read(sector, &VolatileSlice::from(&mut bytes[..]));
        lost += u64::from(read.is_err());
    }
    lost
}

/// Does what is asked for. On a disk that is `sound`, all of it succeeds, and can be seen.
fn act(queue: &mut Queue<Arc<Simulated>>, sound: bool, actions: &[Action]) {
    let (sectors, size) = (queue.btt().sectors(), queue.btt().sector_size() as usize);
    let mut written: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut batch = queue.batch();
    for action in actions.iter().take(MOST_ACTIONS) {
        let result = match *action {
            Action::Write { sector, fill } => {
                let sector = u64::from(sector) % sectors;
                let mut bytes = vec![fill; size];
                written.insert(sector, bytes.clone());
                batch.write(sector, &VolatileSlice::from(&mut bytes[..]), 0)
            }
            Action::WritePart { sector, offset, length, fill } => {
                let sector = u64::from(sector) % sectors;
                let offset = usize::from(offset) * 16 % size;
                let mut bytes = vec![fill; usize::from(length).min(size - offset)];
                let part = VolatileSlice::from(&mut bytes[..]);
                let result = batch.write_part(sector, offset, &part, 0);
                // Of a sector that is lost, no part can be kept.
                if let (Ok(()), Some(sector)) = (&result, written.get_mut(&sector)) {
                    sector[offset..offset + bytes.len()].fill(fill);
                }
                match result {
                    Err(Error::SectorError { .. }) => Ok(()),
                    result => result,
                }
            }
            Action::Trim { sector, count, all } => {
                let (first, count) = range(sector, count, sectors);
                let never_written = if all { NeverWritten::Zero } else { NeverWritten::Leave };
                written.extend((first..first + count).map(|sector| (sector, vec![0; size])));
                batch.trim(first, count, never_written, 0)
            }
            Action::WriteZeroes { sector, count } => {
                let (first, count) = range(sector, count, sectors);
                written.extend((first..first + count).map(|sector| (sector, vec![0; size])));
                batch.write_zeroes(first, count, 0)
            }
            Action::Read { sector } => {
                let sector = u64::from(sector) % sectors;
                let mut found = vec![0; size];
                let read = batch.read(sector, &VolatileSlice::from(&mut found[..]));
                assert!(!sound || written.get(&sector).is_none_or(|bytes| *bytes == found));
                match read {
                    Err(Error::SectorError { .. }) => Ok(()),
                    read => read,
                }
            }
        };
        assert!(!sound || result.is_ok(), "{action:?}: {result:?}");
    }
    batch.commit();
    let failed = batch.take_failures().count();
    assert!(!sound || failed == 0, "{failed} writes failed");
    let mut found = vec![0; size];
    for (sector, bytes) in written {
        let read = batch.read(sector, &VolatileSlice::from(&mut found[..]));
        assert!(!sound || (read.is_ok() && found == bytes), "sector {sector} is another");
    }
}

/// Sectors that exist: the first, and how many.
fn range(sector: u16, count: u8, sectors: u64) -> (u64, u64) {
    let first = u64::from(sector) % sectors;
    (first, u64::from(count).min(MOST_CLEARED).min(sectors - first))
}
