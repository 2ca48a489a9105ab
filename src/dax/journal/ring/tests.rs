use super::*;
use crate::dax::format::features::Features;
use crate::dax::format::units::Align;
use crate::dax::format::version::Version::{One, Two};
use crate::pmem::simulated::{Contents, Effort, Event, Random, Recorder, Simulated, Unfenced};

const MAGIC: Uuid = Uuid::from_u128(7);

fn superblock() -> Superblock {
    Superblock {
        version: Two,
        set_uuid: MAGIC,
        namespace: 0,
        namespaces: 1,
        align: Align::Page,
        page_count: 8,
        journal_first: 4096,
        journal_order: 1,
        features: Features::default(),
        align_base: 0,
    }
}

fn medium() -> Simulated {
    Simulated::new(PAGES_OFFSET + 8 * PAGE_SIZE)
}

fn stores(count: u64, value: u64) -> Vec<Store> {
    (0..count).map(|at| Store { offset: OWNER_TABLE_OFFSET + at * 8, value }).collect()
}

fn entry(seq: u64, last_seq: u64) -> Entry {
    Entry { seq, last_seq, stores: stores(1, seq) }
}

fn commit<M: PersistentMemory>(
    ring: &mut Ring,
    medium: &M,
    stores: &[Store],
) -> Result<(), MediaError> {
    ring.make_room(medium, stores.len())?;
    ring.commit(medium, stores)
}

/// Where a ring goes on, whether the place is known to be zero or not.
fn places(ring: &Ring) -> (u64, u64) {
    (ring.place(), ring.seq)
}

#[test]
fn an_entry_is_read_as_it_was_written() {
    let entry = Entry { seq: 5, last_seq: 3, stores: stores(252, 9) };
    let bytes = entry.encode(Two, MAGIC);
    assert_eq!(bytes.len() as u64, BUCKET_SIZE);
    assert_eq!(Entry::decode(&bytes, Two, MAGIC), Some(entry));
    assert_eq!(Entry::decode(&bytes, Two, Uuid::from_u128(8)), None, "another region's");
}

#[test]
fn a_torn_entry_is_as_if_never_written() {
    let bytes = entry(2, 2).encode(Two, MAGIC);
    for word in 0..bytes.len() / 8 {
        let mut torn = bytes.clone();
        torn[word * 8..][..8].fill(0);
        let is_the_same = torn == bytes;
        assert_eq!(Entry::decode(&torn, Two, MAGIC).is_some(), is_the_same, "word {word}");
    }
}

#[test]
fn an_entry_that_stores_elsewhere_than_to_metadata_is_none() {
    for offset in [0, 4096, OWNER_TABLE_OFFSET + 4, PAGES_OFFSET, u64::MAX] {
        let entry = Entry { seq: 1, last_seq: 1, stores: vec![Store { offset, value: 1 }] };
        assert_eq!(
            Entry::decode(&entry.encode(Two, MAGIC), Two, MAGIC),
            None,
            "offset {offset:#x}"
        );
    }
}

#[test]
fn the_ring_wraps_around_and_the_newest_entry_is_found() {
    for count in [1, 3, 60, 61, 62, 125, 126, 127, 252] {
        let medium = medium();
        let (nothing, mut ring) = Ring::read(&medium, &superblock()).unwrap();
        assert_eq!(nothing, []);
        for seq in 1..300 {
            let stores = stores(count - seq % count.min(5), seq);
            commit(&mut ring, &medium, &stores).unwrap();
            let (pending, again) = Ring::read(&medium, &superblock()).unwrap();
            assert_eq!(pending, stores, "seq {seq}, {count} stores");
            assert_eq!(places(&again), places(&ring));
        }
    }
}

#[test]
fn replay_begins_at_last_seq_and_stops_at_the_first_gap() {
    let values = |entries: Vec<Entry>| -> Vec<u64> {
        pending(entries).iter().map(|store| store.value).collect()
    };
    assert!(values(vec![]).is_empty());
    assert_eq!(values(vec![entry(4, 2), entry(1, 1), entry(3, 2), entry(2, 2)]), [2, 3, 4]);
    assert_eq!(values(vec![entry(2, 2), entry(4, 2), entry(5, 2)]), [2]);
    assert!(values(vec![entry(3, 2), entry(4, 2)]).is_empty());
}

