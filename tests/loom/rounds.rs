//! Rounds: several sectors, and several map locks.

use loom::thread;
use vhost_user_btt::btt::mutant::Mutant;

use crate::explore::{Disk, Model, Words};
use crate::image::initial;

const MODEL: Model = Model {
    name: "two rounds that take two map locks",
    lanes: 4,
    queues: 2,
    sectors: &[3, 20],
    atomic: 0,
    whole: true,
    preemptions: None,
};

/// Two rounds of the same two sectors, in opposite order.
fn opposite(disk: Disk) -> [u64; 2] {
    let [mut one, mut other] = disk.queues();
    let writing = thread::spawn(move || {
        one.put_all(&[(3, 1), (20, 1)]);
    });
    other.put_all(&[(20, 2), (3, 2)]);
    writing.join().unwrap();
    [other.get(3), other.get(20)]
}

#[test]
fn rounds_in_opposite_order_do_not_wait_for_each_other() {
    let outcomes = MODEL.explore(opposite);
    // With all locks taken before anything is logged, one round is before the other.
    assert_eq!(outcomes, [[1, 1], [2, 2]].into());
}

#[test]
fn a_reader_of_a_round_gets_each_sector_old_or_new() {
    let model = Model { name: "a round of two sectors, and a reader", ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut writer, mut reader] = disk.queues();
        let writing = thread::spawn(move || {
            writer.put_all(&[(3, 1), (20, 1)]);
        });
        let words = [reader.get(3), reader.get(20)];
        writing.join().unwrap();
        words
    });
    let [old, new] = [[initial(3), initial(20)], [1, 1]];
    let all = [old, [old[0], 1], [1, old[1]], new];
    assert_eq!(outcomes, all.into());
}

#[test]
fn a_sector_that_comes_twice_is_written_twice() {
    let model = Model { name: "a sector twice in a batch, and another writer", ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut one, mut other] = disk.queues();
        let writing = thread::spawn(move || {
            one.put_all(&[(3, 1), (20, 1), (3, 2)]);
        });
        other.put_all(&[(20, 3), (3, 3)]);
        writing.join().unwrap();
        [other.get(3), other.get(20)]
    });
    assert_eq!(outcomes, [[2, 1], [2, 3], [3, 3]].into());
}

#[test]
fn locks_in_any_order_end_in_deadlock() {
    MODEL.catches(Mutant::UnsortedLocks, "deadlock", opposite);
}
