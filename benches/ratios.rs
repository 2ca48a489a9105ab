//! How much the engine takes over what the memory itself takes, as ratios that hold on a noisy machine.
//!
//! Criterion measures one thing for seconds, then the next; what else the machine does in between goes
//! into the ratio. Here slices of a few milliseconds take turns, in CPU time of the thread, and what is
//! said is the median of each, and of their ratios.
//!
//! `cargo bench --bench ratios [-- --json] [TEXT]`: only what contains the text.

mod common;

use std::cell::RefCell;
use std::sync::Barrier;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use vhost_user_btt::btt::Queue;
use vhost_user_btt::pmem::{DurabilityRequest, Mapping};

use common::floor::Floor;
use common::load::{read, write, write_pages};
use common::pmemblk::Pool;
use common::{SIZE, Shuffled, atomic_disk, disk};

/// Turns that each takes.
const TURNS: usize = 41;
/// CPU time of a turn, in seconds.
const SLICE: f64 = 4e-3;

/// Something that is measured: its name, and what it does for a batch.
struct Subject<'a> {
    name: &'static str,
    act: Box<dyn FnMut() + 'a>,
    /// Nanoseconds of a batch, turn by turn.
    turns: Vec<f64>,
}

impl<'a> Subject<'a> {
    fn new(name: &'static str, act: impl FnMut() + 'a) -> Subject<'a> {
        Subject { name, act: Box::new(act), turns: Vec::new() }
    }

    fn turn(&mut self) {
        let (begin, mut batches) = (cpu_seconds(), 0u32);
        loop {
            (0..16).for_each(|_| (self.act)());
            batches += 16;
            let taken = cpu_seconds() - begin;
            if taken > SLICE {
                return self.turns.push(taken * 1e9 / f64::from(batches));
            }
        }
    }
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below 10⁹"))
        .as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Lets the subjects take turns, and says what they took for each of `count` sectors.
fn compare(title: &str, count: u32, mut subjects: Vec<Subject<'_>>, as_json: bool) {
    for _ in 0..TURNS {
        subjects.iter_mut().for_each(Subject::turn);
    }
    let first = subjects[0].turns.clone();
    for Subject { name, turns, .. } in subjects {
        let ratios = first.iter().zip(&turns).map(|(first, own)| first / own).collect();
        let (time_ns, ratio) = (median(turns) / f64::from(count), median(ratios));
        if as_json {
            println!(
                "{}",
                json!({ "case": title, "name": name, "time_ns": time_ns, "ratio": ratio })
            );
        } else {
            println!("{title:16} {name:18} {time_ns:8.1} ns a sector   {ratio:5.2}");
        }
    }
}

fn one_queue(sector_size: u32, as_json: bool, wanted: &dyn Fn(&str) -> bool) {
    let names =
        [1, 16].map(|count| ["write", "read"].map(|way| format!("{way}/{sector_size}/{count}")));
    if !names.iter().flatten().any(|name| wanted(name)) {
        return;
    }
    let (_, mut dax) = disk(sector_size, SIZE, DurabilityRequest::Dax, 1);
    let (_, mut page_cache) = disk(sector_size, SIZE, DurabilityRequest::PageCache, 1);
    let (dax, page_cache) = (&mut dax[0], &mut page_cache[0]);
    let size = sector_size as usize;
    let floor = RefCell::new(Floor::new(size, SIZE));
    let pool = Pool::create(sector_size, SIZE).map(RefCell::new);
    for (count, [write_name, read_name]) in [1u32, 16].into_iter().zip(names) {
        let data = vec![0x5a; (count * sector_size) as usize];
        let (mut a, mut b, mut c) = (data.clone(), data.clone(), data.clone());
        let (mut d, [mut one, mut two, mut three]) = (data.clone(), [1, 2, 3].map(Shuffled::new));
        let mut each_of_pool = |data: &mut [u8], act: fn(&mut Pool, u64, &mut [u8])| {
            let mut pool = pool.as_ref().expect("asked for only if there is one").borrow_mut();
            let blocks = pool.blocks;
            for data in data.chunks_exact_mut(size) {
                act(&mut pool, three.below(blocks), data);
            }
        };
        if wanted(&write_name) {
            let mut subjects = vec![
                Subject::new("engine-dax", || write(dax, &mut one, size, &mut a)),
                Subject::new("floor", || floor.borrow_mut().write(&data)),
                Subject::new("floor-locked", || floor.borrow_mut().write_locked(&data)),
                Subject::new("streaming", || floor.borrow_mut().stream_only(&data)),
                Subject::new("engine-page-cache", || write(page_cache, &mut two, size, &mut b)),
                Subject::new("plain", || floor.borrow_mut().copy_only(&data)),
            ];
            if pool.is_some() {
                let act = || each_of_pool(&mut d, Pool::write);
                subjects.push(Subject::new("libpmemblk", act));
            }
            compare(&write_name, count, subjects, as_json);
        }
        if wanted(&read_name) {
            let mut subjects = vec![
                Subject::new("engine", || read(dax, &mut one, size, &mut a)),
                Subject::new("plain", || floor.borrow_mut().read(&mut c)),
            ];
            if pool.is_some() {
                let act = || each_of_pool(&mut d, Pool::read);
                subjects.push(Subject::new("libpmemblk", act));
            }
            compare(&read_name, count, subjects, as_json);
        }
    }
}

