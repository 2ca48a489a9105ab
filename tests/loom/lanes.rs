//! More queues than lanes: they share.

use loom::thread;

use crate::explore::{Model, Words};
use crate::image::initial;

#[test]
fn queues_that_share_the_only_lane_take_turns() {
    let model = Model {
        name: "three queues on one lane",
        lanes: 1,
        queues: 3,
        sectors: &[3, 20],
        atomic: 0,
        whole: true,
        preemptions: Some(3),
    };
    let outcomes = model.explore(|disk| {
        let [mut one, mut other, mut reader] = disk.queues();
        let writing = thread::spawn(move || one.put(3, 1));
        let also_writing = thread::spawn(move || {
            other.put(20, 2);
            other.put(3, 3);
        });
        let word = reader.get(3);
        writing.join().unwrap();
        also_writing.join().unwrap();
        assert_eq!(reader.get(20), 2);
        (word, reader.get(3))
    });
    let words = [initial(3), 1, 3];
    assert_eq!(outcomes, words.into_iter().flat_map(|word| [(word, 1), (word, 3)]).collect());
}

#[test]
fn queues_that_share_a_lane_are_safe_from_a_reader_with_another() {
    let model = Model {
        name: "two queues on a lane, a reader on another",
        lanes: 2,
        queues: 3,
        sectors: &[3],
        atomic: 0,
        whole: true,
        preemptions: Some(3),
    };
    let outcomes = model.explore(|disk| {
        // The first and the third have the first lane.
        let [mut one, mut reader, mut other] = disk.queues();
        let writing = thread::spawn(move || one.put(3, 1));
        let also_writing = thread::spawn(move || other.put(3, 2));
        let word = reader.get(3);
        writing.join().unwrap();
        also_writing.join().unwrap();
        (word, reader.get(3))
    });
    let words = [initial(3), 1, 2];
    assert_eq!(outcomes, words.into_iter().flat_map(|word| [(word, 1), (word, 2)]).collect());
}
