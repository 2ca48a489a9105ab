//! Growing a region, cut off everywhere: it is the old one or the new one, with all its devices.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::dax::check::check;
use vhost_user_btt::dax::{
    Align, CreateOptions, DeviceInfo, PAGE_SIZE, PAGES_OFFSET, Region, create, grow, mutant,
};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, Random, Recorder, Simulated};

use super::cuts::Violation;
use super::dax::device;
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::region_mutants;
use super::update::cut_everywhere;

/// Pages that can be allocated, the journal's two among them, and those that come.
const PAGES: u64 = 8;
pub const MORE: u64 = 8;

/// What the superblocks are before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Whole,
    NoSuperblock,
    NoBackup,
}

/// A growth.
pub struct Growth(Before);

pub fn all() -> Vec<Growth> {
    [Before::Whole, Before::NoSuperblock, Before::NoBackup].map(Growth).into_iter().collect()
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = match self.0 {
            Before::Whole => "",
            Before::NoSuperblock => ", the superblock damaged",
            Before::NoBackup => ", the backup damaged",
        };
        write!(f, "dax growth{before}")
    }
}

fn open(medium: &Arc<Simulated>) -> Result<Region<Arc<Simulated>>, String> {
    Region::open(Arc::clone(medium), false).map_err(|error| error.to_string())
}

impl Growth {
    /// A region that is full, and bytes behind it that are not zero.
    pub fn base(&self) -> (Contents, Vec<DeviceInfo>) {
        let small = Arc::new(Simulated::new(PAGES_OFFSET + PAGES * PAGE_SIZE));
        let uuid = Uuid::from_u128(1);
        let options = CreateOptions { uuid, align: Align::Page, journal_order: 1, file_offset: 0 };
        create(&small, &options).unwrap();
        let region = open(&small).unwrap();
        region.create_device(&device("old", 21, PAGES - 2)).unwrap();
        let mut base = small.snapshot().grown(MORE * PAGE_SIZE);
        let mut random = Random::new(7);
        for offset in (small.size()..base.size()).step_by(PAGE_SIZE as usize) {
            base.write(offset, &random.any().to_le_bytes().repeat(512));
        }
        match self.0 {
            Before::Whole => {}
            Before::NoSuperblock => base.write(4096 + 64, &[0xff; 8]),
            Before::NoBackup => base.write(64, &[0xff; 8]),
        }
        (base, region.devices())
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(None);
        let (base, devices) = self.base();
        let recorder = Recorder::new(Simulated::of(base.clone()));
        mutant::activate(mutant.of_dax());
        grow(&recorder).unwrap();
        let trace = region_mutants::update(mutant.of_region(), recorder.take_trace());
        cut_everywhere(&base, &trace, figures, &|image, is_done| verify(image, is_done, &devices))
    }
}

fn verify(image: &Contents, is_done: bool, devices: &[DeviceInfo]) -> Result<(), String> {
    let medium = Arc::new(Simulated::of(image.clone()));
    let region = open(&medium)?;
    let size = region.info().size / PAGE_SIZE;
    if size != PAGES + MORE && (is_done || size != PAGES) {
        return Err(format!("{size} pages"));
    }
    if region.devices() != devices {
        return Err(format!("{:?}", region.devices()));
    }
    let is_superblock = |offset: u64| offset < 2 * PAGE_SIZE;
    let findings = check(&medium).findings;
    if let Some(finding) = findings.iter().find(|one| is_done || !is_superblock(one.offset)) {
        return Err(finding.to_string());
    }
    drop(region);
    // Cut off, it is done again; and the new pages can be had, and are zero.
    grow(&medium).map_err(|error| error.to_string())?;
    let region = open(&medium)?;
    region.create_device(&device("new", 22, MORE)).map_err(|error| error.to_string())?;
    if let Some(finding) = check(&medium).findings.first() {
        return Err(format!("grown again: {finding}"));
    }
    let extents = open(&medium)?.device("new").map_err(|error| error.to_string())?.extents;
    for extent in extents {
        let mut bytes = vec![0xff; (extent.end - extent.start) as usize];
        medium.read_bytes(extent.start, &mut bytes).map_err(|error| error.to_string())?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err("what was behind the region is seen in its new device".to_owned());
        }
    }
    Ok(())
}
