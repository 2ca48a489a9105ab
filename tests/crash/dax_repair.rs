//! Repairing a region, cut off everywhere: repeated, the repair comes to the same end.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::dax::check::check;
use vhost_user_btt::dax::{
    Align, CreateOptions, DeviceInfo, OwnerInfo, PAGE_SIZE, PAGES_OFFSET, Region, create, mutant,
    repair,
};
use vhost_user_btt::pmem::simulated::{Contents, Recorder, Simulated};
use vhost_user_btt::pmem::{PersistentMemory, fletcher64_without_field};

use super::cuts::Violation;
use super::dax::device;
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::region_mutants;
use super::update::cut_everywhere;

const SIZE: u64 = PAGES_OFFSET + 16 * PAGE_SIZE;
const JOURNAL: u64 = PAGES_OFFSET;
const JOURNAL_SIZE: u64 = 2 * PAGE_SIZE;
const OWNER_TABLE: u64 = 8192;
/// The owner table, and the pages that `sample` has beside it: records of owner 0, devices, records.
const PAGE: u64 = 8192;
const DEVICES: u64 = 24 << 10;
const RECORDS: u64 = 32 << 10;

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Superblock,
    Backup,
    /// Checksums of two pages that the newest change stored.
    Checksums,
    /// A device with an alignment that there is not.
    Slot,
    /// A device whose extent is another's.
    Overlap,
    Record,
    /// The link to the devices.
    Link,
    /// An owner's head leads to another's records.
    Head,
    All,
}

use Damage::{All, Backup, Checksums, Head, Link, Overlap, Record, Slot, Superblock};

/// A repair.
pub struct Repair {
    damage: Damage,
    /// The power had failed after a change was committed, before it was applied.
    pending: bool,
}

pub fn all() -> Vec<Repair> {
    let damages = [Superblock, Backup, Checksums, Slot, Overlap, Record, Link, Head, All];
    let repairs = damages.map(|damage| [false, true].map(|pending| Repair { damage, pending }));
    repairs.into_iter().flatten().collect()
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = if self.pending { ", a change pending" } else { "" };
        write!(f, "dax repair of {:?}{pending}", self.damage)
    }
}

/// Owners and devices.
type State = (Vec<OwnerInfo>, Vec<DeviceInfo>, u64);

fn state<M: PersistentMemory>(region: &Region<M>) -> State {
    (region.owners(), region.devices(), region.info().free)
}

/// A region whose journal holds several changes of the same device.
fn sample() -> (Arc<Simulated>, Region<Arc<Simulated>>) {
    let medium = Arc::new(Simulated::new(SIZE));
    let uuid = Uuid::from_u128(1);
    let options = CreateOptions { uuid, align: Align::Page, journal_order: 1, file_offset: 0 };
    create(&medium, &options).unwrap();
    let region = Region::open(Arc::clone(&medium), false).unwrap();
    region.create_device(&device("a", 11, 3)).unwrap();
    for owner in [2, 3] {
        for _ in 0..2 {
            region.allocate(Uuid::from_u128(owner), "", 0).unwrap();
        }
    }
    region.create_device(&device("b", 12, 2)).unwrap();
    region.resize_device("b", PAGE_SIZE).unwrap();
    region.create_device(&device("c", 13, 2)).unwrap();
    (medium, region)
}

fn word(medium: &Simulated, offset: u64, change: impl Fn(u64) -> u64) {
    let value = medium.load_u64(offset).unwrap();
    medium.store_u64(offset, change(value)).unwrap();
}

fn seal(medium: &Simulated, page: u64) {
    let mut bytes = vec![0; PAGE as usize];
    medium.read_bytes(page, &mut bytes).unwrap();
    medium.store_u64(page, fletcher64_without_field(&bytes, 0)).unwrap();
}

/// Byte offset of the n-th device slot.
fn slot(number: u64) -> u64 {
    DEVICES + 64 + number * 128
}

impl Repair {
    fn base(&self) -> Contents {
        let (medium, region) = sample();
        let before = medium.snapshot();
        // The newest change: of devices, and of the owner table.
        region.resize_device("a", 4 * PAGE_SIZE).unwrap();
        if self.pending {
            let mut journal = vec![0; JOURNAL_SIZE as usize];
            medium.read_bytes(JOURNAL, &mut journal).unwrap();
            let mut pending = before;
            pending.write(JOURNAL, &journal);
            let medium = Simulated::of(pending);
            self.damage(&medium);
            return medium.snapshot();
        }
        self.damage(&medium);
        medium.snapshot()
    }

