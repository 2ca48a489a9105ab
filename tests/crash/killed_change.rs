//! A change of info blocks or superblocks during which a process is killed, the next process, which builds on
//! what it sees of the change, and then a power failure.
//!
//! The change is an arena that is given up, the growth of a disk, or the growth of a region. The next process
//! sees all that was stored, durable or not; what it found, and what it was told is durable, stays.

use std::fmt;
use std::sync::Arc;

use vhost_user_btt::btt::{Lba, Queue, find, grow, mutant};
use vhost_user_btt::dax::{self, PAGE_SIZE, Region};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{
    Contents, CrashModel, Effort, Event, Fault, Random, Recorder, Simulated,
};
use vm_memory::VolatileSlice;

use super::cuts::Violation;
use super::dax::device;
use super::dax_growth;
use super::figures::Figures;
use super::medium::Medium;
use super::medium_mutants::MediumMutant;
use super::mutants::AnyMutant;
use super::scenario::{ARENA, Disk, open};

const EFFORT: Effort = Effort { most: 100, random: 4, lines: 64 };
/// A byte that the next process writes, and one that the killed process writes.
const NEXT: u8 = 7;
const FIRST: u8 = 5;

/// A sector of the first arena that is not looked at: whether it can be written tells of the arena.
const TRIED: u64 = 4;

/// What the killed process was doing.
pub enum Change {
    /// A map entry could not be stored, and the daemon notes that the arena has failed.
    GivenUp(Disk),
    /// A tool lets the disk grow.
    DiskGrown(Disk),
    /// A tool lets the region grow.
    RegionGrown,
}

pub fn all() -> Vec<Change> {
    let disk = Disk::of(512);
    let two = disk.two_arenas();
    vec![Change::GivenUp(disk), Change::GivenUp(two), Change::DiskGrown(disk), Change::RegionGrown]
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::GivenUp(disk) => write!(f, "killed change: an arena is given up ({disk})"),
            Change::DiskGrown(disk) => write!(f, "killed change: a disk grows ({disk})"),
            Change::RegionGrown => f.write_str("killed change: a region grows"),
        }
    }
}

impl Change {
    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(None);
        let base = self.base();
        let run = || self.first(&base);
        let trace = std::thread::scope(|scope| scope.spawn(run).join().expect("it does not fail"));
        figures.traces += 1;
        let mut random = Random::new(1);
        for killed in 0..=trace.len() {
            figures.kills += 1;
            let mut left = CrashModel::after(&base, &as_cached(&trace[..killed]));
            let (events, found) = match self.next(&left, mutant) {
                Ok(done) => done,
                Err(what) => return Some(Violation { position: Some(killed), what }),
            };
            left.replay(&events);
            let mut violation = None;
            let images = left.images(&EFFORT, &mut random, &mut |image| {
                if violation.is_none() {
                    violation = self.verify(image, &found).err();
                }
            });
            figures.points += 1;
            figures.sampled_points += u64::from(!images.complete);
            figures.images += images.made as u64;
            figures.unique += images.made as u64;
            if let Some(what) = violation {
                return Some(Violation { position: Some(killed), what });
            }
        }
        None
    }

    fn base(&self) -> Contents {
        match self {
            Change::GivenUp(disk) => disk.create(),
            Change::DiskGrown(disk) => disk.create().grown(ARENA),
            Change::RegionGrown => dax_growth::all().remove(0).base().0,
        }
    }

    /// What the first process does, until it is killed at the latest.
    fn first(&self, base: &Contents) -> Vec<Event> {
        let recorder = Recorder::new(Simulated::of(base.clone()));
        match self {
            Change::GivenUp(_) => return give_up(base),
            Change::DiskGrown(_) => drop(grow(&recorder, None, ARENA, |_, _| {}).unwrap()),
            Change::RegionGrown => drop(dax::grow(&recorder).unwrap()),
        }
        recorder.take_trace()
    }

    /// Lets the next process open what is `left`, and use it. Returns what it did, and what it found.
    fn next(&self, left: &CrashModel, mutant: AnyMutant) -> Result<(Vec<Event>, String), String> {
        if let Change::RegionGrown = self {
            return next_of_region(left, mutant);
        }
        let medium = Medium::new(left.open(), &left.seen(), mutant.of_medium());
        mutant::activate(mutant.of_engine());
        let opened = medium.open(|| open(medium.clone(), 1));
        mutant::activate(None);
        let (btt, mut queues) = opened.map_err(|error| format!("cannot be opened: {error}"))?;
        let last = btt.sectors() - 1;
        let is_writable = write(&mut queues[0], TRIED, NEXT);
        write(&mut queues[0], last, NEXT);
        let found = disk_state(&mut queues[0], last, is_writable)?;
        Ok((medium.recorder.take_trace(), found))
    }

    /// What a power failure left is what the next process has `found`.
    fn verify(&self, image: Contents, found: &str) -> Result<(), String> {
        let medium = Arc::new(Simulated::of(image));
        let left = match self {
            Change::RegionGrown => {
                let region = Region::open(medium, false).map_err(|error| error.to_string())?;
                region_state(&region)
            }
            Change::GivenUp(_) | Change::DiskGrown(_) => {
                let (btt, mut queues) = open(medium, 1).map_err(|error| error.to_string())?;
                let last = btt.sectors() - 1;
                let is_writable = write(&mut queues[0], TRIED, NEXT);
                disk_state(&mut queues[0], last, is_writable)?
            }
        };
        if left == found { Ok(()) } else { Err(format!("{left} instead of {found}")) }
    }
}

