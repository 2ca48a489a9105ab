//! The daemon is killed under load, again and again: no sector that was acknowledged is lost, and
//! none is torn, or that of another.

mod common;

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, make_namespace, nvdimmctl_ok};
use common::ledger::{Ledger, Violation};
use common::load::{Load, Shape};
use common::sectors::{ZEROES, describe};
use common::seeds::{Replay, figures, seeds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vhost_user_btt::pmem::simulated::Random;

/// Kills per seed.
const ROUNDS: u64 = 5;
/// Sectors under load: few, so that they are overwritten all the time.
const SECTORS: usize = 256;

/// Bytes of a page.
const PAGE: usize = 16 << 10;

/// Kills a daemon [`ROUNDS`] times on a new disk. Returns how many sectors were acknowledged; with `pages`, as many
/// pages of several sectors.
fn rounds(seed: u64, pages: bool) -> u64 {
    let _replay = Replay { seed, command: "cargo test --test kill_rounds" };
    let mut random = Random::new(seed);
    let sector_size = [512, 4096, 520, 4160][seed as usize % 4];
    let durability = ["page-cache", "dax", "strict"][random.within(0..3) as usize];
    println!("seed {seed}: sectors of {sector_size} bytes, {durability}");

    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", sector_size);
    // Of a page, zeroes are written sector by sector, and a reader may see a part of it new.
    let shape = Shape {
        sector_size: if pages { PAGE } else { sector_size as usize / 512 * 512 },
        queues: 2,
        zeroes: !pages,
        overlap: true,
        reads: !pages,
    };
    let atomic = if pages { "--atomic=16K" } else { "--atomic=off" };
    let mut ledger = Ledger::new(0, SECTORS);
    let mut acknowledged = 0;
    for round in 0..=ROUNDS {
        let options = ["--num-queues", "2", "--durability", durability, atomic];
        let mut daemon = Daemon::start(&file, &options);
        let mut load = Load::connect(&daemon.socket, shape, &mut ledger);
        assert_eq!(load.check_all(), Vec::<Violation>::new(), "after {round} kills");
        if round == ROUNDS {
            break;
        }
        let gone = daemon.pidfd();
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        // Where every fence is a sync, nothing happens sooner.
        let longest = if durability == "strict" { 400_000 } else { 60_000 };
        let after = Duration::from_micros(random.within(0..longest));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(after);
                kill(pid, Signal::SIGKILL).unwrap();
            });
            load.run_until(gone.as_fd(), &mut random);
        });
        daemon.wait();
        acknowledged += load.acknowledged;
        nvdimmctl_ok(&["check-namespace", file.to_str().unwrap()]);
    }
    acknowledged
}

/// What is asserted above can fail.
#[test]
fn the_ledger_notices_what_is_torn_foreign_or_lost() {
    let mut ledger = Ledger::new(7, 2);
    let mut data = [[0; 512], [0; 512]];
    let [old, new] = [0, 1].map(|index| {
        let ticket = ledger.submit(7, false);
        describe(7, ticket.version, &mut data[index]);
        ledger.acknowledge(ticket);
        ticket.version
    });
    let lost = Violation::Lost { sector: 7, found: old, allowed: vec![new] };
    assert_eq!(ledger.check_settled(7, &data[0]), Err(lost));

    let mut ledger = Ledger::new(7, 2);
    let before = ledger.before_read(7);
    let tickets = [0, 1].map(|_| ledger.submit(7, false));
    for ticket in tickets {
        ledger.acknowledge(ticket);
    }
    let after = ledger.before_read(7);
    for (ticket, data) in tickets.iter().zip(&mut data) {
        describe(7, ticket.version, data);
        assert_eq!(ledger.check_read(&before, data), Ok(()));
        assert_eq!(ledger.check_read(&after, data), Ok(()));
    }
    assert_eq!(ledger.check_read(&before, &[0; 512]), Ok(()));
    let stale = Violation::Lost { sector: 7, found: ZEROES, allowed: vec![1, 2] };
    assert_eq!(ledger.check_read(&after, &[0; 512]), Err(stale));
    let mut torn = data[1];
    torn[64..72].copy_from_slice(&data[0][64..72]);
    let is_torn = Violation::Torn { sector: 7, in_flight: false };
    assert_eq!(ledger.check_read(&after, &torn), Err(is_torn));
    assert_eq!(ledger.check_settled(8, &data[1]), Err(Violation::Foreign { sector: 8, of: 7 }));
    assert_eq!(ledger.check_settled(7, &data[0]), Ok(()), "either may have been the last");
    let lost = Violation::Lost { sector: 7, found: 2, allowed: vec![1] };
    assert_eq!(ledger.check_settled(7, &data[1]), Err(lost), "it cannot come back");
}

#[test]
fn acknowledged_sectors_survive_a_killed_daemon() {
    let begun = Instant::now();
    let seeds = seeds(4);
    let kills = ROUNDS * (seeds.end - seeds.start);
    let acknowledged: u64 = seeds.map(|seed| rounds(seed, false)).sum();
    // The first few may come too early.
    assert!(acknowledged > 0 || kills < 20, "there was no load");
    let seconds = begun.elapsed().as_secs();
    figures(&format!(
        "kill rounds={kills} acknowledged={acknowledged} violations=0 seconds={seconds}"
    ));
}

/// Where a kill tears pages without `--atomic`, it has to come between two stores of flog entries: so rarely that
/// no control can be run here. The crash suite kills there (`tests/crash/killed.rs`).
#[test]
fn acknowledged_pages_survive_a_killed_daemon() {
    let seeds = seeds(4);
    let kills = ROUNDS * (seeds.end - seeds.start);
    let acknowledged: u64 = seeds.map(|seed| rounds(seed, true)).sum();
    assert!(acknowledged > 0 || kills < 20, "there was no load");
    figures(&format!("kill-pages rounds={kills} acknowledged={acknowledged} torn=0"));
}
