//! Growing a BTT, cut off everywhere: it is the old one or the new one, with every sector that it had.

use std::fmt;
use std::sync::Arc;

use vhost_user_btt::btt::check::{CheckOptions, Severity, check};
use vhost_user_btt::btt::{find, grow, mutant};
use vhost_user_btt::pmem::simulated::{Contents, CrashModel, Random, Simulated};
use vm_memory::VolatileSlice;

use super::cuts::Violation;
use super::figures::Figures;
use super::medium::Medium;
use super::mutants::AnyMutant;
use super::scenario::{ARENA, Disk, Scenario, open};
use super::update::cut_everywhere;
use super::update_mutants;
use super::value::Value;

/// A growth.
pub struct Growth {
    /// The BTT before.
    old: Scenario,
    /// By how many arenas it grows.
    by: u64,
    /// What is behind it is not zero.
    noise: bool,
}

pub fn all() -> Vec<Growth> {
    let disks = [512, 520, 528, 4096, 4104, 4160, 4224].map(Disk::of);
    let disks = disks.into_iter().flat_map(|disk| [disk, disk.two_arenas()]);
    disks.map(|disk| Growth::new(disk, disk.arenas, disk.lba_size > 520)).collect()
}

pub fn for_mutants() -> Vec<Growth> {
    vec![Growth::new(Disk::of(4096), 2, true)]
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = if self.noise { " over noise" } else { "" };
        write!(f, "growth by {}{over} ({})", self.by, self.old.disk)
    }
}

impl Growth {
    fn new(disk: Disk, by: u64, noise: bool) -> Growth {
        Growth { old: Scenario::new("", disk, Vec::new()), by, noise }
    }

    fn base(&self) -> Contents {
        let (old, _) = self.old.begin();
        let end = old.size();
        let mut base = old.grown(self.by * ARENA);
        let mut random = Random::new(7);
        let behind = if self.noise { end..base.size() } else { 0..0 };
        for offset in behind.step_by(4096) {
            base.write(offset, &random.any().to_le_bytes().repeat(512));
        }
        base
    }

    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let base = self.base();
        let grown = Simulated::of(base.clone());
        grow(&grown, None, ARENA, |_, _| {}).unwrap();
        let medium = Medium::new(
            CrashModel::new(self.old.disk.medium, &base).open(),
            &grown.snapshot(),
            mutant.of_medium(),
        );
        mutant::activate(mutant.of_engine());
        if let Err(error) = grow(&medium, None, ARENA, |_, _| {}) {
            return Some(Violation { position: None, what: error.to_string() });
        }
        let old = find(&Simulated::of(self.old.begin().0), None).unwrap();
        let events = medium.recorder.take_trace();
        let trace = update_mutants::grown(mutant.of_update(), &old[old.len() - 1], events);
        let verify = |image: &Contents, is_done| self.verify(image, is_done);
        cut_everywhere(&base, &trace, figures, &verify)
    }

    fn verify(&self, image: &Contents, is_done: bool) -> Result<(), String> {
        let arenas = self.holds_what_it_should(image)?;
        if arenas != self.old.disk.arenas && arenas != self.old.disk.arenas + self.by {
            return Err(format!("{arenas} arenas"));
        }
        if is_done && arenas == self.old.disk.arenas {
            return Err("grown, and as large as before".to_owned());
        }
        worst(image, if is_done { Severity::Note } else { Severity::Degraded })?;
        if arenas == self.old.disk.arenas {
            let medium = Simulated::of(image.clone());
            grow(&medium, None, ARENA, |_, _| {}).map_err(|error| format!("again: {error}"))?;
            self.holds_what_it_should(&medium.snapshot())?;
            worst(&medium.snapshot(), Severity::Note)?;
        }
        Ok(())
    }

    /// Returns the number of arenas.
    fn holds_what_it_should(&self, image: &Contents) -> Result<u64, String> {
        let medium = Arc::new(Simulated::of(image.clone()));
        let arenas = find(&*medium, None).map_err(|error| error.to_string())?.len();
        let (btt, mut queues) = open(medium, 1).map_err(|error| error.to_string())?;
        let size = self.old.disk.sector_size();
        let last = btt.sectors() - 1;
        for sector in [0, 1, 2, 3, 4, last / 2, last / 2 + 1, last] {
            let mut bytes = vec![0; size];
            let read = queues[0].batch().read(sector, &VolatileSlice::from(&mut bytes[..]));
            read.map_err(|error| error.to_string())?;
            let (value, expected) = (Value::of(&bytes), self.old.initial(sector));
            if value != expected {
                return Err(format!("sector {sector} reads as {value:?}, not as {expected:?}"));
            }
        }
        Ok(arenas as u64)
    }
}

/// Nothing is worse than `worst`.
fn worst(image: &Contents, worst: Severity) -> Result<(), String> {
    let report = check(&Simulated::of(image.clone()), &CheckOptions::default(), &mut |_, _| {});
    let finding = report.findings.iter().find(|finding| finding.fault.kind().severity() > worst);
    finding.map_or(Ok(()), |finding| Err(finding.to_string()))
}
