//! What every change leaves, whole and after a power failure at each point of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;
use vm_memory::VolatileSlice;

use super::*;
use crate::nvdimm::label::{LEAST_AREA_SIZE, LabelName, qemu_cookie};
use crate::pmem::Durability;
use crate::pmem::simulated::{Contents, Effort, Random, Recorder, Simulated, Unfenced};

pub(super) const SIZE: u64 = LEAST_AREA_SIZE;
/// Something before the area, to notice when offsets are counted from the wrong end.
const BEFORE: u64 = 8192;

pub(super) fn label(version: LabelVersion, number: u64) -> NamespaceLabel {
    NamespaceLabel {
        version,
        uuid: Uuid::from_u128(u128::from(number) + 1),
        name: LabelName::new(&format!("disk {number}")).unwrap(),
        flags: 0,
        nlabel: 1,
        position: 0,
        isetcookie: qemu_cookie(version, 0),
        lbasize: 512,
        dpa: number << 24,
        rawsize: 1 << 24,
        slot: 0,
        align: 0,
        type_guid: Uuid::nil(),
        abstraction_guid: Uuid::nil(),
    }
}

fn medium() -> Simulated {
    Simulated::new(BEFORE + SIZE)
}

/// What a reader finds: the namespaces, by name and slot.
pub(super) type State = Option<Names>;
pub(super) type Names = Vec<(String, u32)>;
type Change = fn(&mut LabelWriter<'_, Recorder>, LabelVersion);

pub(super) fn state<M: PersistentMemory>(medium: &M, size: u64) -> State {
    let area = LabelArea::read(medium, size).unwrap().ok()?;
    let name = |(slot, label): (u32, Result<NamespaceLabel, LabelFault>)| {
        (label.expect("a label in force is whole").name.to_string(), slot)
    };
    Some(area.labels().map(name).collect())
}

/// Makes a change, and fails the power at every point of it; returns the states that were found,
/// each once, in the order in which they first were.
fn states_of(
    contents: &Contents,
    change: impl FnOnce(&Recorder),
    size: u64,
    random: &mut Random,
) -> Vec<State> {
    let recorder = Recorder::new(Simulated::of(contents.clone()));
    change(&recorder);
    let after = recorder.medium().snapshot();
    let effort = Effort { most: 4096, random: 64, lines: 32 };
    let (mut unfenced, mut durable) = (Unfenced::default(), contents.clone());
    let mut states: Vec<State> = Vec::new();
    let mut look = |unfenced: &Unfenced, durable: &Contents| {
        unfenced.images(durable, &effort, random, &mut |image| {
            torn_only_when_void([contents, &after, &image]);
            let found = state(&Simulated::of(image), size);
            if !states.contains(&found) {
                states.push(found);
            }
        });
    };
    look(&unfenced, &durable);
    for event in recorder.take_trace() {
        event.replay(&mut unfenced, &mut durable);
        look(&unfenced, &durable);
    }
    assert!(unfenced.is_empty(), "a change is durable when it returns");
    assert_eq!(states.last(), Some(&state(recorder.medium(), size)), "and then it is in force");
    states
}

/// Checks that an index block is as before, as after, or says so by a checksum of zero: nothing is
/// left to the checksum's ability to tell.
fn torn_only_when_void(before_after_now: [&Contents; 3]) {
    for number in 0..2 {
        let [before, after, now] = before_after_now.map(|contents| {
            let mut block = [0; 256];
            contents.read(BEFORE + number * 256, &mut block);
            block
        });
        let is_void = now[CHECKSUM_OFFSET..][..8] == [0; 8];
        assert!(is_void || now == before || now == after, "index block {number}");
    }
}

/// An area with the labels 0, 1 and 2, in slots of these numbers, and in the second index block.
pub(super) fn three_labels(version: LabelVersion) -> Contents {
    let medium = medium();
    let mut writer = LabelWriter::initialize(&medium, SIZE, version).unwrap();
    for number in 0..3 {
        assert_eq!(writer.create(&label(version, number)), Ok(number as u32));
    }
    assert_eq!(writer.area().index.number, 1);
    medium.snapshot()
}

pub(super) fn names(numbers: &[(u64, u32)]) -> Names {
    numbers.iter().map(|(number, slot)| (format!("disk {number}"), *slot)).collect()
}

#[test]
fn a_power_failure_leaves_the_labels_as_before_or_as_after() {
    let mut random = Random::new(1);
    for version in LabelVersion::ALL {
        let contents = three_labels(version);
        let before = names(&[(0, 0), (1, 1), (2, 2)]);
        let changes: [(Change, Names); 4] = [
            (
                |writer, version| assert_eq!(writer.create(&label(version, 7)), Ok(3)),
                names(&[(0, 0), (1, 1), (2, 2), (7, 3)]),
            ),
            (
                |writer, version| assert_eq!(writer.update(1, &label(version, 7)), Ok(3)),
                names(&[(0, 0), (2, 2), (7, 3)]),
            ),
            (|writer, _| writer.delete(&[0, 2]).unwrap(), names(&[(1, 1)])),
            (|writer, _| writer.clear().unwrap(), names(&[])),
        ];
        for (change, after) in changes {
            let change = |medium: &Recorder| {
                change(&mut LabelWriter::open(medium, SIZE).unwrap(), version);
            };
            let states = states_of(&contents, change, SIZE, &mut random);
            assert_eq!(states, [Some(before.clone()), Some(after)]);
        }
    }
}

#[test]
fn a_power_failure_while_an_area_is_made_leaves_the_old_one_none_or_the_new_one() {
    let mut random = Random::new(2);
    let initialize = |size, version| {
        move |medium: &Recorder| drop(LabelWriter::initialize(medium, size, version).unwrap())
    };
    let blank = medium().snapshot();
    for version in LabelVersion::ALL {
        let states = states_of(&blank, initialize(SIZE, version), SIZE, &mut random);
        assert_eq!(states, [None, Some(names(&[]))]);
        // Over one of either version: never an older state of the old one, which its other index
        // block still has.
        for old in LabelVersion::ALL {
            let contents = three_labels(old);
            let states = states_of(&contents, initialize(SIZE, version), SIZE, &mut random);
            let before = names(&[(0, 0), (1, 1), (2, 2)]);
            assert_eq!(states, [Some(before), None, Some(names(&[]))]);
        }
    }
}

#[test]
fn labels_can_be_changed_again_and_again() {
    let medium = medium();
    let version = LabelVersion::V1_2;
    let mut writer = LabelWriter::initialize(&medium, SIZE, version).unwrap();
    writer.create(&label(version, 0)).unwrap();
    let mut slot = 0;
    for number in 1..20 {
        let before = writer.area().index.clone();
        slot = writer.update(slot, &label(version, number)).unwrap();
        let after = &writer.area().index;
        assert_eq!((after.number, after.seq), (1 - before.number, before.seq % 3 + 1));
        assert_eq!(state(&medium, SIZE), Some(names(&[(number, slot)])));
    }
    let mut bytes = vec![0; BEFORE as usize];
    medium.read_bytes(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "nothing before the area was touched");
}

#[test]
fn a_change_after_one_index_block_was_lost_goes_into_the_lost_one() {
    for lost in [0, 1] {
        let medium = Simulated::of(three_labels(LabelVersion::V1_2));
        let size = LabelArea::read(&medium, SIZE).unwrap().unwrap().index.size;
        medium.write_bytes(BEFORE + lost * size, &[0xff; 64]).unwrap();
        let mut writer = LabelWriter::open(&medium, SIZE).unwrap();
        assert_eq!(writer.area().index.number, 1 - lost);
        writer.create(&label(LabelVersion::V1_2, 9)).unwrap();
        assert_eq!(writer.area().index.number, lost);
        assert!(state(&medium, SIZE).unwrap().iter().any(|(name, _)| name == "disk 9"));
    }
}

#[test]
fn one_slot_stays_free_so_that_changes_remain_possible() {
    for (version, slots) in [(LabelVersion::V1_1, 1020), (LabelVersion::V1_2, 510)] {
        let medium = medium();
        let mut writer = LabelWriter::initialize(&medium, SIZE, version).unwrap();
        for number in 0..slots - 1 {
            writer.create(&label(version, number)).unwrap();
        }
        let full = UpdateError::NoSlot { slots: slots as u32 };
        assert_eq!(writer.create(&label(version, slots)), Err(full));
        assert_eq!(writer.update(5, &label(version, slots)), Ok(slots as u32 - 1));
        writer.delete(&[7]).unwrap();
        assert_eq!(writer.create(&label(version, slots + 1)), Ok(5));
    }
}

#[test]
fn changes_that_make_no_sense_are_refused_and_change_nothing() {
    let medium = Simulated::of(three_labels(LabelVersion::V1_2));
    let before = medium.snapshot();
    let mut writer = LabelWriter::open(&medium, SIZE).unwrap();
    let new = label(LabelVersion::V1_2, 5);
    for slot in [3, 509, 510, u32::MAX] {
        assert_eq!(writer.delete(&[0, slot]), Err(UpdateError::NotUsed(slot)));
        assert_eq!(writer.update(slot, &new), Err(UpdateError::NotUsed(slot)));
    }
    let old = label(LabelVersion::V1_1, 5);
    assert!(matches!(writer.create(&old), Err(UpdateError::Version { .. })));
    assert!(matches!(LabelWriter::open(&medium, 4096), Err(UpdateError::NoIndex(_))));
    let size = BEFORE + SIZE + 1;
    let opened = LabelWriter::open(&medium, size).map(drop);
    assert_eq!(opened, Err(UpdateError::TooSmall { size }));
    let made = LabelWriter::initialize(&medium, 768, LabelVersion::V1_2).map(drop);
    assert_eq!(made, Err(UpdateError::TooSmall { size: 768 }));
    assert!(medium.snapshot() == before);
}

#[test]
fn a_medium_that_fails_leaves_the_labels_as_they_were() {
    let contents = three_labels(LabelVersion::V1_2);
    let before = names(&[(0, 0), (1, 1), (2, 2)]);
    // The slot of the new label; the other index block, which is the first.
    for full in [BEFORE + 512 + 3 * 256..BEFORE + 512 + 4 * 256, BEFORE..BEFORE + 64] {
        let medium = Simulated::of(contents.clone());
        let mut writer = LabelWriter::open(&medium, SIZE).unwrap();
        medium.fill_up(full);
        let created = writer.create(&label(LabelVersion::V1_2, 7));
        assert!(matches!(created, Err(UpdateError::Media(_))));
        assert_eq!(state(&medium, SIZE).as_ref(), Some(&before));
    }
}

/// A medium that is read in small pieces, between which another process replaces the only label twice: its
/// slot is another each time, and the one that it had is written to.
struct Meddled<'m> {
    medium: &'m Simulated,
    /// After so many pieces.
    pieces: AtomicUsize,
}

