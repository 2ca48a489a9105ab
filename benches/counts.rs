//! Instructions per request, which a machine that does other things as well cannot change.
//!
//! Each case runs under callgrind, which counts what is executed between the first instruction of
//! [`counted_batch`] and its last, and is compared with `benches/counts.txt`. `engine` cases are batches
//! of a queue; `ring` cases the whole way of a worker, from a kick to the used index, without the
//! socket. Copies count as well, by the instructions that valgrind's CPU has for them.
//!
//! `cargo bench --bench counts [-- --update]`, or `scripts/bench-counts`.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use vhost_user_btt::btt::Queue;
use vhost_user_btt::pmem::{DurabilityRequest, Mapping};

use common::ring::Guest;
use common::{Shuffled, disk, load};

/// Bytes of the disk: counts do not depend on it.
const SIZE: u64 = 17 << 20;
/// Requests of a batch, and batches of a case.
const REQUESTS: usize = 16;
const BATCHES: u64 = 64;
/// How much more than the kept count is too much, in percent.
const TOLERANCE: u64 = 2;

/// A batch. Callgrind finds it by its name.
#[unsafe(no_mangle)]
#[inline(never)]
#[allow(clippy::no_mangle_with_rust_abi, reason = "nobody else calls it")]
fn counted_batch(act: &mut dyn FnMut()) {
    act();
}

/// What a case does with its disk.
type Case = fn(Vec<Queue<Mapping>>, u32);

const CASES: [(&str, DurabilityRequest, Case); 6] = [
    ("engine-write-page-cache", DurabilityRequest::PageCache, engine_write),
    ("engine-write-dax", DurabilityRequest::Dax, engine_write),
    ("engine-read", DurabilityRequest::PageCache, engine_read),
    ("ring-write-page-cache", DurabilityRequest::PageCache, ring_write),
    ("ring-write-dax", DurabilityRequest::Dax, ring_write),
    ("ring-read", DurabilityRequest::PageCache, ring_read),
];

fn engine_write(mut queues: Vec<Queue<Mapping>>, sector_size: u32) {
    let mut data = vec![0x5a; REQUESTS * sector_size as usize];
    let (queue, mut shuffled) = (&mut queues[0], Shuffled::new(1));
    for _ in 0..BATCHES {
        counted_batch(&mut || load::write(queue, &mut shuffled, sector_size as usize, &mut data));
    }
}

fn engine_read(mut queues: Vec<Queue<Mapping>>, sector_size: u32) {
    let mut data = vec![0x5a; REQUESTS * sector_size as usize];
    let (queue, mut shuffled) = (&mut queues[0], Shuffled::new(1));
    for _ in 0..BATCHES {
        counted_batch(&mut || load::read(queue, &mut shuffled, sector_size as usize, &mut data));
    }
}

fn ring_write(queues: Vec<Queue<Mapping>>, sector_size: u32) {
    ring(queues, sector_size, true);
}

fn ring_read(queues: Vec<Queue<Mapping>>, sector_size: u32) {
    ring(queues, sector_size, false);
}

fn ring(queues: Vec<Queue<Mapping>>, sector_size: u32, writes: bool) {
    let mut guest = Guest::new(queues, sector_size);
    let mut shuffled = Shuffled::new(1);
    for _ in 0..BATCHES {
        guest.offer(REQUESTS as u16, writes, &mut shuffled);
        counted_batch(&mut || guest.kick());
        guest.check();
    }
}

/// Runs the case `name`, which valgrind counts.
fn run(name: &str) {
    for sector_size in [512, 4096] {
        for (case, durability, act) in CASES {
            if name == format!("{case}-{sector_size}") {
                return act(disk(sector_size, SIZE, durability, 1).1, sector_size);
            }
        }
    }
    panic!("there is no case {name:?}");
}

/// Counts the instructions of a request of the case `name`.
fn count(name: &str) -> Option<u64> {
    let folder = tempfile::tempdir().expect("room for a temporary folder");
    let out = folder.path().join("callgrind.out");
    let status = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=counted_batch",
            "--quiet",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("this program has a path"))
        .args(["--case", name])
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return None;
    }
    let text = std::fs::read_to_string(out).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
    Some(total.trim().parse::<u64>().ok()? / (BATCHES * REQUESTS as u64))
}

fn kept_counts(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let count = |line: &str| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    text.lines().filter_map(count).collect()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--case") {
        run(&arguments[place + 1]);
        return ExitCode::SUCCESS;
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/counts.txt");
    let kept = kept_counts(&path);
    let (mut lines, mut is_worse) = (Vec::new(), false);
    println!("{:32} {:>8} {:>8}", "instructions per request", "kept", "now");
    for sector_size in [512, 4096] {
        for (case, ..) in CASES {
            let name = format!("{case}-{sector_size}");
            let Some(now) = count(&name) else {
                eprintln!("{name}: cannot be counted: is valgrind installed?");
                return ExitCode::FAILURE;
            };
            let before = kept.get(&name).copied();
            let worse = before.is_some_and(|before| now * 100 > before * (100 + TOLERANCE));
            let before = before.map_or_else(|| "-".to_owned(), |before| before.to_string());
            println!("{name:32} {before:>8} {now:>8}{}", if worse { "  MORE" } else { "" });
            lines.push(format!("{name:32} {now:>8}\n"));
            is_worse |= worse;
        }
    }
    if arguments.iter().any(|argument| argument == "--update") {
        std::fs::write(&path, lines.concat()).expect("the repository can be written to");
        return ExitCode::SUCCESS;
    }
    ExitCode::from(u8::from(is_worse))
}
