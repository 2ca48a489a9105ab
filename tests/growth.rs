//! Namespaces that grow: nothing is lost, and the disk is larger.

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};
use common::frontend::{Driver, OK};
use serde_json::Value;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of 256 MiB with labels, and a namespace of 32 MiB at its start.
fn file(sector_size: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "256M", "--label-size", "128K"]);
    let options = ["--size", "32M", "--name", "first", "--sector-size", sector_size];
    nvdimmctl_ok(&[&["create-namespace", text(&path)][..], &options].concat());
    (folder, path)
}

fn grow(path: &Path, size: &str) -> String {
    let grow = ["grow-namespace", text(path), "--namespace", "first", "--size", size];
    String::from_utf8(nvdimmctl_ok(&grow)).unwrap()
}

/// Fills the disk with a pattern, and returns it.
fn fill(path: &Path) -> Vec<u8> {
    let size = list(path)["size"].as_u64().unwrap() as usize;
    let bytes: Vec<u8> = (0..size).map(|byte| (byte / 512 % 251) as u8 + 1).collect();
    let image = path.with_extension("image");
    std::fs::write(&image, &bytes).unwrap();
    nvdimmctl_ok(&["import", text(path), text(&image), "--namespace", "first"]);
    bytes
}

fn export(path: &Path) -> Vec<u8> {
    nvdimmctl_ok(&["export", text(path), "--namespace", "first"])
}

fn list(path: &Path) -> Value {
    let all: Value =
        serde_json::from_slice(&nvdimmctl_ok(&["list", "--json", text(path)])).unwrap();
    all[0].clone()
}

#[test]
fn a_disk_keeps_its_contents_and_ends_in_zeroes() {
    for sector_size in ["512", "4096"] {
        let (_folder, path) = file(sector_size);
        let before = fill(&path);
        assert!(grow(&path, "96M").contains("96 MiB"));
        let after = export(&path);
        assert!(after.starts_with(&before));
        assert!(after.len() > before.len() + (60 << 20));
        assert!(after[before.len()..].iter().all(|byte| *byte == 0));
        nvdimmctl_ok(&["check-namespace", text(&path)]);

        // And again, with contents in both arenas.
        let before = fill(&path);
        grow(&path, "128M");
        assert!(export(&path).starts_with(&before));
        nvdimmctl_ok(&["check-namespace", text(&path)]);
    }
}

#[test]
fn a_namespace_grows_into_free_bytes_only() {
    let (_folder, path) = file("4096");
    let second = ["--size", "32M", "--name", "second"];
    nvdimmctl_ok(&[&["create-namespace", text(&path)][..], &second].concat());
    for (size, complaint) in
        [("64M", "can grow to 32M at most"), ("16M", "can grow to 32M at most")]
    {
        let grow = ["grow-namespace", text(&path), "--namespace", "first", "--size", size];
        let output = nvdimmctl(&grow);
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(complaint), "{message}");
    }
    let second = ["grow-namespace", text(&path), "--namespace", "second", "--size", "50M"];
    let message = String::from_utf8(nvdimmctl(&second).stderr).unwrap();
    assert!(message.contains("misaligned"), "{message}");
    // All that is free behind it.
    nvdimmctl_ok(&second[..4]);
    let all: Value =
        serde_json::from_slice(&nvdimmctl_ok(&["list", "--json", text(&path)])).unwrap();
    assert_eq!(all[1]["raw_size"], 224 << 20, "{all}");
}

#[test]
fn a_file_without_labels_grows_with_its_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "32M"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "--sector-size", "512"]);
    let sectors = |path: &Path| list(path)["size"].as_u64().unwrap() / 512;
    let before = sectors(&path);
    nvdimmctl_ok(&["grow-namespace", text(&path), "--size", "80M"]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 80 << 20);
    assert!(sectors(&path) > 2 * before);
    // Grown by other means, the disk grows when asked to.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(128 << 20).unwrap();
    nvdimmctl_ok(&["grow-namespace", text(&path)]);
    assert!(sectors(&path) > 3 * before);
    nvdimmctl_ok(&["check-namespace", text(&path)]);
}

/// Bytes of the disk that a frontend is told of.
fn capacity(driver: &mut Driver) -> u64 {
    u64::from_le_bytes(driver.config(0, 8).try_into().unwrap()) * 512
}

