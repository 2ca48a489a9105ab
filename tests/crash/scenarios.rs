//! The scenarios that are cut off everywhere.

use vhost_user_btt::btt::{LbaSize, NeverWritten};

use vhost_user_btt::pmem::simulated::MediumKind;

use super::scenario::Op::{Commit, Flush, Part, Read, Trim, Write, Zeroes};
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
        all.extend(of_unreadable_sectors(&disk));
        all.extend(of_two_queues(&disk));
    }
    for disk in [512, 4224].map(|size| Disk::of(size).two_arenas()) {
        all.push(same_lines(disk));
    }
    for (size, disk_sector) in [(512, 512), (4096, 512), (528, 4096)] {
        let disk = Disk::of(size).strict(disk_sector);
        all.extend([single(disk), overwrite(disk)]);
        all.extend(of_one_queue(&disk));
    }
    all.extend(of_two_queues(&Disk::of(512).strict(512)));
    for (size, disk_sector) in [(512, 512), (4096, 4096)] {
        all.extend(flushed(&Disk::of(size).page_cache(disk_sector)));
    }
    all
}

/// Those that a mutant is hunted with, the fastest first.
pub fn for_mutants() -> Vec<Scenario> {
    let disk = Disk::of(512);
    let mut all = vec![single(disk), overwrite(disk), single(Disk::of(520))];
    all.extend(of_one_queue(&disk));
    all.extend(of_unreadable_sectors(&disk));
    all.push(boundary(disk.two_arenas()));
    all.push(same_lines(disk.two_arenas()));
    all.extend(flushed(&disk.page_cache(512)));
    // These take longest.
    all.extend(of_two_queues(&disk));
    let strict = disk.strict(512);
    all.extend([single(strict), overwrite(strict)]);
    all.extend(of_one_queue(&strict));
    all.extend(of_two_queues(&strict));
    all
}

/// Those whose rounds and reads are long: cut off where that may leave something new, and sampled.
pub fn wide(is_deep: bool) -> Vec<Scenario> {
    let first = Disk::of(512);
    let others = [Disk::of(4104).two_arenas(), Disk::of(528).strict(512)];
    if is_deep {
        return [&first]
            .into_iter()
            .chain(&others)
            .flat_map(|disk| wide_on(disk, &WIDTHS))
            .collect();
    }
    // Rounds of one queue are enough where only the disk is another one.
    let mut all = wide_on(&first, &[9, 65]);
    all.extend(
        others.iter().flat_map(|disk| wide_on(disk, &[9])).filter(Scenario::is_of_one_queue),
    );
    all
}

/// How many sectors are written together: up to as many as a round can have, and more.
const WIDTHS: [u64; 5] = [9, 17, 40, 64, 65];

/// Those of them that a mutant is hunted with.
pub fn wide_for_mutants() -> Vec<Scenario> {
    wide_on(&Disk::of(512).two_arenas(), &WIDTHS)
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
    let next = u64::from(disk.arenas().next().unwrap().external_nlba);
    let ops = vec![
        Write(next - 1..next + 1),
        Commit,
        Trim(next - 1..next + 1, NeverWritten::Leave),
        Commit,
    ];
    named("over two arenas", &disk, vec![ops]).prepared(&[next - 1, next, next - 2])
}

/// Sectors whose map entries are in lines of the same number, each in another arena: one after another in
/// a round, in either order. With one lane in each arena, the next round writes over what the flog says of
/// the last, so that a map entry which is not durable by then is lost.
fn same_lines(disk: Disk) -> Scenario {
    let next = u64::from(disk.arenas().next().unwrap().external_nlba);
    let [one, two] = [3, 5].map(|sector| Write(sector..sector + 1));
    let [other_one, other_two] = [3, 5].map(|sector| Write(next + sector..next + sector + 1));
    let rounds = [[one.clone(), other_one.clone(), Commit], [other_two, two, Commit]];
    let ops = [rounds.concat(), vec![other_one, one, Commit]].concat();
    let scenario = named("the same lines of two arenas", &disk, vec![ops]).lanes(1);
    scenario.prepared(&[3, next + 3, next + 5])
}

