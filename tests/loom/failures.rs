//! A write that fails between its flog entry and its map entry: nobody may store that map entry after
//! it, since recovery completes the write.

use loom::thread;
use vhost_user_btt::btt::{Btt, Error, NeverWritten, Queue};
use vm_memory::VolatileSlice;

use crate::explore::{Model, OPTIONS, Words};
use crate::image::sector;
use crate::medium::Medium;

const MODEL: Model = Model {
    name: "two writers, of whom one fails",
    lanes: 2,
    queues: 2,
    sectors: &[3],
    atomic: 0,
    whole: false,
    preemptions: None,
};

/// Writes sector 3. The error that it ends with, if any.
fn try_to_write(queue: &mut Queue<Medium>, word: u64) -> Option<Error> {
    let mut bytes = sector(word);
    let mut batch = queue.batch();
    if let Err(error) = batch.write(3, &VolatileSlice::from(&mut bytes[..]), 0) {
        return Some(error);
    }
    batch.commit();
    batch.take_failures().next().map(|(_, error)| error)
}

fn is_refusal(error: Option<&Error>) -> bool {
    matches!(error, Some(Error::ArenaReadOnly { arena: 0 }))
}

/// What sector 3 is to whoever opens the disk next, when the reason of the failure has passed.
fn reopened(medium: Medium) -> u64 {
    medium.accept_stores();
    let (btt, mut queues) = Btt::open(medium, &OPTIONS).unwrap();
    assert!(!btt.is_read_only(), "what can be read is not marked as bad");
    queues[0].get(3)
}

#[test]
fn no_write_follows_one_that_failed() {
    let outcomes = MODEL.explore(|disk| {
        disk.medium.fail_next_map_store();
        let medium = disk.medium.clone();
        let [mut one, mut other] = disk.queues();
        let writing = thread::spawn(move || try_to_write(&mut one, 1));
        let second = try_to_write(&mut other, 2);
        let first = writing.join().unwrap();
        let recovered = reopened(medium);
        // Whoever was first is completed by recovery; the other was refused.
        let refused = if recovered == 1 { second } else { first };
        assert!(is_refusal(refused.as_ref()), "{refused:?}");
        recovered
    });
    assert_eq!(outcomes, [1, 2].into());
}

#[test]
fn no_trim_follows_a_write_that_failed() {
    let model = Model { name: "a writer that fails, and a trim", ..MODEL };
    let outcomes = model.explore(|disk| {
        let medium = disk.medium.clone();
        let [mut writer, mut trimmer] = disk.queues();
        medium.fail_next_map_store();
        let trimming =
            thread::spawn(move || trimmer.batch().trim(3, 1, NeverWritten::Leave, 0).err());
        let written = try_to_write(&mut writer, 1);
        let refused = trimming.join().unwrap();
        let recovered = reopened(medium);
        (is_refusal(refused.as_ref()), written.is_some(), recovered)
    });
    assert_eq!(outcomes, [(false, true, 1), (true, true, 1)].into());
}
