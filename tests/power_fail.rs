//! The power fails under load, again and again, also while the last failure is being recovered from:
//! no sector that was acknowledged is lost, and none is torn. The same load on the raw bytes of the
//! same file, under the same failures, leaves torn sectors: the harness can see them.

mod common;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use common::daemon::{Daemon, make_namespace, nvdimmctl_ok};
use common::ledger::{Ledger, Violation};
use common::load::{Load, Shape};
use common::seeds::{Replay, figures, seeds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vhost_user_btt::pmem::simulated::Random;

/// Failures per seed.
const ROUNDS: u64 = 5;
/// Sectors under load: few, so that they are overwritten all the time.
const SECTORS: usize = 128;
/// The first of them begins at this byte: of raw bytes, too, they are zeroes at first.
const START: u64 = 1 << 20;

/// Bytes of a page.
const PAGE: usize = 16 << 10;

/// What the sectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Btt,
    Raw,
    /// Pages of [`PAGE`] bytes on a BTT, whose sectors alone are atomic.
    Pages,
    /// Pages with `--atomic`.
    AtomicPages,
}

impl Kind {
    /// Returns whether a power failure may tear what is being written.
    fn may_tear(self) -> bool {
        matches!(self, Kind::Raw | Kind::Pages)
    }

    fn is_of_pages(self) -> bool {
        matches!(self, Kind::Pages | Kind::AtomicPages)
    }
}

/// What the load is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Sectors are read while they are written, and written by several at once.
    Hard,
    /// Nothing that tears a raw sector while the power is on.
    Plain,
}

/// What became of a disk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    acknowledged: u64,
    /// Failures while a failure was being recovered from, before anything was served.
    in_recovery: u64,
    torn: u64,
}

/// Starts a daemon that lets the power fail as `random` says. `None`: it has failed already.
fn start(file: &Path, kind: Kind, shape: Shape, random: &mut Random) -> Option<Daemon> {
    let fences = match random.within(0..4) {
        // In recovery, if there is anything to recover, or else at once.
        0 => random.within(0..3),
        1 => random.within(3..30),
        _ => random.within(30..600),
    };
    let failure = format!("after-fences={fences},seed={}", random.any());
    let mut daemon = begin(file, kind, shape, &["--fail", &failure]);
    daemon.logs_or_ends("serving").then_some(daemon)
}

fn begin(file: &Path, kind: Kind, shape: Shape, arguments: &[&str]) -> Daemon {
    let size = shape.sector_size.to_string();
    let options: &[&str] = match kind {
        Kind::Btt => &[],
        Kind::Raw => &["--raw", &size],
        Kind::Pages => &["--atomic=off"],
        Kind::AtomicPages => &["--atomic=16K"],
    };
    Daemon::begin_failing(file, &[&["--num-queues", "2"], options, arguments].concat())
}

/// Reads all sectors, or as many as can be read before the power fails: a read that shows zeroes makes
/// them durable, which takes a fence. Returns how many are torn in the middle of a write, and whether the
/// power has failed; anything else fails the test.
fn count_torn(load: &mut Load<'_>, daemon: &Daemon) -> (u64, bool) {
    let (violations, has_failed) = load.check_until(daemon.pidfd().as_fd());
    for violation in &violations {
        assert!(matches!(violation, Violation::Torn { in_flight: true, .. }), "{violation}");
    }
    (violations.len() as u64, has_failed)
}

/// Lets the power fail [`ROUNDS`] times under load.
fn fail_again_and_again(seed: u64, kind: Kind, manner: Manner) -> Outcome {
    let _replay = Replay { seed, command: "cargo test --profile suite --test power_fail" };
    let mut random = Random::new(seed);
    // The last two have metadata in every sector, which raw bytes have not.
    let lba_size = [512, 4096, 520, 4160][seed as usize % 4];
    let sector_size = match lba_size {
        _ if kind.is_of_pages() => PAGE,
        ..4096 => 512,
        _ => 4096,
    };
    let (overlap, reads) = (manner == Manner::Hard, manner == Manner::Hard);
    // Of a page, zeroes are written sector by sector, and a reader may see a part of it new.
    let zeroes = !kind.is_of_pages();
    let shape = Shape { sector_size, queues: 2, zeroes, overlap, reads };

    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", lba_size);
    let mut ledger = Ledger::new(START / sector_size as u64, SECTORS);
    let mut outcome = Outcome::default();
    for _ in 0..ROUNDS {
        if let Some(mut daemon) = start(&file, kind, shape, &mut random) {
            let mut load = Load::connect(&daemon.socket, shape, &mut ledger);
            let (torn, has_failed) = count_torn(&mut load, &daemon);
            outcome.torn += torn;
            if !has_failed {
                load.run_until(daemon.pidfd().as_fd(), &mut random);
            }
            outcome.acknowledged += load.acknowledged;
            daemon.wait();
            assert!(daemon.log().contains("power failure"), "{}", daemon.log());
        } else {
            outcome.in_recovery += 1;
        }
        if kind != Kind::Raw {
            nvdimmctl_ok(&["check-namespace", file.to_str().unwrap()]);
        }
    }
    let mut daemon = begin(&file, kind, shape, &[]);
    daemon.wait_for_log("serving");
    let mut load = Load::connect(&daemon.socket, shape, &mut ledger);
    let (torn, has_failed) = count_torn(&mut load, &daemon);
    assert!(!has_failed, "{}", daemon.log());
    outcome.torn += torn;
    outcome
}

