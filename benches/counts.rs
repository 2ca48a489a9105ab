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
use common::{Shuffled, atomic_disk, load};

/// Bytes of the disk: counts do not depend on it.
const SIZE: u64 = 17 << 20;
/// Requests of a batch, where a case does not say otherwise.
const REQUESTS: u16 = 16;
/// Batches of a case.
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
type Act = fn(&Case, Vec<Queue<Mapping>>);

/// What is counted.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    act: Act,
    durability: DurabilityRequest,
    sector_size: u32,
    /// Bytes of a request.
    size: u32,
    /// Requests of a batch.
    requests: u16,
    /// `--atomic`, in bytes; 0: off.
    atomic: u32,
}

impl Case {
    /// The case, as it is listed and kept.
    fn title(&self) -> String {
        let atomic = match self.atomic {
            0 => String::new(),
            bytes => format!("-atomic-{}K", bytes >> 10),
        };
        let depth = match self.requests {
            REQUESTS => String::new(),
            requests => format!("-by-{requests}"),
        };
        format!("{}-{}{depth}{atomic}", self.name, self.size)
    }

    /// The queues of a disk for the case: one.
    fn queues(&self) -> Vec<Queue<Mapping>> {
        atomic_disk(self.sector_size, SIZE, self.durability, 1, self.atomic).1
    }
}

const CACHE: DurabilityRequest = DurabilityRequest::PageCache;
const DAX: DurabilityRequest = DurabilityRequest::Dax;

/// Requests of a sector, with sectors of either size.
const SECTORS: [(&str, Act, DurabilityRequest); 6] = [
    ("engine-write-page-cache", engine_write, CACHE),
    ("engine-write-dax", engine_write, DAX),
    ("engine-read", engine_read, CACHE),
    ("ring-write-page-cache", ring_write, CACHE),
    ("ring-write-dax", ring_write, DAX),
    ("ring-read", ring_read, CACHE),
];

/// What `--atomic` costs, with sectors of 4096 bytes: bytes and number of the requests, and its size.
const ATOMIC: [(&str, Act, DurabilityRequest, u32, u16, u32); 16] = [
    ("ring-write-page-cache", ring_write, CACHE, 4096, 32, 0),
    ("ring-write-page-cache", ring_write, CACHE, 4096, 32, 64 << 10),
    ("ring-write-dax", ring_write, DAX, 4096, 32, 0),
    ("ring-write-dax", ring_write, DAX, 4096, 32, 64 << 10),
    ("ring-write-page-cache", ring_write, CACHE, 16 << 10, 1, 0),
    ("ring-write-page-cache", ring_write, CACHE, 16 << 10, 1, 16 << 10),
    ("ring-write-page-cache", ring_write, CACHE, 16 << 10, 1, 64 << 10),
    ("ring-write-dax", ring_write, DAX, 16 << 10, 1, 0),
    ("ring-write-dax", ring_write, DAX, 16 << 10, 1, 64 << 10),
    ("ring-write-page-cache", ring_write, CACHE, 16 << 10, 32, 0),
    ("ring-write-page-cache", ring_write, CACHE, 16 << 10, 32, 16 << 10),
    ("ring-write-page-cache", ring_write, CACHE, 16 << 10, 32, 64 << 10),
    ("ring-write-dax", ring_write, DAX, 16 << 10, 32, 0),
    ("ring-write-dax", ring_write, DAX, 16 << 10, 32, 64 << 10),
    ("ring-read", ring_read, CACHE, 16 << 10, 16, 0),
    ("ring-read", ring_read, CACHE, 16 << 10, 16, 64 << 10),
];

fn cases() -> Vec<Case> {
    let sectors = |size: u32| {
        SECTORS.map(|(name, act, durability)| {
            let (sector_size, requests, atomic) = (size, REQUESTS, 0);
            Case { name, act, durability, sector_size, size, requests, atomic }
        })
    };
    let atomic = ATOMIC.map(|(name, act, durability, size, requests, atomic)| Case {
        name,
        act,
        durability,
        sector_size: 4096,
        size,
        requests,
        atomic,
    });
    [&sectors(512)[..], &sectors(4096), &atomic].concat()
}

fn engine_write(case: &Case, mut queues: Vec<Queue<Mapping>>) {
    engine(case, &mut queues[0], load::write);
}

fn engine_read(case: &Case, mut queues: Vec<Queue<Mapping>>) {
    engine(case, &mut queues[0], load::read);
}

fn engine(
    case: &Case,
    queue: &mut Queue<Mapping>,
    act: fn(&mut Queue<Mapping>, &mut Shuffled, usize, &mut [u8]),
) {
    let size = case.size as usize;
    let mut data = vec![0x5a; usize::from(case.requests) * size];
    let mut shuffled = Shuffled::new(1);
    for _ in 0..BATCHES {
        counted_batch(&mut || act(queue, &mut shuffled, size, &mut data));
    }
}

fn ring_write(case: &Case, queues: Vec<Queue<Mapping>>) {
    ring(case, queues, true);
}

fn ring_read(case: &Case, queues: Vec<Queue<Mapping>>) {
    ring(case, queues, false);
}

fn ring(case: &Case, queues: Vec<Queue<Mapping>>, writes: bool) {
    let mut guest = Guest::new(queues, case.size);
    let mut shuffled = Shuffled::new(1);
    for _ in 0..BATCHES {
        guest.offer(case.requests, writes, &mut shuffled);
        counted_batch(&mut || guest.kick());
        guest.check();
    }
}

/// Runs the case `title`, which valgrind counts.
fn run(title: &str) {
    let case = cases().into_iter().find(|case| case.title() == title);
    let case = case.unwrap_or_else(|| panic!("there is no case {title:?}"));
    (case.act)(&case, case.queues());
}

/// Counts the instructions of a request.
fn count(case: &Case) -> Option<u64> {
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
        .args(["--case", &case.title()])
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return None;
    }
    let text = std::fs::read_to_string(out).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
    Some(total.trim().parse::<u64>().ok()? / (BATCHES * u64::from(case.requests)))
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
    println!("{:44} {:>8} {:>8}", "instructions per request", "kept", "now");
    for case in cases() {
        let name = case.title();
        let Some(now) = count(&case) else {
            eprintln!("{name}: cannot be counted: is valgrind installed?");
            return ExitCode::FAILURE;
        };
        let before = kept.get(&name).copied();
        let worse = before.is_some_and(|before| now * 100 > before * (100 + TOLERANCE));
        let before = before.map_or_else(|| "-".to_owned(), |before| before.to_string());
        println!("{name:44} {before:>8} {now:>8}{}", if worse { "  MORE" } else { "" });
        lines.push(format!("{name:44} {now:>8}\n"));
        is_worse |= worse;
    }
    if arguments.iter().any(|argument| argument == "--update") {
        std::fs::write(&path, lines.concat()).expect("the repository can be written to");
        return ExitCode::SUCCESS;
    }
    ExitCode::from(u8::from(is_worse))
}
