use super::*;
use crate::dax::units::Align;
use crate::pmem::simulated::{Effort, Event, Random, Recorder, Simulated, Unfenced};

const MAGIC: Uuid = Uuid::from_u128(7);

fn superblock() -> Superblock {
    Superblock {
        set_uuid: MAGIC,
        namespace: 0,
        namespaces: 1,
        align: Align::Page,
        page_count: 8,
        journal_first: 4096,
        journal_order: 1,
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

#[test]
fn an_entry_is_read_as_it_was_written() {
    let entry = Entry { seq: 5, last_seq: 3, stores: stores(252, 9) };
    let bytes = entry.encode(MAGIC);
    assert_eq!(bytes.len() as u64, BUCKET_SIZE);
    assert_eq!(Entry::decode(&bytes, MAGIC), Some(entry));
    assert_eq!(Entry::decode(&bytes, Uuid::from_u128(8)), None, "another region's");
}

#[test]
fn a_torn_entry_is_as_if_never_written() {
    let bytes = entry(2, 2).encode(MAGIC);
    for word in 0..bytes.len() / 8 {
        let mut torn = bytes.clone();
        torn[word * 8..][..8].fill(0);
        let is_the_same = torn == bytes;
        assert_eq!(Entry::decode(&torn, MAGIC).is_some(), is_the_same, "word {word}");
    }
}

#[test]
fn an_entry_that_stores_elsewhere_than_to_metadata_is_none() {
    for offset in [0, 4096, OWNER_TABLE_OFFSET + 4, PAGES_OFFSET, u64::MAX] {
        let entry = Entry { seq: 1, last_seq: 1, stores: vec![Store { offset, value: 1 }] };
        assert_eq!(Entry::decode(&entry.encode(MAGIC), MAGIC), None, "offset {offset:#x}");
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
            ring.commit(&medium, &stores).unwrap();
            let (pending, again) = Ring::read(&medium, &superblock()).unwrap();
            assert_eq!(pending, stores, "seq {seq}, {count} stores");
            assert_eq!(again, ring);
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
        ring.commit(&medium, &stores(1 + value % 3, value)).unwrap();
    }
    let whole = medium.contents();
    for rotten in (PAGES_OFFSET..PAGES_OFFSET + 2 * BUCKET_SIZE).step_by(8) {
        let medium = Simulated::with_contents(&whole);
        medium.store_u64(rotten, medium.load_u64(rotten).unwrap() ^ 1 << 40).unwrap();
        let (_, mut ring) = Ring::read(&medium, &superblock()).unwrap();
        for value in 100..106 {
            let stores = stores(1 + value % 2, value);
            ring.commit(&medium, &stores).unwrap();
            let (pending, again) = Ring::read(&medium, &superblock()).unwrap();
            assert_eq!(pending, stores, "value {value}, rotten at {rotten:#x}");
            assert_eq!(again, ring);
        }
    }
}

#[test]
fn bit_rot_in_an_older_entry_changes_nothing() {
    let medium = medium();
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    for value in 1..=20 {
        ring.commit(&medium, &stores(3, value)).unwrap();
    }
    let expected = (stores(3, 20), ring);
    for word in (0..19 * Entry::size(3)).step_by(8) {
        let rotten = PAGES_OFFSET + word;
        let was = medium.load_u64(rotten).unwrap();
        medium.store_u64(rotten, !was).unwrap();
        assert_eq!(Ring::read(&medium, &superblock()).unwrap(), expected, "byte {word}");
        medium.store_u64(rotten, was).unwrap();
    }
}

/// Two power failures: the first tears an entry that begins a bucket, after which a smaller one has its
/// number, in the bucket before; the second tears one with the same stores as the first, in its place.
#[test]
fn a_torn_entry_is_not_made_whole_by_the_next_one_torn() {
    let medium = Recorder::new(medium());
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    while ring.bucket == 0 || ring.position < 3840 {
        ring.commit(&medium, &stores(12, ring.seq)).unwrap();
    }
    let (big, small) = (stores(40, 99), stores(1, 100));
    let torn = Entry { seq: ring.seq, last_seq: ring.seq, stores: big.clone() }.encode(MAGIC);
    medium.write_bytes(PAGES_OFFSET, &torn[..torn.len() - 64]).unwrap();
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    ring.commit(&medium, &small).unwrap();
    let seq = ring.seq;
    let mut durable = medium.medium().snapshot();
    drop(medium.take_trace());
    ring.commit(&medium, &big).unwrap();
    let mut unfenced = Unfenced::default();
    let effort = Effort { most: 1000, random: 20, lines: 64 };
    for event in medium.take_trace() {
        unfenced.images(&durable, &effort, &mut Random::new(1), &mut |image| {
            let (pending, ring) = Ring::read(&Simulated::of(image), &superblock()).unwrap();
            assert_eq!(pending, if ring.seq == seq { small.clone() } else { big.clone() });
        });
        event.replay(&mut unfenced, &mut durable);
    }
}

/// Whoever wrote the entry may have been killed before its fence.
#[test]
fn a_replay_makes_all_of_the_entry_durable_before_and_after_it_stores() {
    let medium = Recorder::new(medium());
    let mut ring = Ring::read(&medium, &superblock()).unwrap().1;
    ring.commit(&medium, &stores(3, 5)).unwrap();
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