#[test]
fn sectors_of_a_btt_survive_power_failures_that_tear_raw_ones() {
    let begun = Instant::now();
    let seeds = seeds(8);
    let count = seeds.end - seeds.start;
    let (mut btt, mut raw) = (Outcome::default(), Outcome::default());
    for seed in seeds {
        use {Kind::*, Manner::*};
        for (kind, manner) in [(Btt, Hard), (Btt, Plain), (Raw, Plain)] {
            let outcome = fail_again_and_again(seed, kind, manner);
            let Outcome { acknowledged, in_recovery, torn } = outcome;
            assert!(kind.may_tear() || torn == 0, "seed {seed}: {torn} torn sectors");
            let total = if kind == Raw { &mut raw } else { &mut btt };
            total.acknowledged += acknowledged;
            total.in_recovery += in_recovery;
            total.torn += torn;
        }
    }
    figures(&format!(
        "power-fail-socket seeds={count} failures={} in_recovery={} acknowledged={} violations=0 \
         torn_btt={} torn_raw={} seconds={}",
        3 * ROUNDS * count,
        btt.in_recovery,
        btt.acknowledged,
        btt.torn,
        raw.torn,
        begun.elapsed().as_secs()
    ));
    assert!(btt.acknowledged > 0 && raw.acknowledged > 0, "there was no load");
    // A single seed need not show it: nothing of what was pending may have reached the file, or all.
    assert!(raw.torn > 0 || count < 5, "the harness is blind: no raw sector was ever torn");
}

#[test]
fn pages_survive_power_failures_that_tear_them_where_only_sectors_are_atomic() {
    let begun = Instant::now();
    let seeds = seeds(8);
    let count = seeds.end - seeds.start;
    let (mut torn, mut acknowledged) = (0, 0);
    for seed in seeds {
        let outcome = fail_again_and_again(seed, Kind::AtomicPages, Manner::Plain);
        assert_eq!(outcome.torn, 0, "seed {seed}");
        acknowledged += outcome.acknowledged;
        torn += fail_again_and_again(seed, Kind::Pages, Manner::Plain).torn;
    }
    figures(&format!(
        "power-fail-pages seeds={count} failures={} acknowledged={acknowledged} torn=0 \
         torn_without_atomic={torn} seconds={}",
        2 * ROUNDS * count,
        begun.elapsed().as_secs()
    ));
    assert!(acknowledged > 0, "there was no load");
    assert!(torn > 0 || count < 5, "the harness is blind: no page was ever torn");
}

#[test]
fn the_power_fails_at_sigusr1_and_what_was_acknowledged_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    let shape = Shape { sector_size: 512, queues: 2, zeroes: false, overlap: true, reads: true };
    let mut ledger = Ledger::new(0, SECTORS);
    let mut daemon = Daemon::begin_failing(&file, &["--num-queues", "2", "--fail", "seed=4"]);
    daemon.wait_for_log("serving");
    let mut load = Load::connect(&daemon.socket, shape, &mut ledger);
    let pid = Pid::from_raw(daemon.pid().cast_signed());
    let gone = daemon.pidfd();
    let mut count = 0;
    load.on_acknowledged = Box::new(move |tickets| {
        count += tickets.len();
        if count >= 1000 {
            // More than once, perhaps; and the process is there until somebody waits for it.
            kill(pid, Signal::SIGUSR1).unwrap();
        }
    });
    load.run_until(gone.as_fd(), &mut Random::new(4));
    drop(load);
    let status = daemon.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    let log = daemon.log();
    assert!(log.contains("power failure: after-fences=") && log.contains(",seed=4: "), "{log}");

    let daemon = Daemon::start(&file, &["--num-queues", "2"]);
    let mut load = Load::connect(&daemon.socket, shape, &mut ledger);
    assert_eq!(load.check_all(), []);
}

/// Up to the power failure, it is a daemon like any other.
#[test]
fn a_daemon_that_was_stopped_before_its_power_failed_has_written_everything() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let mut daemon = Daemon::begin_failing(&file, &["--fail", "after-fences=1000000"]);
    daemon.wait_for_log("serving");
    let mut driver = common::frontend::Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.write(0, 8, &[7; 4096]), common::frontend::OK);
    assert_eq!(driver.clear(common::frontend::T_DISCARD, &[(16, 8, 0)]), common::frontend::OK);
    drop(driver);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    let raw = nvdimmctl_ok(&["export", file.to_str().unwrap()]);
    assert!(raw[4096..8192].iter().all(|byte| *byte == 7));
}
