//! The power fails while a namespace is made, destroyed, or made again: there is none, or a whole one.

use std::ops::Range;

use vm_memory::VolatileSlice;

use super::*;
use crate::btt::check::{self, CheckOptions, Verdict};
use crate::btt::{self, Copies, LbaSize};
use crate::nvdimm::label::{LEAST_AREA_SIZE, LabelVersion, LabelWriter, NamespaceLabel};
use crate::pmem::Durability;
use crate::pmem::simulated::{Contents, Effort, Random, Recorder, Simulated, Unfenced};

/// A namespace that fills the space before the labels.
const DATA: Range<u64> = 0..17 << 20;
const LABELS: Range<u64> = DATA.end..DATA.end + LEAST_AREA_SIZE;

/// A part of a medium.
struct Part<'m, M> {
    medium: &'m M,
    range: Range<u64>,
}

impl<M: PersistentMemory> PersistentMemory for Part<'_, M> {
    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }
    fn durability(&self) -> Durability {
        self.medium.durability()
    }
    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.medium.load_u32(self.range.start + offset)
    }
    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.medium.load_u64(self.range.start + offset)
    }
    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.medium.store_u32(self.range.start + offset, value)
    }
    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.medium.store_u64(self.range.start + offset, value)
    }
    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.medium.read(self.range.start + offset, into)
    }
    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.medium.write(self.range.start + offset, from)
    }
    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.flush(self.range.start + offset, length)
    }
    fn fence(&self) -> Result<(), MediaError> {
        self.medium.fence()
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.zero(self.range.start + offset, length)
    }
    fn sync(&self) -> Result<(), MediaError> {
        self.medium.sync()
    }
}

fn data<M>(medium: &M) -> Part<'_, M> {
    Part { medium, range: DATA }
}

fn labels<M>(medium: &M) -> Part<'_, M> {
    Part { medium, range: LABELS }
}

fn label(uuid: Uuid) -> NamespaceLabel {
    NamespaceLabel {
        version: LabelVersion::V1_2,
        uuid,
        name: LabelName::NONE,
        flags: 0,
        nlabel: 1,
        position: 0,
        isetcookie: 0,
        lbasize: 4096,
        dpa: DATA.start,
        rawsize: DATA.end,
        slot: 0,
        align: 0,
        type_guid: Uuid::nil(),
        abstraction_guid: Uuid::nil(),
    }
}

const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);

fn make_namespace<M: PersistentMemory>(medium: &M, uuid: Uuid, lba_size: u32) {
    let contents = super::Contents::Btt(LbaSize::new(lba_size).unwrap(), Version::V2_0);
    let labels = labels(medium);
    let mut writer = LabelWriter::open(&labels, LEAST_AREA_SIZE).unwrap();
    make(
        &data(medium),
        contents,
        (Identity::Label(uuid), 0),
        |_, _| {},
        || writer.create(&label(uuid)),
    )
    .unwrap()
    .unwrap();
}

fn destroy_namespace<M: PersistentMemory>(medium: &M) {
    let labels = labels(medium);
    let mut writer = LabelWriter::open(&labels, LEAST_AREA_SIZE).unwrap();
    let slot = writer.area().index.used_slots().next().unwrap();
    unmake(&data(medium), || writer.delete(&[slot])).unwrap().unwrap();
}

fn reconfigure_namespace<M: PersistentMemory>(medium: &M) {
    let labels = labels(medium);
    let mut writer = LabelWriter::open(&labels, LEAST_AREA_SIZE).unwrap();
    let slot = writer.area().index.used_slots().next().unwrap();
    writer.delete(&[slot]).unwrap();
    make_namespace(medium, NEW, 512);
}

/// Which namespace there is; whole, or the test fails.
fn found(image: Contents) -> Option<Uuid> {
    let medium = Simulated::of(image);
    let labels = labels(&medium);
    let writer = LabelWriter::open(&labels, LEAST_AREA_SIZE).unwrap();
    let mut uuids = writer.area().labels().map(|(_, label)| label.unwrap().uuid);
    let uuid = uuids.next()?;
    assert_eq!(uuids.next(), None);
    let data = data(&medium);
    let arenas = btt::find(&data, Some(Version::V2_0)).unwrap();
    btt::check_parent(&arenas, uuid).unwrap();
    assert!(arenas.iter().all(|arena| arena.copies == Copies::Intact));
    let options = CheckOptions { namespace: Some(uuid), ..CheckOptions::default() };
    let report = check::check(&data, &options, &mut |_, _| {});
    assert_eq!(report.verdict(), Verdict::Clean);
    Some(uuid)
}

/// Fails the power everywhere in a change; returns which namespaces were found, each once, in order.
fn cut_everywhere(base: &Contents, change: impl FnOnce(&Recorder)) -> Vec<Option<Uuid>> {
    let recorder = Recorder::new(Simulated::of(base.clone()));
    change(&recorder);
    let effort = Effort { most: 200, random: 8, lines: 8 };
    let (mut unfenced, mut durable) = (Unfenced::default(), base.clone());
    let mut random = Random::new(1);
    let mut states = vec![found(base.clone())];
    for event in recorder.take_trace() {
        event.replay(&mut unfenced, &mut durable);
        unfenced.images(&durable, &effort, &mut random, &mut |image| {
            let state = found(image);
            if !states.contains(&state) {
                states.push(state);
            }
        });
    }
    assert!(unfenced.is_empty(), "a change is durable when it returns");
    states
}

fn empty() -> Simulated {
    let medium = Simulated::new(LABELS.end);
    LabelWriter::initialize(&labels(&medium), LEAST_AREA_SIZE, LabelVersion::V1_2).unwrap();
    medium
}

#[test]
fn a_namespace_that_is_being_made_is_not_there_or_whole() {
    let base = empty().snapshot();
    let states = cut_everywhere(&base, |medium| make_namespace(medium, NEW, 4096));
    assert_eq!(states, [None, Some(NEW)]);
}

#[test]
fn a_namespace_that_is_being_destroyed_is_whole_or_gone() {
    let medium = empty();
    make_namespace(&medium, OLD, 4096);
    let states = cut_everywhere(&medium.snapshot(), destroy_namespace);
    assert_eq!(states, [Some(OLD), None]);
}

#[test]
fn a_namespace_that_is_being_made_again_is_the_old_one_gone_or_the_new_one() {
    let medium = empty();
    make_namespace(&medium, OLD, 4096);
    let states = cut_everywhere(&medium.snapshot(), reconfigure_namespace);
    assert_eq!(states, [Some(OLD), None, Some(NEW)]);
}
