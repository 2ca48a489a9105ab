//! Creating a region, cut off everywhere: there is none, or a whole one, be it the old one.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::dax::check::check;
use vhost_user_btt::dax::{
    Align, CreateOptions, Error, PAGE_SIZE, PAGES_OFFSET, Region, create, mutant,
};
use vhost_user_btt::pmem::simulated::{Contents, Random, Recorder, Simulated};

use super::cuts::Violation;
use super::dax::device;
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::region_mutants;
use super::update::cut_everywhere;

const SIZE: u64 = PAGES_OFFSET + 8 * PAGE_SIZE;

/// What was on the medium before.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    Noise,
    /// Another region, with a device.
    Region,
}

/// A creation.
pub struct Creation(Before);

pub fn all() -> Vec<Creation> {
    vec![Creation(Before::Nothing), Creation(Before::Noise), Creation(Before::Region)]
}

impl fmt::Display for Creation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = match self.0 {
            Before::Nothing => "nothing",
            Before::Noise => "noise",
            Before::Region => "another region",
        };
        write!(f, "dax creation over {before}")
    }
}

fn options(uuid: u128) -> CreateOptions {
    let uuid = Uuid::from_u128(uuid);
    CreateOptions { uuid, align: Align::Page, journal_order: 1, file_offset: 0 }
}

impl Creation {
    fn base(&self) -> Contents {
        let medium = Arc::new(Simulated::new(SIZE));
        match self.0 {
            Before::Nothing => {}
            // Of the same uuid, so that what its journal has could be taken for the new region's.
            Before::Region => {
                create(&medium, &options(1)).unwrap();
                let region = Region::open(Arc::clone(&medium), false).unwrap();
                region.create_device(&device("old", 77, 2)).unwrap();
            }
            Before::Noise => {
                let mut contents = Contents::zeroes(SIZE);
                let mut random = Random::new(7);
                for page in (0..SIZE).step_by(PAGE_SIZE as usize) {
                    contents.write(page, &random.any().to_le_bytes().repeat(512));
                }
                return contents;
            }
        }
        medium.snapshot()
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(None);
        let base = self.base();
        let recorder = Recorder::new(Simulated::of(base.clone()));
        mutant::activate(mutant.of_dax());
        create(&recorder, &options(1)).unwrap();
        let trace = region_mutants::update(mutant.of_region(), recorder.take_trace());
        cut_everywhere(&base, &trace, figures, &|image, is_done| self.verify(image, is_done))
    }

    fn verify(&self, image: &Contents, is_done: bool) -> Result<(), String> {
        let medium = Arc::new(Simulated::of(image.clone()));
        let region = match Region::open(Arc::clone(&medium), false) {
            Ok(region) => region,
            Err(Error::NotFound | Error::Superblocks { .. }) if !is_done => {
                create(&medium, &options(2)).map_err(|error| error.to_string())?;
                Region::open(Arc::clone(&medium), false).map_err(|error| error.to_string())?
            }
            Err(error) => return Err(error.to_string()),
        };
        let names: Vec<String> = region.devices().into_iter().map(|device| device.name).collect();
        let is_old = matches!(self.0, Before::Region) && names == ["old"];
        if !names.is_empty() && (is_done || !is_old) {
            return Err(format!("a new region with {names:?}"));
        }
        let report = check(&medium);
        // A superblock without the other is what a creation leaves that was cut off.
        let is_whole = |finding: &&_| is_done || !is_superblock(finding);
        if let Some(finding) = report.findings.iter().find(is_whole) {
            return Err(finding.to_string());
        }
        drop(region);
        let region = Region::open(Arc::clone(&medium), false).map_err(|error| error.to_string())?;
        region.create_device(&device("new", 78, 2)).map_err(|error| error.to_string())?;
        let again = Region::open(medium, false).map_err(|error| error.to_string())?;
        again.device("new").map(drop).map_err(|error| error.to_string())
    }
}

fn is_superblock(finding: &vhost_user_btt::dax::check::Finding) -> bool {
    finding.offset < 8192
}