impl PersistentMemory for Meddled<'_> {
    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        const PIECE: usize = 128;
        for start in (0..into.len()).step_by(PIECE) {
            let piece = into.subslice(start, PIECE.min(into.len() - start)).unwrap();
            self.medium.read(offset + start as u64, &piece)?;
            if self.pieces.fetch_sub(1, Ordering::Relaxed) == 0 {
                let mut writer = LabelWriter::open(self.medium, SIZE).unwrap();
                for number in [8, 9] {
                    let used = writer.area().index.used_slots().next().unwrap();
                    writer.update(used, &label(LabelVersion::V1_2, number)).unwrap();
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.medium.size()
    }
    fn durability(&self) -> Durability {
        self.medium.durability()
    }
    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.medium.load_u32(offset)
    }
    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.medium.load_u64(offset)
    }
    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.medium.store_u32(offset, value)
    }
    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.medium.store_u64(offset, value)
    }
    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.medium.write(offset, from)
    }
    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.flush(offset, length)
    }
    fn fence(&self) -> Result<(), MediaError> {
        self.medium.fence()
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.zero(offset, length)
    }
    fn sync(&self) -> Result<(), MediaError> {
        self.medium.sync()
    }
}

#[test]
fn a_reader_sees_one_state_or_the_other_whenever_labels_are_changed() {
    let medium = medium();
    let version = LabelVersion::V1_2;
    LabelWriter::initialize(&medium, SIZE, version).unwrap().create(&label(version, 7)).unwrap();
    let contents = medium.snapshot();
    let mut seen = Vec::new();
    for pieces in 0..40 {
        let medium = Simulated::of(contents.clone());
        let meddled = Meddled { medium: &medium, pieces: AtomicUsize::new(pieces) };
        let found = state(&meddled, SIZE).unwrap();
        let [(name, _)] = &found[..] else { panic!("{pieces}: {found:?}") };
        seen.push(name.clone());
    }
    assert!(seen.iter().all(|name| ["disk 7", "disk 8", "disk 9"].contains(&name.as_str())));
    assert!(seen.contains(&"disk 9".into()));
}
