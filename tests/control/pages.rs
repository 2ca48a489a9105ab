//! The page tables of disks, which are filled in the background.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, PATIENCE};
use crate::common::frontend::{Driver, OK};
use crate::setup::{Place, pattern};

const M: u64 = 1 << 20;

/// A disk of 32 MiB with 8 MiB of data in its blocks, in a folder of tmpfs, where holes are allocated by reading.
/// `None`: this machine has none.
fn place_in_memory() -> Option<Place> {
    let folder = tempfile::tempdir_in("/dev/shm").ok()?;
    let place = Place::in_folder(folder, "128M", &["first"]);
    let file = OpenOptions::new().write(true).open(&place.file).unwrap();
    for at in 8..16 {
        file.write_all_at(&vec![0x55; M as usize], at * M).unwrap();
    }
    Some(place)
}

fn allocated(place: &Place) -> u64 {
    File::open(&place.file).unwrap().metadata().unwrap().blocks()
}

/// What `stat` says of a field of the pages, once it is `enough`; `None`: the kernel refuses huge pages first.
fn wait_for(place: &Place, daemon: &Daemon, field: &str, enough: u64) -> Option<u64> {
    let begun = Instant::now();
    loop {
        let value = place.stat("first")["pages"][field].as_u64().unwrap();
        if value >= enough {
            return Some(value);
        }
        if field == "huge" && daemon.log().contains("no pages of 2 MiB") {
            return None;
        }
        assert!(begun.elapsed() < PATIENCE, "{field}: {value}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that a daemon has mapped by huge pages, by the kernel's account.
fn mapped_huge(daemon: &Daemon) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", daemon.pid())).unwrap();
    let lines = maps.lines().filter_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    let kilobytes = |text: &str| text.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    lines.map(|text| kilobytes(text) << 10).sum()
}

/// Bytes that a daemon has in its page tables of the file.
fn mapped(place: &Place, daemon: &Daemon) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", daemon.pid())).unwrap();
    let name = place.file.to_str().unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(name));
    let text = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    text.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn what_is_in_memory_is_mapped_before_the_guest_asks_and_holes_stay_holes() {
    let Some(place) = place_in_memory() else { return };
    let before = allocated(&place);
    let daemon = place.serve(&["first,queues=1"], &["--huge-pages=off"]);
    let filled = wait_for(&place, &daemon, "filled", 8 * M).unwrap();
    assert!(filled < 12 * M, "{filled}");
    assert!(mapped(&place, &daemon) >= filled, "{filled}");
    // Opening a disk looks for records of groups in a page of the slack, which is a hole in a new one.
    assert!(allocated(&place) <= before + 4096 / 512, "{before} {}", allocated(&place));
    assert_eq!(mapped_huge(&daemon), 0);
    let text = place.ask(&["stat"]).unwrap();
    assert!(text.contains("Pages of first: 8 MiB in memory and mapped, 0 MiB by 2 MiB"), "{text}");
    let text = place.ask(&["stat", "--prometheus"]).unwrap();
    assert!(text.contains("\nvhost_user_btt_filled_bytes{device=\"first\""), "{text}");
    assert!(text.contains("\nvhost_user_btt_huge_bytes{device=\"first\""), "{text}");
    assert!(daemon.terminate().0.success());
}

#[test]
fn whole_ranges_are_mapped_by_huge_pages_and_nothing_is_allocated_or_changed() {
    let Some(place) = place_in_memory() else { return };
    let before = allocated(&place);
    let daemon = place.serve(&["first,queues=1"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for sector in 0..64 {
        assert_eq!(driver.write(0, sector * 8, &pattern(sector)), OK);
    }
    let allocated_then = allocated(&place);
    assert!(allocated_then <= before + 2 * 1024, "{before} {allocated_then}");
    if let Some(huge) = wait_for(&place, &daemon, "huge", 2 * M) {
        assert!(huge <= 8 * M && huge.is_multiple_of(2 * M), "{huge}");
        assert!(mapped_huge(&daemon) >= huge, "{huge}");
        assert_eq!(allocated(&place), allocated_then);
    }
    for sector in 0..64 {
        assert!(driver.read(0, sector * 8, 4096) == pattern(sector));
    }
    let mut data = vec![0; M as usize];
    File::open(&place.file).unwrap().read_exact_at(&mut data, 10 * M).unwrap();
    assert!(data.iter().all(|byte| *byte == 0x55));
    // Also a pause between two passes ends at once.
    drop(driver);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_disk_that_has_grown_is_filled_anew() {
    let Some(place) = place_in_memory() else { return };
    let daemon = place.serve(&["first,queues=1"], &["--huge-pages=off"]);
    wait_for(&place, &daemon, "filled", 8 * M).unwrap();
    place.ask(&["resize", "first", "--size=64M"]).unwrap();
    wait_for(&place, &daemon, "filled", 8 * M).unwrap();
    // The second mapping; of the first one, nothing is left.
    assert!(mapped(&place, &daemon) >= 8 * M);
    assert_eq!(daemon.log().matches("are in memory and mapped").count(), 2, "{}", daemon.log());
    // A removed disk has no thread that would keep it.
    place.ask(&["remove", "first"]).unwrap();
}

#[test]
fn a_disk_that_is_only_read_has_no_pages_to_report() {
    let place = Place::new("128M", &["first"]);
    let _daemon = place.serve(&["first,queues=1,read-only"], &[]);
    assert!(place.stat("first").get("pages").is_none());
}