/// What sector `number` of 4096 bytes holds in these tests.
fn pattern(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(512)
}

#[track_caller]
fn assert_patterns(driver: &mut Driver, sectors: impl Iterator<Item = u64>) {
    for sector in sectors {
        assert!(driver.read(0, sector * 8, 4096) == pattern(sector), "sector {sector}");
    }
}

/// A daemon that serves the namespace `first`, whose BTT is whole.
fn serve(path: &Path, options: &[&str]) -> Daemon {
    let daemon = Daemon::start(path, &[&["--namespace", "first"][..], options].concat());
    assert_eq!(warnings_of_arenas(&daemon), [""; 0]);
    daemon
}

/// What a daemon says of the arenas that it has found.
fn warnings_of_arenas(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    log.lines().filter(|line| line.contains("WARN ] arena")).map(str::to_owned).collect()
}

/// As [`serve`], after a kill between the two stores that append arenas
/// ([`assert_whole_but_for_a_link`]).
fn serve_after_kill(path: &Path) -> Daemon {
    let daemon = Daemon::start(path, &["--namespace", "first"]);
    let warnings = warnings_of_arenas(&daemon);
    assert!(
        warnings.iter().all(|line| line.contains("the two info blocks differ")),
        "{warnings:?}"
    );
    daemon
}

#[test]
fn a_served_disk_grows_under_load_at_the_next_connection() {
    let (_folder, path) = file("4096");
    let mut daemon = serve(&path, &[]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    let small = capacity(&mut driver);
    let said = thread::scope(|scope| {
        let growing = scope.spawn(|| grow(&path, "96M"));
        let mut sector = 0;
        while !growing.is_finished() || sector < 200 {
            assert_eq!(driver.write(0, sector % 1000 * 8, &pattern(sector % 1000)), OK);
            sector += 1;
        }
        growing.join().unwrap()
    });
    assert!(said.contains("held by vhost-user-btt"), "{said}");
    assert_eq!(capacity(&mut driver), small, "a frontend that is connected keeps its disk");
    drop(driver);

    let mut driver = Driver::connect(daemon.connect(), 1);
    daemon.wait_for_log("the disk has grown from");
    let large = capacity(&mut driver);
    assert!(large > small + (60 << 20), "{small} {large}");
    assert_patterns(&mut driver, 0..200);
    // In the last old sector, in the first new one, and in the last.
    let last = large / 4096 - 1;
    for sector in [small / 4096 - 1, small / 4096, last] {
        assert_eq!(driver.write(0, sector * 8, &pattern(sector)), OK);
    }
    assert_eq!(driver.read(0, (last - 1) * 8, 4096), [0; 4096]);
    drop(driver);

    // Once more; and what nobody has grown is not opened again.
    grow(&path, "128M");
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert!(capacity(&mut driver) > large);
    assert_patterns(&mut driver, (0..200).chain([small / 4096 - 1, small / 4096, last]));
    drop(driver);
    drop(Driver::connect(daemon.connect(), 1));
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("the disk has grown from").count(), 2, "{log}");
    nvdimmctl_ok(&["check-namespace", text(&path)]);
}

/// The daemon keeps hold of all that it serves.
#[test]
fn what_a_disk_has_grown_by_belongs_to_its_daemon() {
    let (_folder, path) = file("4096");
    let daemon = serve(&path, &[]);
    grow(&path, "64M");
    drop(Driver::connect(daemon.connect(), 1));
    assert!(list(&path)["size"].as_u64().unwrap() > 60 << 20);
    let taking = ["destroy-namespace", text(&path), "first", "--force"];
    let message = String::from_utf8(nvdimmctl(&taking).stderr).unwrap();
    assert!(message.contains("is busy: held by vhost-user-btt"), "{message}");
}

#[test]
fn a_file_without_labels_grows_while_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&path, &[]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    let small = capacity(&mut driver);
    assert_eq!(driver.write(0, 8, &pattern(1)), OK);
    drop(driver);
    nvdimmctl_ok(&["grow-namespace", text(&path), "--size", "64M"]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert!(capacity(&mut driver) > small + (28 << 20));
    assert_patterns(&mut driver, 1..2);
}

