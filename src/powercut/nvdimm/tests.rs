//! What a power failure leaves of stores, and of what others store.

use std::collections::HashSet;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::super::shadow::Left;
use super::*;
use crate::pmem::DurabilityRequest;

const ALL: Range<u64> = 0..16384;

struct Scenario {
    file: std::fs::File,
    medium: PowerFail,
}

impl Scenario {
    fn new(seed: u64) -> Scenario {
        Scenario::failing(PowerFailure { after_fences: None, seed, loses_flushes: false })
    }

    fn failing(failure: PowerFailure) -> Scenario {
        let file = tempfile::tempfile().unwrap();
        file.set_len(ALL.end).unwrap();
        let clone = file.try_clone().unwrap();
        let mapping =
            Mapping::new(clone, ALL, Protection::ReadWrite, DurabilityRequest::Auto).unwrap();
        Scenario { file, medium: PowerFail::new(mapping, failure).unwrap() }
    }

    /// What another process stores, which has mapped the file.
    fn others_store(&self, range: Range<u64>, value: u8) {
        let bytes = vec![value; (range.end - range.start) as usize];
        self.file.write_all_at(&bytes, range.start).unwrap();
    }

    /// Shares pages with others.
    fn share_file(&self, range: Range<u64>) -> SharedFile {
        let shared_file = self.medium.share_file(Protection::ReadWrite).unwrap();
        shared_file.note_mapped(range.start, range.end - range.start);
        shared_file
    }

    /// Lets the power fail; returns what it has left.
    fn fail(&self) -> (Left, Vec<u8>) {
        let PowerFail { shadow, failure, .. } = &self.medium;
        let left = shadow.fail(&shadow.state(), &mut Random::new(failure.seed));
        let mut bytes = vec![0; ALL.end as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        (left, bytes)
    }

    fn in_file(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, offset).unwrap();
        byte[0]
    }

    fn seen(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.medium.read_bytes(offset, &mut byte).unwrap();
        byte[0]
    }
}

#[test]
fn the_file_gets_what_is_fenced_and_the_system_sees_all() {
    let scenario = Scenario::new(0);
    let medium = &scenario.medium;
    medium.store_u64(64, 1).unwrap();
    medium.write_bytes(4096, &[2; 64]).unwrap();
    medium.store_u32(128, 3).unwrap();
    medium.flush(64, 8).unwrap();
    for (offset, value) in [(64, 1), (4096, 2), (128, 3)] {
        assert_eq!((scenario.seen(offset), scenario.in_file(offset)), (value, 0));
    }
    medium.fence().unwrap();
    assert_eq!([64, 4096, 128].map(|offset| scenario.in_file(offset)), [1, 2, 0]);
    assert_eq!(medium.load_u32(128).unwrap(), 3);
}

#[test]
fn zeroes_are_seen_and_durable_at_once() {
    let scenario = Scenario::new(0);
    scenario.medium.write_bytes(0, &[7; 8192]).unwrap();
    scenario.medium.fence().unwrap();
    scenario.medium.zero(4032, 4160).unwrap();
    for (offset, value) in [(4031, 7), (4032, 0), (8191, 0)] {
        assert_eq!((scenario.seen(offset), scenario.in_file(offset)), (value, value));
    }
}

#[test]
fn a_failure_leaves_what_the_seed_says() {
    let remains = |seed| {
        let Scenario { file, medium } = Scenario::new(seed);
        medium.write_bytes(0, &[1; 512]).unwrap();
        medium.fence().unwrap();
        medium.write_bytes(0, &[2; 512]).unwrap();
        medium.write_bytes(512, &[2; 512]).unwrap();
        let remains = medium.leave(&medium.state());
        let mut bytes = vec![0; 1024];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..512].iter().all(|byte| [1, 2].contains(byte)));
        assert!(bytes[512..].iter().all(|byte| [0, 2].contains(byte)));
        let kept = bytes.iter().map(|byte| u64::from(*byte == 2)).sum();
        assert_eq!(remains, Remains { fences: 1, pending: 1024, kept });
        bytes
    };
    let all: HashSet<Vec<u8>> = (0..32).map(remains).collect();
    assert!(all.len() > 8, "{} different images", all.len());
    assert_eq!(remains(5), remains(5));
}

#[test]
fn an_orderly_end_loses_nothing() {
    let scenario = Scenario::new(0);
    scenario.medium.store_u32(0, 9).unwrap();
    let Scenario { file, medium } = scenario;
    drop(medium);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [9]);
}

/// Others have the second and third page. They flush ones, and then store twos, over them and beside them.
fn others_are_at_work(scenario: &Scenario) -> (Left, Vec<u8>) {
    scenario.others_store(0..4096, 9);
    let shared_file = scenario.share_file(4096..12288);
    scenario.others_store(4096..6000, 1);
    shared_file.sync().unwrap();
    scenario.others_store(4804..5004, 2);
    scenario.others_store(8192..8200, 2);
    // What they had stored to pages that they have already is none that was there before.
    scenario.share_file(4096..16384);
    scenario.fail()
}

/// How many of these are `value`.
fn count(bytes: &[u8], value: u8) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == value)).sum()
}

#[test]
fn what_others_store_is_lost_in_part_unless_they_flush_it() {
    let mut all = HashSet::new();
    for seed in 0..32 {
        let (left, bytes) = others_are_at_work(&Scenario::new(seed));
        assert_eq!(count(&bytes[..4096], 9), 4096, "they were never mapped");
        assert_eq!(count(&bytes[4096..4804], 1) + count(&bytes[5004..6000], 1), 1704);
        let (over, beside) = (&bytes[4804..5004], &bytes[8192..8200]);
        assert_eq!(count(over, 1) + count(over, 2), 200);
        assert_eq!(count(beside, 0) % 8 + count(beside, 2) % 8, 0, "a word is torn");
        assert_eq!(count(&bytes[6000..8192], 0) + count(&bytes[8200..], 0), 2192 + 8184);
        // The words that were stored to, the first and the last of them in part.
        assert_eq!(left.pending, 208 + 8);
        assert!(left.kept >= count(over, 2) + count(beside, 2));
        assert_eq!(others_are_at_work(&Scenario::new(seed)).1, bytes, "the same seed");
        all.insert(bytes);
    }
    assert!(all.len() > 8, "{} different images", all.len());
}

#[test]
fn what_is_flushed_is_lost_where_flushes_are() {
    let lost = |seed| {
        let failure = PowerFailure { after_fences: None, seed, loses_flushes: true };
        let (_, bytes) = others_are_at_work(&Scenario::failing(failure));
        count(&bytes[5004..6000], 0) > 0
    };
    assert!((0..8).any(lost));
}

#[test]
fn zeroes_are_durable_where_something_is_lent() {
    for seed in 0..8 {
        let scenario = Scenario::new(seed);
        scenario.others_store(4096..12288, 1);
        let shared_file = scenario.share_file(4096..12288);
        scenario.others_store(4096..8192, 2);
        scenario.medium.zero(4096, 4096).unwrap();
        let (remains, bytes) = scenario.fail();
        assert_eq!((count(&bytes, 1), count(&bytes, 2), remains.pending), (4096, 0, 0));
        drop(shared_file);
    }
}
