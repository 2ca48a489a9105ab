//! Read tracking: a block that a writer has freed is not filled again while it is read.

use std::collections::BTreeSet;

use loom::thread;
use vhost_user_btt::btt::mutant::Mutant;

use crate::explore::{Disk, Model, Words};
use crate::image::initial;

/// A writer with one lane: its second write fills the block that its first has freed.
const MODEL: Model = Model {
    name: "a reader, and a writer that uses its block again",
    lanes: 2,
    queues: 2,
    sectors: &[3],
    atomic: 0,
    whole: true,
    preemptions: None,
};

/// Reads while somebody writes twice.
fn read_once(disk: Disk) -> u64 {
    let [mut writer, mut reader] = disk.queues();
    let writing = thread::spawn(move || {
        writer.put(3, 1);
        writer.put(3, 2);
        writer
    });
    let word = reader.get(3);
    let mut writer = writing.join().unwrap();
    assert_eq!((writer.get(3), reader.get(3)), (2, 2));
    word
}

#[test]
fn a_reader_gets_what_was_there_before_between_or_after() {
    assert_eq!(MODEL.explore(read_once), BTreeSet::from([initial(3), 1, 2]));
}

/// Reads two sectors, while somebody writes the first twice.
fn go_on(disk: Disk) -> [u64; 2] {
    let [mut writer, mut reader] = disk.queues();
    let writing = thread::spawn(move || {
        writer.put(3, 1);
        writer.put(3, 2);
    });
    let words = [reader.get(3), reader.get(5)];
    writing.join().unwrap();
    words
}

const GOING_ON: Model = Model { name: "a reader that goes on", sectors: &[3, 5], ..MODEL };

/// The writer waits for its old block, and sees that the reader has gone on to the next.
#[test]
fn a_reader_that_goes_on_has_left_its_block() {
    let outcomes = GOING_ON.explore(go_on);
    assert_eq!(outcomes, [initial(3), 1, 2].map(|word| [word, initial(5)]).into());
}

/// The block that is freed by a write of one sector comes to hold another.
#[test]
fn a_reader_never_gets_another_sector() {
    let model = Model { name: "a block that goes to another sector", sectors: &[3, 5], ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut writer, mut reader] = disk.queues();
        let writing = thread::spawn(move || {
            writer.put(3, 1);
            writer.put(5, 2);
            writer.put(3, 3);
        });
        let word = reader.get(3);
        writing.join().unwrap();
        word
    });
    assert_eq!(outcomes, BTreeSet::from([initial(3), 1, 3]));
}

#[test]
fn two_readers_are_both_waited_for() {
    let model = Model { name: "two readers", lanes: 3, queues: 3, preemptions: Some(3), ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut writer, mut one, mut other] = disk.queues();
        let writing = thread::spawn(move || {
            writer.put(3, 1);
            writer.put(3, 2);
        });
        let reading = thread::spawn(move || one.get(3));
        let word = other.get(3);
        writing.join().unwrap();
        (word, reading.join().unwrap())
    });
    let words = [initial(3), 1, 2];
    let pairs = words.into_iter().flat_map(|word| words.map(|other| (word, other)));
    assert_eq!(outcomes, pairs.collect());
}

/// What loom says of two accesses that nothing orders.
pub const RACE: &str = "Causality violation: Concurrent read and write accesses";

#[test]
fn without_the_readers_fence_its_block_is_filled_under_it() {
    MODEL.catches(Mutant::NoReaderFence, RACE, read_once);
}

#[test]
fn without_the_writers_fence_a_block_is_filled_under_its_reader() {
    MODEL.catches(Mutant::NoWriterFence, RACE, read_once);
}

#[test]
fn without_a_second_look_a_reader_reads_a_block_that_it_may_not() {
    MODEL.catches(Mutant::NoSecondLook, RACE, read_once);
}

#[test]
fn a_writer_that_does_not_wait_fills_a_block_under_its_reader() {
    MODEL.catches(Mutant::NoWaitForReaders, RACE, read_once);
}

#[test]
fn unless_a_slot_is_cleared_by_a_release_its_block_is_filled_too_early() {
    MODEL.catches(Mutant::RelaxedClear, RACE, read_once);
}

#[test]
fn unless_a_slot_is_taken_by_a_release_the_block_before_is_filled_too_early() {
    GOING_ON.catches(Mutant::RelaxedPublish, RACE, go_on);
}
