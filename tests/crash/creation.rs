//! Creating a BTT, cut off everywhere: there is none, or a whole one, be it the old one.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::btt::check::{CheckOptions, Severity, check};
use vhost_user_btt::btt::{Copies, CreateOptions, Error, create, find, mutant};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, CrashModel, Random, Simulated};
use vm_memory::VolatileSlice;

use super::cuts::Violation;
use super::figures::Figures;
use super::medium::Medium;
use super::mutants::AnyMutant;
use super::scenario::{Disk, Scenario, open};
use super::update::cut_everywhere;
use super::update_mutants;
use super::value::Value;

/// What was on the medium before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Nothing,
    Noise,
    /// Another BTT, with sectors written.
    Btt,
}

/// A creation.
pub struct Creation {
    disk: Disk,
    before: Before,
    /// What the old BTT is, if there is one.
    old: Scenario,
}

pub fn all() -> Vec<Creation> {
    let disks = [512, 520, 528, 4096, 4104, 4160, 4224].map(Disk::of);
    let disks = disks.into_iter().flat_map(|disk| [disk, disk.two_arenas()]);
    let before = [Before::Nothing, Before::Noise, Before::Btt];
    disks.flat_map(|disk| before.map(|before| Creation::new(disk, before))).collect()
}

pub fn for_mutants() -> Vec<Creation> {
    let before = [Before::Btt, Before::Noise];
    before.map(|before| Creation::new(Disk::of(4096).two_arenas(), before)).into_iter().collect()
}

impl fmt::Display for Creation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = match self.before {
            Before::Nothing => "nothing",
            Before::Noise => "noise",
            Before::Btt => "another BTT",
        };
        write!(f, "creation over {before} ({})", self.disk)
    }
}

impl Creation {
    fn new(disk: Disk, before: Before) -> Creation {
        let old = Scenario::new("", disk, Vec::new());
        Creation { disk, before, old }
    }

    /// The new BTT has another uuid than the old one.
    fn options(&self) -> CreateOptions {
        CreateOptions { uuid: Uuid::from_u128(2), ..self.disk.create_options() }
    }

    fn base(&self) -> Contents {
        match self.before {
            Before::Nothing => Contents::zeroes(self.disk.size()),
            Before::Btt => self.old.begin().0,
            Before::Noise => {
                let mut random = Random::new(7);
                let mut contents = Contents::zeroes(self.disk.size());
                for page in (0..self.disk.size()).step_by(4096) {
                    let word = random.any().to_le_bytes();
                    contents.write(page, &word.repeat(512));
                }
                contents
            }
        }
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let base = self.base();
        let medium = Medium::new(
            CrashModel::new(self.disk.medium, &base).open(),
            &self.disk.create(),
            mutant.of_medium(),
        );
        mutant::activate(mutant.of_engine());
        create(&medium, &self.options(), |_, _| {}).unwrap();
        let created = find(&Simulated::of(self.disk.create()), None).unwrap();
        let events = medium.recorder.take_trace();
        let trace = update_mutants::created(mutant.of_update(), &created, events);
        let verify = |image: &Contents, is_done| self.verify(image, is_done);
        cut_everywhere(&base, &trace, figures, &verify)
    }

    fn verify(&self, image: &Contents, is_done: bool) -> Result<(), String> {
        let arenas = match find(&Simulated::of(image.clone()), None) {
            Ok(arenas) => arenas,
            Err(Error::NotFound | Error::BadInfo { .. }) if is_done => {
                return Err("created, and not there".to_owned());
            }
            Err(Error::NotFound | Error::BadInfo { .. }) => {
                return self.can_be_created_again(image);
            }
            Err(error) => return Err(error.to_string()),
        };
        let is_new = arenas[0].info.uuid == self.options().uuid;
        if is_done && !is_new {
            return Err("created, and the old one is there".to_owned());
        }
        let committed = is_new && !matches!(arenas[0].copies, Copies::OnlyBackup(_));
        Self::is_whole(image, committed)?;
        self.holds_what_it_should(image, is_new)
    }

    /// Once the first info block is there, the BTT is whole in every respect.
    fn is_whole(image: &Contents, committed: bool) -> Result<(), String> {
        let report = check(&Simulated::of(image.clone()), &CheckOptions::default(), &mut |_, _| {});
        let worst = if committed { Severity::Note } else { Severity::Degraded };
        let finding =
            report.findings.iter().find(|finding| finding.fault.kind().severity() > worst);
        finding.map_or(Ok(()), |finding| Err(finding.to_string()))
    }

    fn holds_what_it_should(&self, image: &Contents, is_new: bool) -> Result<(), String> {
        let medium = Arc::new(Simulated::of(image.clone()));
        let (btt, mut queues) = open(medium, 1).map_err(|error| error.to_string())?;
        let size = self.disk.sector_size();
        let last = btt.sectors() - 1;
        for sector in [0, 1, 2, 3, 4, last / 2, last] {
            let mut bytes = vec![0; size];
            let read = queues[0].batch().read(sector, &VolatileSlice::from(&mut bytes[..]));
            read.map_err(|error| error.to_string())?;
            let expected = if is_new { Value::zeroes(size) } else { self.old.initial(sector) };
            let value = Value::of(&bytes);
            if value != expected {
                return Err(format!("sector {sector} reads as {value:?}, not as {expected:?}"));
            }
        }
        Ok(())
    }

    fn can_be_created_again(&self, image: &Contents) -> Result<(), String> {
        let medium = Simulated::of(image.clone());
        create(&medium, &self.options(), |_, _| {}).map_err(|error| error.to_string())?;
        let found = find(&medium, None).map_err(|error| format!("created again: {error}"))?;
        let zeroed = medium.next_stored(found[0].start + found[0].info.geometry.mapoff);
        if zeroed >= found[0].start { Ok(()) } else { Err("no map".to_owned()) }
    }
}
