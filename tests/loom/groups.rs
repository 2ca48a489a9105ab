//! Reading several sectors together, which share the fence of the read tracking.

use std::collections::BTreeSet;

use loom::thread;
use vhost_user_btt::btt::Queue;
use vhost_user_btt::btt::mutant::Mutant;
use vm_memory::VolatileSlice;

use crate::explore::{Disk, Model, Words};
use crate::image::{SECTOR, initial, sector};
use crate::medium::Medium;
use crate::reuse::RACE;

/// A writer with one lane, which fills the block that it freed last.
const MODEL: Model = Model {
    name: "a reader of two sectors together, and a writer that uses their blocks again",
    lanes: 2,
    queues: 2,
    sectors: &[3, 4],
    atomic: 0,
    whole: true,
    preemptions: None,
};

/// Reads sectors 3 and 4 together.
fn get_both(queue: &mut Queue<Medium>) -> [u64; 2] {
    let mut bytes = [0; 2 * SECTOR];
    queue.batch().read(3, &VolatileSlice::from(&mut bytes[..])).unwrap();
    let mut words = [0; 2];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(SECTOR)) {
        *word = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == sector(*word), "a sector is torn");
    }
    words
}

/// Reads both while somebody writes the second twice.
fn second_twice(disk: Disk) -> [u64; 2] {
    let [mut writer, mut reader] = disk.queues();
    let writing = thread::spawn(move || {
        writer.put(4, 1);
        writer.put(4, 2);
    });
    let words = get_both(&mut reader);
    writing.join().unwrap();
    words
}

#[test]
fn each_of_a_group_is_what_it_was_before_between_or_after() {
    let outcomes = MODEL.explore(second_twice);
    assert_eq!(outcomes, [initial(4), 1, 2].map(|word| [initial(3), word]).into());
}

/// The first sector's old block comes to hold the second.
#[test]
fn a_group_never_has_another_sectors_block() {
    let outcomes = MODEL.explore(|disk| {
        let [mut writer, mut reader] = disk.queues();
        let writing = thread::spawn(move || {
            writer.put(3, 1);
            writer.put(4, 2);
        });
        let words = get_both(&mut reader);
        writing.join().unwrap();
        words
    });
    // Never the first as it was before the second: the first is looked at again after the second was.
    let all = [[initial(3), initial(4)], [1, initial(4)], [1, 2]];
    assert_eq!(outcomes, BTreeSet::from(all));
}

#[test]
fn without_a_second_look_a_group_reads_blocks_that_it_may_not() {
    MODEL.catches(Mutant::NoSecondLook, RACE, second_twice);
}

#[test]
fn without_the_readers_fence_a_block_of_a_group_is_filled_under_it() {
    MODEL.catches(Mutant::NoReaderFence, RACE, second_twice);
}
