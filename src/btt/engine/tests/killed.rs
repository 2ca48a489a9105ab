//! A daemon is killed, the next one opens the BTT, and then the power fails.
//!
//! What the first has stored is seen by the second, durable or not: the caches of the CPU outlive a
//! process. So opening has to make durable what it sees, or a power failure takes away what the second has
//! built on.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::{OPEN, new_medium};
use crate::btt::check::{self, CheckOptions, Verdict};
use crate::btt::{Btt, Queue, Version};
use crate::pmem::PersistentMemory;
use crate::pmem::simulated::{
    Contents, CrashModel, Effort, Event, Random, Recorder, Simulated, trace_of_another,
};

/// Sectors that are looked at.
const SECTORS: usize = 8;

fn open<M: PersistentMemory>(medium: M) -> Queue<M> {
    Btt::open(medium, &OPEN).unwrap().1.remove(0)
}

/// Writes `count` sectors from `first` on, all with `byte`, in one round.
fn write<M: PersistentMemory>(queue: &mut Queue<M>, first: u64, count: usize, byte: u8) {
    let mut data = vec![byte; count * 512];
    let mut batch = queue.batch();
    batch.write(first, &VolatileSlice::from(&mut data[..]), 0).unwrap();
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

fn contents<M: PersistentMemory>(queue: &mut Queue<M>) -> Vec<u8> {
    let mut data = vec![0xee; SECTORS * 512];
    queue.batch().read(0, &VolatileSlice::from(&mut data[..])).unwrap();
    data
}

/// A BTT with some sectors written.
fn prepared() -> Contents {
    let medium = new_medium(512, Version::V2_0);
    let medium = Arc::new(medium);
    let mut queue = open(medium.clone());
    write(&mut queue, 0, 3, 1);
    medium.snapshot()
}

/// What a daemon does to a medium: it opens the BTT, overwrites sectors, and writes new ones.
fn serve(medium: Arc<Recorder>) {
    let mut queue = open(medium);
    write(&mut queue, 1, 4, 2);
    write(&mut queue, 2, 1, 3);
}

/// What a daemon takes for durable of that which a killed one has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Nothing: it flushes all that it relies on.
    Nothing,
    /// Everything.
    Blind,
}

/// Opens the BTT that `seen` shows. Returns what it reads, and what that does to the medium.
fn next_daemon(seen: Contents) -> (Vec<u8>, Vec<Event>) {
    let recorder = Arc::new(Recorder::new(Simulated::of(seen)));
    let read = contents(&mut open(recorder.clone()));
    (read, recorder.take_trace())
}

/// Kills the first daemon everywhere. Returns how many different contents the next ones have seen.
fn kill_everywhere(trust: Trust) -> usize {
    let base = prepared();
    let trace = trace_of_another(&base, serve);
    let effort = Effort { most: 200, random: 4, lines: 4 };
    let mut random = Random::new(1);
    let mut states = Vec::new();
    for killed in 0..=trace.len() {
        let mut left = CrashModel::after(&base, &trace[..killed]);
        let (read, mut events) = next_daemon(left.seen());
        if trust == Trust::Blind {
            events.retain(|event| !matches!(event, Event::Flush { .. }));
        }
        left.replay(&events);
        left.images(&effort, &mut random, &mut |image| {
            let medium = Arc::new(Simulated::of(image));
            assert!(contents(&mut open(medium.clone())) == read, "killed after event {killed}");
            let report = check::check(&*medium, &CheckOptions::default(), &mut |_, _| {});
            assert_eq!(report.verdict(), Verdict::Clean, "killed after event {killed}");
        });
        if !states.contains(&read) {
            states.push(read);
        }
    }
    states.len()
}

#[test]
fn what_is_seen_after_a_kill_is_there_after_a_power_failure() {
    // As before, the four sectors of the first round one after another, and that of the second.
    assert_eq!(kill_everywhere(Trust::Nothing), 6);
}

/// The first info block is torn as long as a growth is under way, and the second leads on: were the first
/// whole again after a power failure, the arenas behind would be gone.
#[test]
fn an_info_block_that_is_torn_is_settled_and_one_that_cannot_be_read_is_left_alone() {
    let base = prepared();
    let is_flushed = |damage: fn(&Simulated)| {
        let medium = Simulated::of(base.clone());
        damage(&medium);
        let recorder = Arc::new(Recorder::new(medium));
        open(recorder.clone());
        let events = recorder.take_trace();
        events.iter().any(|event| matches!(event, Event::Flush { offset: 0, .. }))
    };
    assert!(is_flushed(|_| {}));
    assert!(is_flushed(|medium| medium.store_u64(96, 5).unwrap()));
    assert!(!is_flushed(|medium| medium.poison(0..64)));
}

#[test]
#[should_panic(expected = "killed after event")]
fn a_daemon_that_trusts_what_a_killed_one_has_stored_is_noticed() {
    kill_everywhere(Trust::Blind);
}
