//! Streamed data in the page cache: they are drained before the map entry that leads to them is stored.
//!
//! A CPU shows other CPUs its ordinary stores in order, and its streaming stores in any order until a fence
//! drains them. On persistent memory every fence drains. In the page cache a fence drains only if its thread
//! has streamed, so the models run on that fence as well, and on mutants of it.

use std::collections::BTreeSet;

use loom::thread;

use crate::explore::{Disk, Model, Words};
use crate::image::initial;
use crate::medium::Streaming;

const MODEL: Model = Model {
    name: "streamed data in the page cache",
    lanes: 2,
    queues: 2,
    sectors: &[3, 5],
    atomic: 0,
    whole: true,
    preemptions: None,
};

/// What the medium says when a thread reads data that were not drained.
const UNDRAINED: &str = "is read before its writer's fence";

/// Reads a sector while another thread writes it.
fn read_while_written(disk: Disk) -> u64 {
    let [mut writer, mut reader] = disk.queues();
    let writing = thread::spawn(move || writer.put(3, 1));
    let word = reader.get(3);
    writing.join().unwrap();
    assert_eq!(reader.get(3), 1);
    word
}

/// Two threads write, each a sector of its own, and read the other's.
fn write_both(disk: Disk) -> [u64; 2] {
    let [mut one, mut other] = disk.queues();
    let writing = thread::spawn(move || {
        one.put(3, 1);
        one.get(5)
    });
    other.put(5, 2);
    let word = other.get(3);
    [word, writing.join().unwrap()]
}

const BOTH: Model =
    Model { name: "two that stream in the page cache", preemptions: Some(2), ..MODEL };

#[test]
fn a_published_sector_of_the_page_cache_shows_its_data() {
    let words = MODEL.explore_on(Streaming::PageCache, read_while_written);
    assert_eq!(words, BTreeSet::from([initial(3), 1]));
}

#[test]
fn two_writers_of_the_page_cache_see_each_others_data() {
    let words = BOTH.explore_on(Streaming::PageCache, write_both);
    assert_eq!(words, [[1, 2], [1, initial(5)], [initial(3), 2]].into());
}

#[test]
fn a_fence_of_the_page_cache_that_does_not_drain_shows_undrained_data() {
    MODEL.catches_on(Streaming::Undrained, UNDRAINED, read_while_written);
}

#[test]
fn another_threads_fence_does_not_drain_what_a_thread_has_streamed() {
    BOTH.catches_on(Streaming::SharedNote, UNDRAINED, write_both);
}