/// Pages of 16 KiB that are all or nothing against the same where only sectors are; and single sectors of such a
/// disk. One at a time, and 32. A second disk where only sectors are shows what is due to where a disk is in memory.
fn pages(as_json: bool, wanted: &dyn Fn(&str) -> bool) {
    const PAGE: u32 = 16 << 10;
    let titles = [1, 32].map(|count| ["page", "sector"].map(|what| format!("{what}/4096/{count}")));
    if !titles.iter().flatten().any(|title| wanted(title)) {
        return;
    }
    for durability in [DurabilityRequest::Dax, DurabilityRequest::PageCache] {
        let (_, mut plain) = disk(4096, SIZE, durability, 4);
        let (_, mut atomic) = atomic_disk(4096, SIZE, durability, 4, 64 << 10);
        let (_, mut again) = disk(4096, SIZE, durability, 4);
        let (plain, atomic, again) = (&mut plain[0], &mut atomic[0], &mut again[0]);
        let names = match durability {
            DurabilityRequest::Dax => ["sectors-dax", "atomic-dax", "sectors-dax-again"],
            _ => ["sectors-cache", "atomic-cache", "sectors-cache-again"],
        };
        for (count, titles) in [1, 32].into_iter().zip(&titles) {
            for (title, size, act) in
                [(&titles[0], PAGE, write_pages as Write), (&titles[1], 4096, write as Write)]
            {
                if wanted(title) {
                    let queues = [&mut *plain, &mut *atomic, &mut *again];
                    let subjects = names.into_iter().zip(queues).map(|(name, queue)| {
                        let mut data = vec![0x5a; (count * size) as usize];
                        let mut shuffled = Shuffled::new(1);
                        Subject::new(name, move || {
                            act(queue, &mut shuffled, size as usize, &mut data);
                        })
                    });
                    let subjects = subjects.collect();
                    compare(title, count * size / 4096, subjects, as_json);
                }
            }
        }
    }
}

/// A batch of writes.
type Write = fn(&mut Queue<Mapping>, &mut Shuffled, usize, &mut [u8]);

/// Two queues against one, which write at the same time: how many times the sectors of one they write
/// in as much CPU time as each of them has. And two floors, which share nothing but the machine.
fn two_queues(sector_size: u32, as_json: bool, wanted: &dyn Fn(&str) -> bool) {
    let title = format!("queues/{sector_size}/16");
    if !wanted(&title) {
        return;
    }
    let say = |name: &str, ratio: f64| {
        if as_json {
            println!("{}", json!({ "case": title, "name": name, "ratio": ratio }));
        } else {
            println!("{title:16} {name:18} {ratio:5.2} times one");
        }
    };
    let size = sector_size as usize;
    for durability in [DurabilityRequest::Dax, DurabilityRequest::PageCache] {
        let (_, mut queues) = disk(sector_size, SIZE, durability, 2);
        let write = |queue: &mut Queue<Mapping>, shuffled: &mut Shuffled, data: &mut [u8]| {
            write(queue, shuffled, size, data);
        };
        let ratio = two_against_one(&mut queues, 16 * size, write);
        say(&format!("two-{durability:?}").to_lowercase(), ratio);
    }
    let mut floors = [(); 2].map(|()| Floor::new(size, SIZE));
    let write = |floor: &mut Floor, _: &mut Shuffled, data: &mut [u8]| floor.write(data);
    say("two-floor", two_against_one(&mut floors, 16 * size, write));
}

/// How many times the batches of one of two subjects both do in as much CPU time as each has.
fn two_against_one<T: Send>(
    subjects: &mut [T],
    length: usize,
    act: impl Fn(&mut T, &mut Shuffled, &mut [u8]) + Sync,
) -> f64 {
    let turn = |_| {
        let [one, both] = [1, 2].map(|count| together(&mut subjects[..count], length, &act));
        2.0 * one / both
    };
    median((0..TURNS).map(turn).collect())
}

/// Lets each of the subjects write 20 MB in batches of `length` bytes; returns the CPU seconds of the
/// slowest.
fn together<T: Send>(
    subjects: &mut [T],
    length: usize,
    act: &(impl Fn(&mut T, &mut Shuffled, &mut [u8]) + Sync),
) -> f64 {
    let barrier = Barrier::new(subjects.len());
    let write_all = |subject: &mut T, seed| {
        let (mut data, mut shuffled) = (vec![0x5a; length], Shuffled::new(seed));
        barrier.wait();
        let begin = cpu_seconds();
        for _ in 0..20_000_000 / length {
            act(subject, &mut shuffled, &mut data);
        }
        cpu_seconds() - begin
    };
    std::thread::scope(|scope| {
        let write_all = &write_all;
        let threads: Vec<_> = (1..)
            .zip(subjects)
            .map(|(seed, subject)| scope.spawn(move || write_all(subject, seed)))
            .collect();
        let seconds = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        seconds.fold(0.0, f64::max)
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let as_json = arguments.iter().any(|argument| argument == "--json");
    let texts: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| texts.iter().all(|text| name.contains(*text));
    for sector_size in [512, 4096] {
        one_queue(sector_size, as_json, &wanted);
        two_queues(sector_size, as_json, &wanted);
    }
    pages(as_json, &wanted);
}