/// Rounds of `widths` sectors, and reads of as many.
fn wide_on(disk: &Disk, widths: &[u64]) -> Vec<Scenario> {
    let round = |count: u64| {
        let ops = vec![Write(0..count), Commit, Read(0..count), Write(1..count), Commit];
        let after = vec![Trim(2..count - 2, NeverWritten::Zero), Commit, Read(0..count + 3)];
        named(&format!("{count} sectors together"), disk, vec![[ops, after].concat()]).lanes(64)
    };
    let mut all: Vec<Scenario> = widths.iter().copied().map(round).collect();
    // From the end to the begin, and every other: their blocks do not follow one another.
    let backwards: Vec<Op> = (0..20).rev().map(|sector| Write(sector..sector + 1)).collect();
    let every_other: Vec<Op> = (0..20).step_by(2).map(|sector| Write(sector..sector + 1)).collect();
    let ops = [backwards, vec![Commit, Read(0..22)], every_other, vec![Commit, Read(0..20)]];
    all.push(named("20 sectors in another order", disk, vec![ops.concat()]).lanes(32));
    let reader = vec![Read(0..9), Read(3..12), Commit];
    let writer = [Write(0..10), Commit, Write(0..10), Commit, Write(2..12), Commit].to_vec();
    all.push(named("ten sectors read and written", disk, vec![reader, writer]).lanes(16));
    if disk.arenas == 2 {
        let next = u64::from(disk.arenas().next().unwrap().external_nlba);
        let ops = vec![Write(next - 10..next + 10), Commit, Read(next - 12..next + 12)];
        let again = vec![Write(next - 1..next + 5), Write(next - 9..next - 3), Commit];
        let across = named("20 sectors over two arenas", disk, vec![[ops, again].concat()]);
        all.push(across.lanes(32).prepared(&[next - 1, next]));
    }
    all
}

/// Writes and flushes of a page cache.
fn flushed(disk: &Disk) -> Vec<Scenario> {
    let named = |name, ops: Vec<Op>| named(name, disk, vec![ops]).lanes(2);
    let leave = NeverWritten::Leave;
    let next = Write(2..3);
    vec![
        named("a flushed write", vec![Write(0..1), Flush, Write(1..2), Commit]),
        named(
            "flushes",
            vec![Write(0..2), Flush, Write(0..1), Commit, next, Flush, Write(1..2), Commit],
        ),
        named(
            "flushed trims",
            vec![Trim(0..2, leave), Flush, Write(1..2), Flush, Part(2, 1), Commit],
        ),
        named(
            "a flushed batch",
            vec![Write(0..3), Flush, Write(5..7), Commit, Write(5..6), Commit],
        ),
    ]
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
    ]
}

/// With poison, as there is in persistent memory.
fn of_unreadable_sectors(disk: &Disk) -> Vec<Scenario> {
    let named = |name, ops: Vec<Op>| named(name, disk, vec![ops]);
    let leave = NeverWritten::Leave;
    vec![
        named(
            "unreadable, then written",
            vec![
                Read(1..2),
                Write(1..2),
                Commit,
                Write(2..3),
                Commit,
                Write(3..4),
                Commit,
                Read(0..4),
            ],
        )
        .poisoned(&[1])
        .lanes(1),
        named(
            "unreadable, then trimmed",
            vec![Read(1..2), Trim(1..2, leave), Commit, Write(2..4), Commit, Read(0..4)],
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
    let mut all = vec![
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
    ];
    if disk.medium == MediumKind::Dax {
        let twice = [&read_1[..1], &write_1, &read_1].concat();
        all.push(named("unreadable, and written", &read_1, &twice).poisoned(&[1]));
    }
    all
}