/// An entry that can no longer be read must not hide newer ones: their numbers would be given again, and
/// once it was written over, they would be the newest again.
#[test]
fn bit_rot_in_one_entry_brings_no_other_one_back() {
    let medium = medium();
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    for value in 1..=40 {
        commit(&mut ring, &medium, &stores(1 + value % 3, value)).unwrap();
    }
    let whole = medium.contents();
    for rotten in (PAGES_OFFSET..PAGES_OFFSET + 2 * BUCKET_SIZE).step_by(8) {
        let medium = Simulated::with_contents(&whole);
        medium.store_u64(rotten, medium.load_u64(rotten).unwrap() ^ 1 << 40).unwrap();
        let (_, mut ring) = Ring::read(&medium, &superblock()).unwrap();
        for value in 100..106 {
            let stores = stores(1 + value % 2, value);
            commit(&mut ring, &medium, &stores).unwrap();
            let (pending, again) = Ring::read(&medium, &superblock()).unwrap();
            assert_eq!(pending, stores, "value {value}, rotten at {rotten:#x}");
            assert_eq!(places(&again), places(&ring));
        }
    }
}

#[test]
fn bit_rot_in_an_older_entry_changes_nothing() {
    let medium = medium();
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    for value in 1..=20 {
        commit(&mut ring, &medium, &stores(3, value)).unwrap();
    }
    let expected = (stores(3, 20), places(&ring));
    for word in (0..19 * Entry::size(3)).step_by(8) {
        let rotten = PAGES_OFFSET + word;
        let was = medium.load_u64(rotten).unwrap();
        medium.store_u64(rotten, !was).unwrap();
        let (pending, again) = Ring::read(&medium, &superblock()).unwrap();
        assert_eq!((pending, places(&again)), expected, "byte {word}");
        medium.store_u64(rotten, was).unwrap();
    }
}

const EFFORT: Effort = Effort { most: 1000, random: 20, lines: 64 };

/// Hands `check` all that a power failure may leave of `trace`, at each of its events.
fn cut_everywhere(before: &Contents, trace: Vec<Event>, check: &mut dyn FnMut(Simulated)) {
    let (mut unfenced, mut durable) = (Unfenced::default(), before.clone());
    let random = &mut Random::new(1);
    for event in trace {
        event.replay(&mut unfenced, &mut durable);
        unfenced.images(&durable, &EFFORT, random, &mut |image| check(Simulated::of(image)));
    }
}

/// Two power failures: the first tears an entry that begins a bucket, after which a smaller one has its
/// number, in the bucket before; the second tears one with the same stores as the first, in its place.
#[test]
fn a_torn_entry_is_not_made_whole_by_the_next_one_torn() {
    for version in [One, Two] {
        let superblock = Superblock { version, ..superblock() };
        let medium = Recorder::new(medium());
        let mut ring = Ring::read(&medium, &superblock).unwrap().1;
        while ring.bucket == 0 || ring.position < 3840 {
            let stores = stores(12, ring.seq);
            commit(&mut ring, &medium, &stores).unwrap();
        }
        let (big, small) = (stores(40, 99), stores(1, 100));
        let torn = Entry { seq: ring.seq, last_seq: ring.seq, stores: big.clone() };
        let torn = torn.encode(version, MAGIC);
        medium.write_bytes(PAGES_OFFSET, &torn[..torn.len() - 64]).unwrap();
        let mut ring = Ring::read(&medium, &superblock).unwrap().1;
        commit(&mut ring, &medium, &small).unwrap();
        let seq = ring.seq;
        let durable = medium.medium().snapshot();
        drop(medium.take_trace());
        commit(&mut ring, &medium, &big).unwrap();
        cut_everywhere(&durable, medium.take_trace(), &mut |image| {
            let (pending, ring) = Ring::read(&image, &superblock).unwrap();
            assert_eq!(pending, if ring.seq == seq { small.clone() } else { big.clone() });
        });
    }
}

/// What earlier releases left: they wrote an entry over an older one, so words of it may be missing that
/// are zero. Zeroing its place, cut off, must not make it whole.
#[test]
fn remains_that_lack_a_zero_are_not_completed_by_zeroing_their_place() {
    let values = [0, 7, 0];
    let stores: Vec<Store> = (0..3)
        .map(|at| Store { offset: OWNER_TABLE_OFFSET + at * 8, value: values[at as usize] })
        .collect();
    for version in [One, Two] {
        let superblock = Superblock { version, ..superblock() };
        let bytes = Entry { seq: 1, last_seq: 1, stores: stores.clone() }.encode(version, MAGIC);
        for zero in (0..bytes.len()).step_by(8).filter(|at| bytes[*at..at + 8] == [0; 8]) {
            let medium = Recorder::new(medium());
            let mut remains = bytes.clone();
            remains[zero..zero + 8].fill(0xee);
            medium.write_bytes(PAGES_OFFSET, &remains).unwrap();
            let before = medium.medium().snapshot();
            let mut ring = Ring::read(&medium, &superblock).unwrap().1;
            assert_eq!(places(&ring), (PAGES_OFFSET, 1), "word at {zero}");
            drop(medium.take_trace());
            ring.make_room(&medium, 1).unwrap();
            cut_everywhere(&before, medium.take_trace(), &mut |image| {
                let (pending, _) = Ring::read(&image, &superblock).unwrap();
                assert_eq!(pending, [], "version {version:?}, word at {zero}");
            });
        }
    }
}

