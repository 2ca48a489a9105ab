//! The scenarios that are cut off everywhere.

use vhost_user_btt::btt::{LbaSize, NeverWritten, layout};

use super::scenario::Op::{Commit, Part, Read, Trim, Write, Zeroes};
use super::scenario::{Disk, Op, Scenario};

/// How often a queue that could go on is made to wait for another one.
pub const PREEMPTIONS: usize = 2;

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for disk in disks() {
        all.push(single(disk));
        all.push(overwrite(disk));
        if disk.arenas == 2 {
            all.push(boundary(disk));
        }
    }
    for disk in [Disk::of(512), Disk::of(4096).old_layout(), Disk::of(4160).two_arenas()] {
        all.extend(of_one_queue(&disk));
        all.extend(of_two_queues(&disk));
    }
    all
}

/// Those that a mutant is hunted with, the fastest first.
pub fn for_mutants() -> Vec<Scenario> {
    let disk = Disk::of(512);
    let mut all = vec![single(disk), overwrite(disk)];
    all.extend(of_one_queue(&disk));
    all.extend(of_two_queues(&disk));
    all.push(boundary(disk.two_arenas()));
    all
}

/// All sector sizes with both layouts of the log, of one and of two arenas.
fn disks() -> Vec<Disk> {
    LbaSize::ALL
        .into_iter()
        .flat_map(|size| {
            let one = Disk::of(size.external());
            let two = one.two_arenas();
            [one, one.old_layout(), two, two.old_layout()]
        })
        .collect()
}

fn named(name: &str, disk: &Disk, queues: Vec<Vec<Op>>) -> Scenario {
    Scenario::new(&format!("{name} ({disk})"), *disk, queues)
}

fn single(disk: Disk) -> Scenario {
    named("write of a new sector", &disk, vec![vec![Write(5..6), Commit]])
}

fn overwrite(disk: Disk) -> Scenario {
    let write = [Write(0..1), Commit];
    named("writes of one sector", &disk, vec![[write.clone(), write.clone(), write].concat()])
        .lanes(2)
}

/// Over the boundary of two arenas.
fn boundary(disk: Disk) -> Scenario {
    let options = disk.create_options();
    let raw = disk.size() - disk.version.first_arena();
    let (_, first) = layout(raw, options.arena_size, options.lba_size).next().unwrap();
    let next = u64::from(first.external_nlba);
    let ops = vec![
        Write(next - 1..next + 1),
        Commit,
        Trim(next - 1..next + 1, NeverWritten::Leave),
        Commit,
    ];
    named("over two arenas", &disk, vec![ops]).prepared(&[next - 1, next, next - 2])
}

fn of_one_queue(disk: &Disk) -> Vec<Scenario> {
    let named = |name, ops: Vec<Op>| named(name, disk, vec![ops]);
    let leave = NeverWritten::Leave;
    vec![
        named("batch over lanes", vec![Write(0..3), Write(7..8), Commit, Write(2..5), Commit]),
        named("one sector twice in a batch", vec![Write(1..2), Write(1..2), Commit]),
        named("three rounds of one lane", vec![Write(0..3), Commit, Write(0..2), Commit]).lanes(1),
        named("trim", vec![Trim(0..2, leave), Commit, Write(1..2), Commit]),
        named(
            "trim of new sectors",
            vec![Trim(1..6, NeverWritten::Zero), Commit, Write(4..5), Commit],
        ),
        named("zeroes", vec![Zeroes(1..3), Commit]),
        named("parts of a sector", vec![Part(1, 2), Commit, Part(1, 0), Part(5, 3), Commit]),
        named(
            "unreadable, then written",
            vec![Read(1..2), Write(1..2), Commit, Write(2..3), Commit, Write(3..4), Commit],
        )
        .poisoned(&[1])
        .lanes(1),
        named(
            "unreadable, then trimmed",
            vec![Read(1..2), Trim(1..2, leave), Commit, Write(2..4), Commit],
        )
        .poisoned(&[1])
        .lanes(1),
    ]
}

fn of_two_queues(disk: &Disk) -> Vec<Scenario> {
    let named = |name, one: &[Op], two: &[Op]| named(name, disk, vec![one.to_vec(), two.to_vec()]);
    let [write_1, write_2] = [1, 2].map(|sector| [Write(sector..sector + 1), Commit]);
    let read_1 = [Read(1..2), Commit];
    let one_after_another = [write_1.clone(), write_2.clone()].concat();
    vec![
        named("two writers of one sector", &write_1, &write_1),
        named("two writers under one map lock", &write_1, &write_2),
        // With one lane, the second write fills the block that the first one freed.
        named("reader and writer", &read_1, &one_after_another).lanes(1),
        named(
            "two batches crosswise",
            &[Write(1..2), Write(20..21), Commit],
            &[Write(20..21), Write(1..2), Commit],
        ),
        named("reader of neighbours and writer", &[Read(0..3), Commit], &one_after_another)
            .lanes(1),
        named("trim and write", &[Trim(1..2, NeverWritten::Leave), Commit], &one_after_another)
            .lanes(1),
        named(
            "two trims of one sector",
            &[Trim(1..2, NeverWritten::Leave), Commit],
            &[Trim(1..2, NeverWritten::Leave), Commit],
        ),
        named("trim and read", &[Trim(0..3, NeverWritten::Leave), Commit], &[Read(0..3), Commit]),
        named(
            "trim of a new sector, and read",
            &[Trim(5..6, NeverWritten::Zero), Commit],
            &[Read(5..6), Read(1..2), Commit],
        ),
        named("two parts of one sector", &[Part(1, 0), Commit], &[Part(1, 3), Commit]),
        named("part and write", &[Part(1, 0), Commit], &write_1),
        named("unreadable, and written", &read_1, &[&read_1[..1], &write_1, &read_1].concat())
            .poisoned(&[1]),
    ]
}
