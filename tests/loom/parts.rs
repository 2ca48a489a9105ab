//! Writing part of a sector: read, modify and write, while others write it.

use loom::thread;
use vhost_user_btt::btt::Queue;
use vhost_user_btt::btt::mutant::Mutant;
use vm_memory::VolatileSlice;

use crate::explore::{Disk, Model, Words};
use crate::image::{SECTOR, initial};
use crate::medium::Medium;

const HALF: usize = SECTOR / 2;

const MODEL: Model = Model {
    name: "half a sector and a whole one",
    lanes: 2,
    queues: 2,
    sectors: &[3],
    atomic: 0,
    whole: true,
    preemptions: None,
};

/// Writes one half of sector 3.
fn put_half(queue: &mut Queue<Medium>, half: usize, word: u64) {
    let mut bytes = word.to_le_bytes().repeat(HALF / 8);
    let mut batch = queue.batch();
    batch.write_part(3, half * HALF, &VolatileSlice::from(&mut bytes[..]), 0).unwrap();
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

/// The words that the halves of sector 3 consist of.
fn halves(queue: &mut Queue<Medium>) -> [u64; 2] {
    let mut bytes = [0; SECTOR];
    queue.batch().read(3, &VolatileSlice::from(&mut bytes[..])).unwrap();
    [0, 1].map(|half| {
        let (words, _) = bytes[half * HALF..][..HALF].as_chunks::<8>();
        assert!(words.iter().all(|word| *word == words[0]), "half {half} is torn");
        u64::from_le_bytes(words[0])
    })
}

/// One writes the second half, the other the whole sector.
fn half_and_whole(disk: Disk) -> [u64; 2] {
    let [mut one, mut other] = disk.queues();
    let writing = thread::spawn(move || put_half(&mut one, 1, 1));
    other.put(3, 2);
    writing.join().unwrap();
    halves(&mut other)
}

/// One writes the first half, the other the second.
fn both_halves(disk: Disk) -> [u64; 2] {
    let [mut one, mut other] = disk.queues();
    let writing = thread::spawn(move || put_half(&mut one, 0, 1));
    put_half(&mut other, 1, 2);
    writing.join().unwrap();
    halves(&mut other)
}

#[test]
fn a_half_is_written_before_or_after_the_whole() {
    assert_eq!(MODEL.explore(half_and_whole), [[2, 1], [2, 2]].into());
}

#[test]
fn two_halves_make_a_whole() {
    let model = Model { name: "two halves of a sector", ..MODEL };
    assert_eq!(model.explore(both_halves), [[1, 2]].into());
}

#[test]
fn a_reader_gets_a_half_with_the_half_that_was_there() {
    let model = Model { name: "half a sector twice, and a reader", ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut writer, mut reader] = disk.queues();
        let writing = thread::spawn(move || {
            put_half(&mut writer, 1, 1);
            put_half(&mut writer, 0, 2);
        });
        let words = halves(&mut reader);
        writing.join().unwrap();
        words
    });
    assert_eq!(outcomes, [[initial(3), initial(3)], [initial(3), 1], [2, 1]].into());
}

#[test]
fn without_its_map_lock_a_half_undoes_what_another_has_written() {
    MODEL.catches(Mutant::ModifyUnlocked, "", both_halves);
}
