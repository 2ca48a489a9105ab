//! Sectors that are moved to where they belong, with and without writes to them meanwhile.
//!
//! A scenario's disk has four sectors in blocks that are not theirs. With lanes of 128, a queue's free blocks
//! are where two of them belong, and two others have to make room.

use vhost_user_btt::btt::NeverWritten;
use vhost_user_btt::btt::mutant::Mutant;
use vhost_user_btt::pmem::simulated::MediumKind;

use super::mutants::AnyMutant;
use super::scenario::Op::{Commit, Defragment, Flush, Part, Read, Trim, Write};
use super::scenario::{Disk, Op, Scenario};

/// Lanes of a queue.
const LANES: usize = 128;
/// Scenarios on disks that differ in what moves have little to do with.
const FEW: usize = 2;

pub fn all() -> Vec<Scenario> {
    let mut all = of_one_queue(Disk::of(512));
    let shortest = |disk| of_one_queue(disk).into_iter().take(FEW);
    all.extend(shortest(Disk::of(4160).old_layout()));
    all.extend(shortest(Disk::of(528).strict(512)));
    all.extend(of_two_queues(Disk::of(512)));
    all.extend(of_page_cache(Disk::of(512).page_cache(512)));
    all.extend(of_page_cache(Disk::of(4096).page_cache(4096)).into_iter().take(1));
    all
}

/// Where a mutant is hunted: those first that are about what it does wrong.
pub fn for_mutant(mutant: AnyMutant) -> Vec<Scenario> {
    let disk = Disk::of(512);
    let mut all = match mutant.of_engine() {
        Some(Mutant::MovedUnsynced) => of_page_cache(disk.page_cache(512)),
        Some(Mutant::MovedUnlocked) => of_two_queues(disk),
        Some(Mutant::NeverWrittenMoved) => vec![to_other_blocks(disk)],
        _ => Vec::new(),
    };
    all.extend(of_one_queue(disk));
    all
}

fn named(name: &str, disk: Disk, queues: Vec<Vec<Op>>) -> Scenario {
    Scenario::new(&format!("defragmented, {name} ({disk})"), disk, queues).lanes(LANES)
}

fn of_one_queue(disk: Disk) -> Vec<Scenario> {
    let leave = NeverWritten::Leave;
    let of = |name, ops: Vec<Op>| named(name, disk, vec![ops]);
    let mut all = vec![
        of("after a trim", vec![Trim(1..3, leave), Defragment(0), Commit, Write(0..1), Commit]),
        of("and written", vec![Defragment(0), Commit, Write(1..3), Commit]),
        of("twice", vec![Write(2..4), Commit, Defragment(0), Commit, Defragment(0), Read(0..4)]),
        to_other_blocks(disk),
        of("in between", vec![Write(5..6), Commit, Defragment(0), Part(0, 2), Commit]),
    ];
    if disk.medium == MediumKind::Dax {
        let ops = vec![Read(1..2), Defragment(0), Commit, Write(1..2), Commit, Read(0..4)];
        all.push(of("unreadable", ops).poisoned(&[1]));
        let ops = vec![Write(0..2), Commit, Defragment(0), Write(0..2), Commit];
        all.push(of("pages", ops).atomic(4).lanes(16));
    }
    all
}

/// Sectors that were never written have the blocks where others belong.
fn to_other_blocks(disk: Disk) -> Scenario {
    let ops = vec![Defragment(2), Commit, Write(5..6), Commit];
    named("to other blocks", disk, vec![ops]).watched([6])
}

fn of_two_queues(disk: Disk) -> Vec<Scenario> {
    let leave = NeverWritten::Leave;
    let moves = vec![Defragment(0), Commit];
    let of = |name, others: Vec<Op>| named(name, disk, vec![moves.clone(), others]);
    vec![
        of("while written", vec![Write(0..1), Commit, Write(2..3), Commit]),
        of("while trimmed", vec![Trim(0..3, leave), Commit]),
        of("while read", vec![Read(0..4), Commit]),
        of("while written in part", vec![Part(0, 1), Commit]),
        named("by two", disk, vec![moves.clone(), moves.clone()]),
    ]
}

/// What was flushed is whole, however far a move has come.
fn of_page_cache(disk: Disk) -> Vec<Scenario> {
    let of = |name, ops: Vec<Op>| named(name, disk, vec![ops]);
    let write = Write(0..2);
    vec![
        of("flushed before", vec![Defragment(0), Commit, Write(4..5), Commit]),
        of("not flushed", vec![write.clone(), Commit, Defragment(0), Commit, Flush, Write(3..4)]),
        of("and flushed", vec![write, Flush, Defragment(0), Commit, Write(2..3), Commit]),
    ]
}
