//! Map entries with flags: sectors that are trimmed, and sectors that cannot be read, while others
//! write them.

use loom::thread;
use vhost_user_btt::btt::mutant::Mutant;
use vhost_user_btt::btt::{Block, Error, NeverWritten};
use vm_memory::VolatileSlice;

use crate::explore::{Disk, Model, Words};
use crate::image::{SECTOR, initial, sector};

const MODEL: Model = Model {
    name: "a trim, a writer and a reader",
    lanes: 3,
    queues: 3,
    sectors: &[3],
    atomic: 0,
    whole: true,
    preemptions: Some(3),
};

/// What is read while a sector is written twice and trimmed once; and what it is then.
fn trim(disk: Disk) -> (u64, u64) {
    let [mut writer, mut trimmer, mut reader] = disk.queues();
    let writing = thread::spawn(move || {
        writer.put(3, 1);
        writer.put(3, 2);
    });
    let trimming = thread::spawn(move || {
        trimmer.batch().trim(3, 1, NeverWritten::Leave, 0).unwrap();
    });
    let word = reader.get(3);
    writing.join().unwrap();
    trimming.join().unwrap();
    (word, reader.get(3))
}

#[test]
fn a_trimmed_sector_keeps_its_block() {
    let words = [initial(3), 0, 1, 2];
    let all = words.into_iter().flat_map(|word| [(word, 0), (word, 2)]);
    assert_eq!(MODEL.explore(trim), all.collect());
}

#[test]
fn without_its_map_lock_a_trim_brings_a_freed_block_back() {
    MODEL.catches(Mutant::TrimUnlocked, "", trim);
}

const UNREADABLE: Model = Model {
    name: "a sector that cannot be read, and its writer",
    lanes: 2,
    queues: 2,
    preemptions: None,
    ..MODEL
};

/// What a reader of a sector gets whose block is poisoned, if anything, while it is written; and
/// then.
fn unreadable(disk: Disk) -> (Option<u64>, u64) {
    disk.medium.poison(Block(3));
    let [mut writer, mut reader] = disk.queues();
    let writing = thread::spawn(move || writer.put(3, 1));
    let mut bytes = [0; SECTOR];
    let read = reader.batch().read(3, &VolatileSlice::from(&mut bytes[..]));
    writing.join().unwrap();
    let word = match read {
        Ok(()) => {
            let word = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            assert!(bytes == sector(word), "torn");
            Some(word)
        }
        Err(Error::Media(_)) => None,
        Err(error) => panic!("{error}"),
    };
    (word, reader.get(3))
}

#[test]
fn a_sector_is_marked_as_unreadable_unless_it_was_written() {
    assert_eq!(UNREADABLE.explore(unreadable), [(None, 1), (Some(1), 1)].into());
}

/// The block that was marked is cleared of its poison before it is filled again.
#[test]
fn a_block_that_was_found_poisoned_is_cleared_before_it_is_used_again() {
    let model =
        Model { name: "a sector that is found unreadable, and written twice", ..UNREADABLE };
    let outcomes = model.explore(|disk| {
        disk.medium.poison(Block(3));
        let [mut writer, mut reader] = disk.queues();
        let mut bytes = [0; SECTOR];
        assert!(writer.batch().read(3, &VolatileSlice::from(&mut bytes[..])).is_err());
        let writing = thread::spawn(move || {
            writer.put(3, 1);
            writer.put(3, 2);
        });
        let read = reader.batch().read(3, &VolatileSlice::from(&mut bytes[..]));
        writing.join().unwrap();
        assert!(matches!(read, Ok(()) | Err(Error::SectorError { sector: 3 })), "{read:?}");
        (read.is_ok(), reader.get(3))
    });
    assert_eq!(outcomes, [(false, 2), (true, 2)].into());
}

#[test]
fn whoever_marks_a_sector_without_another_look_loses_what_was_written() {
    UNREADABLE.catches(Mutant::ErrorMarkedBlindly, "SectorError", unreadable);
}