    fn damage(&self, medium: &Simulated) {
        let is = |damage| self.damage == damage || self.damage == All;
        if self.damage == Superblock {
            word(medium, 4096 + 64, |pages| pages + 1);
        }
        if is(Backup) {
            medium.zero(0, 4096).unwrap();
        }
        if is(Slot) {
            // Behind the count of extents: the alignment.
            word(medium, slot(1) + 80, |word| word | 0xff << 32);
            seal(medium, DEVICES);
        }
        if is(Overlap) {
            let first = medium.load_u64(slot(0) + 96).unwrap();
            word(medium, slot(2) + 96, |_| first + 1);
            seal(medium, DEVICES);
        }
        if is(Record) {
            word(medium, RECORDS + 64, |record| record | 0x3f << 52);
            seal(medium, RECORDS);
        }
        if self.damage == Head {
            let first = medium.load_u64(OWNER_TABLE + 64 + 64 + 48).unwrap();
            word(medium, OWNER_TABLE + 64 + 128 + 48, |_| first);
            seal(medium, OWNER_TABLE);
        }
        if self.damage == Link {
            word(medium, OWNER_TABLE + 40, |link| link + 8);
            seal(medium, OWNER_TABLE);
        }
        if is(Checksums) {
            word(medium, DEVICES, |sum| sum ^ 1);
            // A label, which may be anything.
            word(medium, slot(0) + 48, |_| 0x61);
            word(medium, OWNER_TABLE, |sum| sum ^ 1);
        }
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(None);
        let base = self.base();
        let whole = Arc::new(Simulated::of(base.clone()));
        if check(&whole).is_clean() {
            let what = "the damage is none".to_owned();
            return Some(Violation { position: None, what });
        }
        let expected = match finished(&whole) {
            Ok(expected) => expected,
            Err(what) => return Some(Violation { position: None, what }),
        };
        mutant::activate(mutant.of_dax());
        let recorder = Recorder::new(Simulated::of(base.clone()));
        if let Err(error) = repair(&recorder, true) {
            return Some(Violation { position: None, what: error.to_string() });
        }
        let trace = region_mutants::update(mutant.of_region(), recorder.take_trace());
        let verify = |image: &Contents, is_done| verify(image, is_done, &expected);
        cut_everywhere(&base, &trace, figures, &verify)
    }
}

/// Repairs, and returns what there is then; it is whole, and stays so.
fn finished(medium: &Arc<Simulated>) -> Result<State, String> {
    let repaired = repair(medium, true).map_err(|error| error.to_string())?;
    if let Some(finding) = repaired.left.findings.first() {
        return Err(format!("left: {finding}"));
    }
    used(medium)
}

/// What there is in a region that is whole; opened, used and opened again, it still is.
fn used(medium: &Arc<Simulated>) -> Result<State, String> {
    let open = || Region::open(Arc::clone(medium), false).map_err(|error| error.to_string());
    let region = open()?;
    let found = state(&region);
    region.create_device(&device("new", 14, 1)).map_err(|error| error.to_string())?;
    let region = open()?;
    region.destroy_device("new").map_err(|error| error.to_string())?;
    if state(&open()?) != found {
        return Err("opened again, it is another".to_owned());
    }
    match check(medium).findings.first() {
        Some(finding) => Err(format!("after it was used: {finding}")),
        None => Ok(found),
    }
}

fn verify(image: &Contents, is_done: bool, expected: &State) -> Result<(), String> {
    let medium = Arc::new(Simulated::of(image.clone()));
    if is_done {
        let report = check(&medium);
        if let Some(finding) = report.findings.first() {
            return Err(format!("repaired, and not whole: {finding}"));
        }
        if used(&medium)? != *expected {
            return Err("repaired, it is not what it is to be".to_owned());
        }
        return Ok(());
    }
    let found = finished(&medium)?;
    if found != *expected {
        return Err(format!("repaired again, there is {found:?} instead of {expected:?}"));
    }
    Ok(())
}