/// Nothing is written over the remains of an entry, wherever the ring is opened anew.
#[test]
fn the_place_of_every_entry_is_zero_and_durable_before_it_is_written() {
    let medium = Recorder::new(Simulated::of({
        // Remains everywhere.
        let mut contents = medium().snapshot();
        contents.write(PAGES_OFFSET, &[0xee; 2 * BUCKET_SIZE as usize]);
        contents
    }));
    let (mut unfenced, mut durable) = (Unfenced::default(), medium.medium().snapshot());
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    let mut entries = 0;
    for seq in 1..200u64 {
        if seq.is_multiple_of(7) {
            ring = Ring::read(&medium, &superblock()).unwrap().1;
        }
        commit(&mut ring, &medium, &stores(seq * 5 % 60, seq)).unwrap();
        for event in medium.take_trace() {
            if let Event::Stream { offset, bytes, .. } = &event
                && bytes.iter().any(|byte| *byte != 0)
            {
                let mut beneath = vec![0xee; bytes.len()];
                durable.read(*offset, &mut beneath);
                assert_eq!(beneath, vec![0; bytes.len()], "entry {seq}");
                assert!(unfenced.is_empty(), "entry {seq}");
                entries += 1;
            }
            event.replay(&mut unfenced, &mut durable);
        }
    }
    assert_eq!(entries, 199);
}

/// Once the place of an entry is zero, that of the next one in its bucket is.
#[test]
fn a_bucket_is_made_zero_once() {
    let medium = Recorder::new(medium());
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    let fences = |ring: &mut Ring, count| {
        commit(ring, &medium, &stores(count, 1)).unwrap();
        let trace = medium.take_trace();
        trace.iter().filter(|event| matches!(event, Event::Fence { .. })).count()
    };
    assert_eq!([(); 4].map(|()| fences(&mut ring, 60)), [2, 1, 1, 1]);
    assert_eq!([(); 4].map(|()| fences(&mut ring, 60)), [2, 1, 1, 1]);
    // A bucket is filled to its last byte.
    assert_eq!(fences(&mut ring, 252), 2);
    assert_eq!(places(&ring), (PAGES_OFFSET + BUCKET_SIZE, 10));
    assert_eq!(fences(&mut ring, 0), 2);
    assert_eq!(places(&ring), (PAGES_OFFSET + BUCKET_SIZE + 64, 11));
}

#[test]
fn entries_of_another_version_are_none() {
    let bytes = entry(1, 1).encode(One, MAGIC);
    assert_eq!(Entry::decode(&bytes, One, MAGIC), Some(entry(1, 1)));
    assert_eq!(Entry::decode(&bytes, Two, MAGIC), None);
}

/// The process that wrote the entry may have been killed before its fence.
#[test]
fn a_replay_makes_all_of_the_entry_durable_before_and_after_it_stores() {
    let medium = Recorder::new(medium());
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    commit(&mut ring, &medium, &stores(3, 5)).unwrap();
    // The first of the three is there already.
    apply(&medium, &stores(1, 5)).unwrap();
    drop(medium.take_trace());
    let (pending, ring) = Ring::read(&medium, &superblock()).unwrap();
    assert_eq!(ring.replay(&medium, &pending), Ok(2));
    let kinds: String = medium
        .take_trace()
        .iter()
        .map(|event| match *event {
            Event::Flush { offset: PAGES_OFFSET, length: BUCKET_SIZE, .. } => 'J',
            Event::Store { .. } => 's',
            Event::Flush { .. } => 'f',
            Event::Fence { .. } => '|',
            _ => '?',
        })
        .collect();
    assert_eq!(kinds, "J|fsfsf|");
}

#[test]
fn applying_again_stores_nothing() {
    let medium = medium();
    let stores = stores(20, 3);
    assert_eq!(apply(&medium, &stores), Ok(20));
    assert_eq!(apply(&medium, &stores), Ok(0));
}
