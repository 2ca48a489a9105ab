//! Two writers and a reader, on one sector and on two that share a map lock.

use loom::thread;
use vhost_user_btt::btt::mutant::Mutant;

use crate::explore::{Disk, Model, Words};
use crate::image::initial;

const MODEL: Model = Model {
    name: "two writers and a reader of one sector",
    lanes: 3,
    queues: 3,
    sectors: &[3],
    atomic: 0,
    whole: true,
    preemptions: Some(3),
};

/// Two reads while two write the sector; and what it is in the end.
fn one_sector(disk: Disk) -> [u64; 3] {
    let [mut one, mut other, mut reader] = disk.queues();
    let writing = thread::spawn(move || one.put(3, 1));
    let also_writing = thread::spawn(move || other.put(3, 2));
    let words = [reader.get(3), reader.get(3)];
    writing.join().unwrap();
    also_writing.join().unwrap();
    [words[0], words[1], reader.get(3)]
}

#[test]
fn a_sector_has_one_value_after_another() {
    let outcomes = MODEL.explore(one_sector);
    // Whoever is last, the reader never goes back.
    let mut allowed = std::collections::BTreeSet::new();
    for order in [[initial(3), 1, 2], [initial(3), 2, 1]] {
        for second in 0..3 {
            allowed.extend((0..=second).map(|first| [order[first], order[second], order[2]]));
        }
    }
    assert_eq!(outcomes, allowed);
}

#[test]
fn a_writer_uses_the_block_that_another_has_filled() {
    let model = Model { name: "two writers, one of them twice, and a reader", ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut one, mut other, mut reader] = disk.queues();
        let writing = thread::spawn(move || {
            one.put(3, 1);
            one.put(3, 2);
        });
        let also_writing = thread::spawn(move || other.put(3, 3));
        let word = reader.get(3);
        writing.join().unwrap();
        also_writing.join().unwrap();
        (word, reader.get(3))
    });
    let words = [initial(3), 1, 2, 3];
    let all = words.into_iter().flat_map(|word| [(word, 2), (word, 3)]).collect();
    assert_eq!(outcomes, all);
}

/// In turn under the map lock, each fills the block that it has freed.
#[test]
fn two_writers_use_each_others_blocks() {
    let model =
        Model { name: "two writers, twice each", lanes: 2, queues: 2, preemptions: None, ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut one, mut other] = disk.queues();
        let writing = thread::spawn(move || {
            one.put(3, 1);
            one.put(3, 2);
        });
        other.put(3, 3);
        other.put(3, 4);
        writing.join().unwrap();
        other.get(3)
    });
    assert_eq!(outcomes, [2, 4].into());
}

/// Two writers of two sectors whose map entries share a cache line, and its lock; and a reader.
fn two_sectors(disk: Disk) -> [u64; 2] {
    let [mut one, mut other, mut reader] = disk.queues();
    let writing = thread::spawn(move || {
        one.put(3, 1);
        one.put(3, 2);
    });
    let also_writing = thread::spawn(move || other.put(4, 3));
    let words = [reader.get(3), reader.get(4)];
    writing.join().unwrap();
    also_writing.join().unwrap();
    assert_eq!([reader.get(3), reader.get(4)], [2, 3]);
    words
}

#[test]
fn two_sectors_under_one_lock_do_not_meddle() {
    let model = Model {
        name: "two sectors under one map lock",
        sectors: &[3, 4],
        preemptions: Some(2),
        ..MODEL
    };
    let outcomes = model.explore(two_sectors);
    let threes = [initial(3), 1, 2].into_iter();
    assert_eq!(
        outcomes,
        threes.flat_map(|word| [initial(4), 3].map(|other| [word, other])).collect()
    );
}

#[test]
fn without_map_locks_two_writers_free_the_same_block() {
    MODEL.catches(Mutant::NoMapLocks, "the image is not whole", one_sector);
}

#[test]
fn a_lock_released_before_the_map_entry_is_stored_is_released_too_early() {
    MODEL.catches(Mutant::UnlockedMap, "the image is not whole", one_sector);
}
