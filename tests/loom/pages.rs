//! Writes of two sectors that are all or nothing: each queue has a record of its own, and the map locks of a
//! page are held together.

use loom::thread;
use vhost_user_btt::btt::Queue;
use vhost_user_btt::btt::mutant::Mutant;
use vm_memory::VolatileSlice;

use crate::explore::{Disk, Model, Words};
use crate::image::{SECTOR, sector};
use crate::medium::Medium;

const MODEL: Model = Model {
    name: "two pages of the same sectors",
    lanes: 4,
    queues: 2,
    sectors: &[2, 3],
    atomic: 2 * SECTOR as u32,
    whole: true,
    preemptions: None,
};

/// Writes sectors 2 and 3 as one page.
fn put_page(queue: &mut Queue<Medium>, word: u64) {
    assert_eq!(queue.btt().atomic_size(), MODEL.atomic);
    let mut bytes = [sector(word), sector(word)].concat();
    let mut batch = queue.batch();
    batch.write(2, &VolatileSlice::from(&mut bytes[..]), 0).unwrap();
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

fn two_pages(disk: Disk) -> [u64; 2] {
    let [mut one, mut other] = disk.queues();
    let writing = thread::spawn(move || put_page(&mut one, 1));
    put_page(&mut other, 2);
    writing.join().unwrap();
    [other.get(2), other.get(3)]
}

#[test]
fn two_pages_of_the_same_sectors_do_not_mix() {
    assert_eq!(MODEL.explore(two_pages), [[1, 1], [2, 2]].into());
}

#[test]
fn a_sector_is_written_before_a_page_or_after_it() {
    let model = Model { name: "a page, and a sector of it", ..MODEL };
    let outcomes = model.explore(|disk| {
        let [mut one, mut other] = disk.queues();
        let writing = thread::spawn(move || put_page(&mut one, 1));
        other.put(3, 2);
        writing.join().unwrap();
        [other.get(2), other.get(3)]
    });
    assert_eq!(outcomes, [[1, 1], [1, 2]].into());
}

#[test]
fn queues_with_one_record_write_over_each_others() {
    MODEL.catches(Mutant::OneRecordForAll, "Concurrent write accesses", two_pages);
}