/// The events of a process with streaming stores as a CPU makes them that cannot stream past its cache:
/// ordinary stores whose lines are flushed. What is left of them when the process is killed is in the cache,
/// and the next process can flush it. A CPU that does stream has drained them by the time of the kill, so
/// that they are durable, which is one of the images of the cached stores.
fn as_cached(events: &[Event]) -> Vec<Event> {
    let mut cached = Vec::new();
    for (number, event) in events.iter().enumerate() {
        let Event::Stream { thread, offset, ref bytes } = *event else {
            cached.push(event.clone());
            continue;
        };
        let words = bytes.chunks(8).zip((offset..).step_by(8));
        cached.extend(words.map(|(word, offset)| Event::Store { offset, bytes: word.into() }));
        // A process that is killed right after the copy has not flushed it.
        if number + 1 < events.len() {
            cached.push(Event::Flush { thread, offset, length: bytes.len() as u64 });
        }
    }
    cached
}

/// What a daemon does whose write of a sector cannot store the map entry, so that it gives the arena up.
fn give_up(base: &Contents) -> Vec<Event> {
    let arena = find(&Simulated::of(base.clone()), None).unwrap()[0];
    let entry = arena.start + arena.info.geometry.map_entry_offset(Lba(3));
    let medium = Arc::new(Recorder::new(Simulated::of(base.clone())));
    let (_, mut queues) = open(Arc::clone(&medium), 1).unwrap();
    drop(medium.take_trace());
    medium.medium().fail_after_touch(entry..entry + 4, Fault::Poison);
    assert!(!write(&mut queues[0], 3, FIRST), "the map entry cannot be stored");
    medium.take_trace()
}

/// Writes a sector. Returns whether that succeeded.
fn write<M: PersistentMemory>(queue: &mut Queue<M>, sector: u64, byte: u8) -> bool {
    let mut bytes = [byte; 512];
    let mut batch = queue.batch();
    if batch.write(sector, &VolatileSlice::from(&mut bytes[..]), 0).is_err() {
        return false;
    }
    batch.commit();
    batch.take_failures().count() == 0
}

/// What a reader sees of a disk.
fn disk_state<M: PersistentMemory>(
    queue: &mut Queue<M>,
    last: u64,
    is_writable: bool,
) -> Result<String, String> {
    let mut first_bytes = Vec::new();
    for sector in [0, 3, last] {
        let mut bytes = [0; 512];
        let read = queue.batch().read(sector, &VolatileSlice::from(&mut bytes[..]));
        read.map_err(|error| format!("sector {sector}: {error}"))?;
        first_bytes.push(bytes[0]);
    }
    Ok(format!("sectors up to {last}, writable: {is_writable}, bytes {first_bytes:?}"))
}

fn next_of_region(left: &CrashModel, mutant: AnyMutant) -> Result<(Vec<Event>, String), String> {
    let recorder = Arc::new(left.open());
    let opened = Region::open(Arc::clone(&recorder), false);
    let region = opened.map_err(|error| format!("cannot be opened: {error}"))?;
    let mut events = recorder.take_trace();
    events.retain(|event| !forgets(mutant, event));
    // There is room only if the region is seen to have grown.
    let _ = region.create_device(&device("new", 22, dax_growth::MORE));
    events.extend(recorder.take_trace());
    Ok((events, region_state(&region)))
}

/// Returns whether the mutant leaves out `event` when it opens a region.
fn forgets(mutant: AnyMutant, event: &Event) -> bool {
    mutant.of_medium() == Some(MediumMutant::OpenedSuperblockUnflushed)
        && matches!(event, Event::Flush { offset: PAGE_SIZE, .. })
}

fn region_state<M: PersistentMemory>(region: &Region<M>) -> String {
    format!("{} bytes, {:?}", region.info().size, region.devices())
}