/// Between the two stores that append the new arenas, the second info block of the last old one leads
/// on to them, and the first does not yet: the old disk, to be repaired or grown.
fn assert_whole_but_for_a_link(path: &Path) {
    let output = nvdimmctl(&["check-namespace", text(path), "--json"]);
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds: Vec<&Value> =
        checked["counts"].as_array().unwrap().iter().map(|count| &count["kind"]).collect();
    assert!(kinds.iter().all(|kind| *kind == "info-differs"), "{checked}");
}

/// Killed at some moment while it takes what its namespace has grown by, a daemon leaves the disk
/// whole, and the next one takes the rest.
#[test]
fn a_daemon_that_is_killed_while_its_disk_grows_leaves_it_whole() {
    let (_folder, path) = file("4096");
    let mut size = 0;
    for round in 0..10u64 {
        let daemon = serve_after_kill(&path);
        let mut driver = Driver::connect(daemon.connect(), 1);
        assert!(capacity(&mut driver) >= size);
        assert_patterns(&mut driver, 0..round);
        assert_eq!(driver.write(0, round * 8, &pattern(round)), OK);
        size = capacity(&mut driver);
        drop(driver);
        grow(&path, &format!("{}M", 32 + 16 * (round + 1)));
        let connection = daemon.connect();
        thread::sleep(Duration::from_micros(round * 1500));
        daemon.kill();
        drop(connection);
        assert_whole_but_for_a_link(&path);
    }
    let daemon = serve_after_kill(&path);
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert!(capacity(&mut driver) > 180 << 20, "{}", capacity(&mut driver));
    assert_patterns(&mut driver, 0..10);
    drop((driver, daemon));
    nvdimmctl_ok(&["check-namespace", text(&path)]);
}

#[test]
fn a_disk_that_cannot_grow_is_served_as_it_is() {
    let (_folder, path) = file("4096");
    let mut daemon = serve(&path, &[]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    let small = capacity(&mut driver);
    assert_eq!(driver.write(0, 0, &pattern(0)), OK);
    drop(driver);
    grow(&path, "64M");
    // The first info block of its one arena, which growth does not build on.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 4096], 0).unwrap();
    let mut driver = Driver::connect(daemon.connect(), 1);
    daemon.wait_for_log("the disk stays as large as it was");
    assert!(daemon.log().contains("info block"), "{}", daemon.log());
    assert_eq!(capacity(&mut driver), small);
    assert_patterns(&mut driver, 0..1);
}

/// The label of a neighbour was lost, by an index block that cannot be read any more: its sectors are
/// still there.
#[test]
fn a_namespace_does_not_grow_over_a_neighbour_that_has_lost_its_label() {
    let (_folder, path) = file("4096");
    let second = ["--size", "32M", "--name", "second"];
    nvdimmctl_ok(&[&["create-namespace", text(&path)][..], &second].concat());
    let area = (256 << 20) as usize;
    let index = |bytes: &[u8], number: usize| bytes[area + 256 * number + 20];
    let bytes = std::fs::read(&path).unwrap();
    // 1, 2, 3, 1: the one that counts is the one behind the other.
    let newer = usize::from(index(&bytes, 0) % 3 + 1 == index(&bytes, 1));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 256], (area + 256 * newer) as u64).unwrap();
    let before = std::fs::read(&path).unwrap();
    let output = nvdimmctl(&["grow-namespace", text(&path), "--size", "64M"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("namespaces made or changed last may be missing"), "{message}");
    assert!(message.contains("hold a BTT of version 2.0"), "{message}");
    assert!(std::fs::read(&path).unwrap() == before);

    // Nor if both index blocks are gone, and the file seems to have no labels.
    file.write_all_at(&[0; 512], area as u64).unwrap();
    let before = std::fs::read(&path).unwrap();
    let output = nvdimmctl(&["grow-namespace", text(&path)]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("the file has no labels"), "{message}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let (_folder, path) = file("4096");
    let daemon = serve(&path, &["--read-only"]);
    let small = capacity(&mut Driver::connect(daemon.connect(), 1));
    grow(&path, "64M");
    assert_eq!(capacity(&mut Driver::connect(daemon.connect(), 1)), small);
    drop(daemon);
    assert!(grow(&path, "64M").contains("sectors where it had"));
    nvdimmctl_ok(&["check-namespace", text(&path)]);
}
