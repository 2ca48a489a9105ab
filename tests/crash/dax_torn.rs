//! A change of a region that is cut off in its journal entry, repeated, and cut off again at the same
//! place: what both attempts left together is no entry.
//!
//! The first power failure leaves all of the entry but one piece. The second one, in the entry of the
//! repeated change, which differs in a uuid only, leaves that piece and nothing else.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::dax::check::check;
use vhost_user_btt::dax::{Align, CreateOptions, PAGE_SIZE, PAGES_OFFSET, Region, create, mutant};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, Event, Recorder, Simulated};

use super::cuts::Violation;
use super::dax::device;
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::region_mutants::{self, RegionMutant};

/// Pages beside the journal.
const PAGES: u64 = 32;
/// Two buckets.
const JOURNAL: Range<u64> = PAGES_OFFSET..PAGES_OFFSET + 2 * PAGE_SIZE;

/// The change that is tried twice, and the pieces in which its entry becomes durable, in bytes.
#[derive(Debug, Clone, Copy)]
pub enum Twice {
    Creation(usize),
    Shrinking(usize),
    Freeing(usize),
}

pub fn all() -> Vec<Twice> {
    let of_unit = |unit| [Twice::Creation(unit), Twice::Shrinking(unit), Twice::Freeing(unit)];
    [8, 64].into_iter().flat_map(of_unit).collect()
}

impl fmt::Display for Twice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dax torn twice: {self:?}")
    }
}

/// What a power failure left in the middle of an entry.
struct Torn {
    image: Contents,
    entry: Box<[u8]>,
    at: u64,
}

/// What a reader sees: each device, and who has pages.
type Seen = (Vec<(String, Uuid, u64)>, Vec<Uuid>);

fn seen<M: PersistentMemory>(region: &Region<M>) -> Seen {
    let devices = region.devices().into_iter();
    let owners = region.owners().into_iter().map(|owner| owner.uuid);
    (devices.map(|device| (device.name, device.uuid, device.size)).collect(), owners.collect())
}

fn open(image: &Contents) -> Result<Region<Arc<Simulated>>, String> {
    let medium = Arc::new(Simulated::of(image.clone()));
    Region::open(medium, false).map_err(|error| error.to_string())
}

fn owner(number: u128) -> Uuid {
    Uuid::from_u128(0xff00 + number)
}

impl Twice {
    fn unit(self) -> usize {
        match self {
            Twice::Creation(unit) | Twice::Shrinking(unit) | Twice::Freeing(unit) => unit,
        }
    }

    /// A region whose free pages are single ones, so that entries have several lines.
    fn base() -> Contents {
        let medium = Arc::new(Simulated::new(PAGES_OFFSET + (PAGES + 2) * PAGE_SIZE));
        let uuid = Uuid::from_u128(1);
        let align = Align::Page;
        let options = CreateOptions { uuid, align, journal_order: 1, file_offset: 0 };
        create(&medium, &options).unwrap();
        let region = Region::open(Arc::clone(&medium), false).unwrap();
        for number in 0..6 {
            let name = format!("device {number}");
            region.create_device(&device(&name, 100 + number, 1 + number as u64 / 5 * 3)).unwrap();
        }
        for number in [0, 2, 4] {
            region.destroy_device(&format!("device {number}")).unwrap();
        }
        for number in 0..2 {
            region.allocate(owner(number), "", 1).unwrap();
        }
        medium.snapshot()
    }

    /// The change, as it is tried for the n-th time.
    fn act<M: PersistentMemory>(self, region: &Region<M>, attempt: u64) {
        let done = match self {
            Twice::Creation(_) => region.create_device(&device("new", 7 + u128::from(attempt), 4)),
            Twice::Shrinking(_) => region.resize_device("device 5", (1 + attempt) * PAGE_SIZE),
            Twice::Freeing(_) => region.free_all(owner(attempt.into())).map(drop),
        };
        done.unwrap();
    }

    /// Cuts the power in the entry of an attempt, of which the pieces are left that `keep` says. All that
    /// comes before the entry is durable.
    fn torn(
        self,
        before: &Contents,
        attempt: u64,
        mutant: Option<RegionMutant>,
        keep: impl Fn(usize) -> bool,
    ) -> Torn {
        let recorder = Arc::new(Recorder::new(Simulated::of(before.clone())));
        let region = Region::open(Arc::clone(&recorder), false).unwrap();
        self.act(&region, attempt);
        let image = Simulated::of(before.clone());
        for event in region_mutants::changes(mutant, recorder.take_trace()) {
            match event {
                Event::Stream { offset, bytes, .. } => {
                    if !JOURNAL.contains(&offset) || bytes.iter().all(|byte| *byte == 0) {
                        image.write_bytes(offset, &bytes).unwrap();
                        continue;
                    }
                    let pieces = bytes.chunks(self.unit()).enumerate();
                    for (number, piece) in pieces.filter(|(number, _)| keep(*number)) {
                        let at = offset + (number * self.unit()) as u64;
                        image.write_bytes(at, piece).unwrap();
                    }
                    return Torn { image: image.snapshot(), entry: bytes, at: offset };
                }
                Event::Store { offset, bytes } => image.write_bytes(offset, &bytes).unwrap(),
                Event::ZeroEnds { offset, length } => image.zero(offset, length).unwrap(),
                _ => {}
            }
        }
        panic!("no journal entry");
    }

    /// The first violation there is.
    pub fn exhaust(self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        mutant::activate(None);
        let base = Twice::base();
        mutant::activate(mutant.of_dax());
        figures.traces += 1;
        let pieces =
            self.torn(&base, 0, mutant.of_region(), |_| true).entry.len().div_ceil(self.unit());
        (0..pieces).find_map(|missing| {
            figures.points += 1;
            figures.images += 2;
            figures.nested += 1;
            let what = self.verify(&base, missing, mutant.of_region()).err()?;
            Some(Violation { position: Some(missing), what })
        })
    }

    fn verify(
        self,
        base: &Contents,
        missing: usize,
        mutant: Option<RegionMutant>,
    ) -> Result<(), String> {
        let before = seen(&open(base)?);
        let first = self.torn(base, 0, mutant, |number| number != missing);
        if seen(&open(&first.image)?) != before {
            // The piece was zero, and nothing is missing: the change has happened.
            let piece = first.entry.chunks(self.unit()).nth(missing).unwrap_or_default();
            let is_zero = piece.iter().all(|byte| *byte == 0);
            return if is_zero { Ok(()) } else { Err("a torn entry was replayed".to_owned()) };
        }
        let second = self.torn(&first.image, 1, mutant, |number| number == missing);
        if second.at != first.at {
            return Err("the entries are not at the same place".to_owned());
        }
        let region = open(&second.image)?;
        let found = seen(&region);
        if found != before {
            return Err(format!("piece {missing}: {found:?} instead of {before:?}"));
        }
        let report = check(region.medium());
        report.findings.first().map_or(Ok(()), |finding| Err(finding.to_string()))
    }
}
