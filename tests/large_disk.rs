//! A sparse disk of 1.1 TiB: three arenas, and nothing that grows with it.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::daemon::{Daemon, nvdimmctl_ok};
use common::frontend::{Driver, OK};

/// Memory of a process that is its own, in KiB: what is mapped of a file belongs to the page cache.
fn anonymous_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn make(path: &Path, size: &str) {
    let file = path.to_str().unwrap();
    nvdimmctl_ok(&["create", file, "--size", size]);
    nvdimmctl_ok(&["create-namespace", file, "--sector-size", "512"]);
}

#[test]
fn every_arena_of_a_disk_of_more_than_a_tebibyte_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let (large, small) = (folder.path().join("large"), folder.path().join("small"));
    make(&large, "1126.5G");
    make(&small, "64M");
    let occupied = std::fs::metadata(&large).unwrap().blocks() * 512;
    assert!(occupied < 1 << 20, "{occupied} bytes");

    let daemon = Daemon::start(&large, &[]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    let inspected = nvdimmctl_ok(&["list", "--json", large.to_str().unwrap()]);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected).unwrap();
    let sectors = inspected[0]["size"].as_u64().unwrap() / 512;
    // As Linux lays 1126.5 GiB less one page out: two full arenas and the rest.
    let arenas = [1_065_418_188u64, 1_065_418_188].map(|blocks| blocks - 256);
    let second = arenas[0];
    let third = arenas[0] + arenas[1];
    assert!(third < sectors);
    let places = [0, second - 1, second, third - 1, third, sectors - 1];
    for (number, &sector) in places.iter().enumerate() {
        assert_eq!(driver.write(0, sector, &[number as u8 + 1; 512]), OK);
    }
    // Across both boundaries.
    for boundary in [second, third] {
        let data: Vec<u8> = (0..20 * 512u32).map(|i| (i / 512) as u8 + 100).collect();
        assert_eq!(driver.write(0, boundary - 10, &data), OK);
        assert!(driver.read(0, boundary - 10, data.len()) == data);
    }
    assert_eq!(driver.read(0, 0, 512), [1; 512]);
    assert_eq!(driver.read(0, sectors - 1, 512), [6; 512]);
    assert_eq!(driver.write(0, sectors, &[0; 512]), common::frontend::IOERR);

    let small_daemon = Daemon::start(&small, &[]);
    let mut small_driver = Driver::connect(small_daemon.connect(), 1);
    assert_eq!(small_driver.write(0, 0, &[1; 512]), OK);
    let (of_large, of_small) =
        (anonymous_memory(daemon.pid()), anonymous_memory(small_daemon.pid()));
    assert!(of_large < of_small + 1024, "{of_large} KiB against {of_small} KiB");
}

/// Opening reads the flogs and nothing else: no time limit is tested here, but what is read.
#[test]
fn opening_a_large_disk_touches_little_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large");
    make(&large, "1126.5G");
    let daemon = Daemon::start(&large, &["--read-only"]);
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.pid())).unwrap();
    let shared = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = shared.lines().find(|line| line.starts_with("RssFile:")).unwrap();
    let mapped: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(mapped < 32 << 10, "{mapped} KiB of files are mapped: {smaps}");
}
