//! The power fails while pages of several sectors are overwritten: with `powercut serve --atomic`, as with the daemon's,
//! no page is torn; without it, some are.

mod common;

use std::path::Path;

use common::daemon::{Daemon, make_namespace, nvdimmctl_ok};
use common::frontend::{BUFFERS, Driver, T_OUT, linked, readable, request_header, writable};
use common::seeds::{Replay, figures, seeds};

const SECTOR: usize = 4096;
const PAGE: usize = 4 * SECTOR;
/// Pages that are overwritten in turn.
const PAGES: u64 = 3;
/// Fences of a write: data, flog entries, map entries.
const FENCES: u64 = 3;

/// Sends one page of bytes `version`, and waits until it is done. Returns whether the power has failed instead.
fn overwrite(driver: &mut Driver, daemon: &mut Daemon, page: u64, version: u8) -> bool {
    let (header, data, status) = (BUFFERS, BUFFERS + 0x1000, BUFFERS + 0x800);
    driver.put(header, &request_header(T_OUT, page * (PAGE as u64 / 512)));
    driver.put(data, &[version; PAGE]);
    let chain = [readable(header, 16), readable(data, PAGE as u32), writable(status, 1)];
    driver.put_chain(0, 0, &linked(0, chain.to_vec()));
    let before = driver.used_index(0);
    driver.offer(0, 0);
    driver.kick(0);
    while driver.used_index(0) == before {
        if daemon.has_ended() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Overwrites pages until the power fails; with a seed in three, among the flog entries of a write, for opening the disk
/// takes fences, too. Returns how many pages are torn.
fn torn_pages(folder: &Path, seed: u64, options: &[&str]) -> usize {
    let _replay = Replay { seed, command: "cargo test --profile suite --test power_fail_pages" };
    let file = make_namespace(folder, "32M", SECTOR as u32);
    let failure = format!("after-fences={},seed={seed}", FENCES * 14 + seed);
    let arguments = ["--num-queues", "1", "--fail", &failure];
    let mut daemon = Daemon::begin_failing(&file, &[&arguments, options].concat());
    daemon.wait_for_log("serving");
    let mut driver = Driver::connect(daemon.connect(), 1);
    let mut version = 0;
    while !overwrite(&mut driver, &mut daemon, version % PAGES, version as u8 + 1) {
        version += 1;
    }
    daemon.wait();
    assert!(version > PAGES, "every page was written before: {}", daemon.log());
    assert!(daemon.log().contains("power failure"), "{}", daemon.log());
    drop(driver);

    // Opens the disk, and so completes or takes back what was interrupted.
    let (status, log) = Daemon::start(&file, &["--num-queues", "1"]).terminate();
    assert!(status.success(), "{log}");
    nvdimmctl_ok(&["check-namespace", file.to_str().unwrap()]);
    let bytes = nvdimmctl_ok(&["export", file.to_str().unwrap()]);
    let pages = bytes.chunks(PAGE).take(PAGES as usize);
    pages.filter(|page| page.iter().any(|byte| *byte != page[0])).count()
}

#[test]
fn pages_are_whole_after_power_failures_with_atomic_and_torn_without() {
    let (mut atomic, mut plain) = (0, 0);
    let seeds = seeds(12);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let torn = |options: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            torn_pages(folder.path(), seed, options)
        };
        let torn_atomic = torn(&["--atomic", "16K"]);
        assert_eq!(torn_atomic, 0, "seed {seed}: a page is torn");
        atomic += torn_atomic;
        plain += torn(&["--atomic", "off"]);
    }
    let pages = count * PAGES;
    figures(&format!(
        "power-fail-pages failures={count} pages={pages} torn_atomic={atomic} torn_plain={plain}"
    ));
    assert!(plain > 0 || count < 5, "the harness is blind: no page was torn without --atomic");
}
