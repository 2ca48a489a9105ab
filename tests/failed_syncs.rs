//! What holds after the operating system could not write a file back: over the socket, with syncs that
//! fail when told.

mod common;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};
use common::frontend::*;
use common::syncs::Syncs;
use nix::errno::Errno;
use tempfile::TempDir;

struct Setting {
    _folder: TempDir,
    file: PathBuf,
    syncs: Syncs,
}

impl Setting {
    fn new() -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        let syncs = Syncs::of(&file);
        Setting { _folder: folder, file, syncs }
    }

    fn serve(&self, arguments: &[&str]) -> (Daemon, Driver) {
        let daemon = Daemon::start_with_syncs(&self.file, arguments, &self.syncs);
        let driver = Driver::connect(daemon.connect(), 1);
        (daemon, driver)
    }

    fn check(&self) {
        nvdimmctl_ok(&["check-namespace", self.file.to_str().unwrap()]);
    }
}

fn flush(driver: &mut Driver) -> u8 {
    driver.request(0, T_FLUSH, 0, &[], 0).0
}

/// Everything that changes the disk is refused, and so is a flush; what was written is read.
fn assert_only_read(driver: &mut Driver, written: u8) {
    for _ in 0..3 {
        assert_eq!(driver.write(0, 16, &[9; 4096]), IOERR);
        assert_eq!(driver.write(0, 16, &[9; 512]), IOERR);
        assert_eq!(driver.clear(T_WRITE_ZEROES, &[(0, 8, 0)]), IOERR);
        assert_eq!(driver.clear(T_DISCARD, &[(0, 8, 0)]), IOERR);
        assert_eq!(flush(driver), IOERR);
        assert_eq!(driver.read(0, 0, 4096), [written; 4096]);
    }
}

#[test]
fn the_first_failed_sync_makes_the_disk_read_only_until_it_is_opened_again() {
    for errno in [Errno::EIO, Errno::ENOSPC] {
        let setting = Setting::new();
        let (daemon, mut driver) = setting.serve(&[]);
        assert_eq!([driver.write(0, 0, &[1; 4096]), flush(&mut driver)], [OK, OK]);
        assert_eq!(driver.write(0, 0, &[2; 4096]), OK);
        setting.syncs.fail(1, errno);
        assert_eq!(flush(&mut driver), IOERR);
        assert_only_read(&mut driver, 2);
        // The failure is the disk's, and not the connection's.
        drop(driver);
        assert_only_read(&mut Driver::connect(daemon.connect(), 1), 2);
        let (status, log) = daemon.terminate();
        assert!(status.success());
        assert!(log.contains("the disk can only be read until it is opened again"), "{log}");

        setting.check();
        let (_daemon, mut driver) = setting.serve(&[]);
        assert_eq!([driver.write(0, 0, &[3; 4096]), flush(&mut driver)], [OK, OK]);
        assert_eq!(driver.read(0, 0, 4096), [3; 4096]);
    }
}

#[test]
fn a_write_that_is_written_through_fails_with_its_sync() {
    let setting = Setting::new();
    let (_daemon, mut driver) = setting.serve(&[]);
    driver.set_config(32, &[0]).unwrap();
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    setting.syncs.fail(1, Errno::EIO);
    assert_eq!(driver.write(0, 8, &[1; 4096]), IOERR);
    assert_only_read(&mut driver, 1);
}

#[test]
fn with_strict_every_step_of_a_write_may_be_the_one_that_fails() {
    for step in 0..2 {
        let setting = Setting::new();
        let (daemon, mut driver) = setting.serve(&["--durability=strict"]);
        let (syncs, status) = setting.syncs.during(|| driver.write(0, 0, &[1; 4096]));
        assert_eq!((syncs, status), (2, OK), "data, flog");
        // Nothing was stored in between: only what fails is counted down.
        setting.syncs.fail_after(step, 1, Errno::EIO);
        assert_eq!(driver.write(0, 0, &[2; 4096]), IOERR, "step {step}");
        let seen = driver.read(0, 0, 4096)[0];
        assert!(seen == 1 || seen == 2);
        assert_only_read(&mut driver, seen);
        assert!(daemon.terminate().0.success());

        setting.check();
        let (_daemon, mut driver) = setting.serve(&["--durability=strict"]);
        let seen = driver.read(0, 0, 4096);
        assert!(seen == [1; 4096] || seen == [2; 4096]);
        assert_eq!(driver.write(0, 0, &[3; 4096]), OK);
    }
}

/// The map entry of a write is durable with the sync of a later one: if that fails, the write is not undone.
#[test]
fn with_strict_a_write_survives_the_failure_of_the_sync_that_its_map_entry_waits_for() {
    let setting = Setting::new();
    let (daemon, mut driver) = setting.serve(&["--durability=strict"]);
    for value in [1, 2] {
        assert_eq!(driver.write(0, 0, &[value; 4096]), OK);
    }
    setting.syncs.fail(1, Errno::EIO);
    // The same sector again: the first of its syncs is of the whole file.
    assert_eq!(driver.write(0, 0, &[3; 4096]), IOERR);
    assert_only_read(&mut driver, 2);
    assert!(daemon.terminate().0.success());

    setting.check();
    let (_daemon, mut driver) = setting.serve(&["--durability=strict"]);
    assert_eq!(driver.read(0, 0, 4096), [2; 4096]);
    assert_eq!(driver.write(0, 0, &[3; 4096]), OK);
}

/// A page of the map that is not durable may be lost: with `strict`, readers do not rely on it.
#[test]
fn with_strict_a_map_page_that_is_lost_takes_no_write_back() {
    let setting = Setting::new();
    let (map, file) = (map_of(&setting), open_for_damage(&setting));
    let (daemon, mut driver) = setting.serve(&["--durability=strict"]);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    let mut on_disk = [0; 4096];
    file.read_exact_at(&mut on_disk, map).unwrap();
    assert_eq!(driver.write(0, 0, &[2; 4096]), OK);
    file.write_all_at(&on_disk, map).unwrap();
    assert_eq!(driver.read(0, 0, 4096), [2; 4096]);
    assert!(daemon.terminate().0.success());
    let (_daemon, mut driver) = setting.serve(&["--durability=strict"]);
    assert_eq!(driver.read(0, 0, 4096), [2; 4096], "its flog entry was there");
}

#[test]
fn an_interrupted_sync_is_made_again() {
    let setting = Setting::new();
    let (_daemon, mut driver) = setting.serve(&[]);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    setting.syncs.fail(3, Errno::EINTR);
    let (syncs, status) = setting.syncs.during(|| flush(&mut driver));
    assert_eq!((syncs, status), (4, OK));
    assert_eq!(driver.write(0, 0, &[2; 4096]), OK);
}

/// A map page whose write-back failed is clean: it may be dropped, and read again as it is on the disk.
#[test]
fn a_map_page_that_is_dropped_after_a_failed_sync_gives_no_block_to_two_sectors() {
    let setting = Setting::new();
    let map = map_of(&setting);
    let (daemon, mut driver) = setting.serve(&[]);
    let sector = 7;
    assert_eq!(driver.write(0, sector * 8, &[0xa1; 4096]), OK);
    assert_eq!(flush(&mut driver), OK);
    let file = open_for_damage(&setting);
    let mut on_disk = [0; 4096];
    file.read_exact_at(&mut on_disk, map).unwrap();
    assert_eq!(driver.write(0, sector * 8, &[0xa2; 4096]), OK);
    setting.syncs.fail(1, Errno::EIO);
    assert_eq!(flush(&mut driver), IOERR);
    file.write_all_at(&on_disk, map).unwrap();
    // More than there are lanes: each of them would have handed out its free block.
    for other in 0..300 {
        assert_eq!(driver.write(0, 8 * (1024 + other), &[0xb0; 4096]), IOERR);
    }
    assert_eq!(driver.read(0, sector * 8, 4096), [0xa1; 4096]);
    assert!(daemon.terminate().0.success());
    setting.check();
    let (_daemon, mut driver) = setting.serve(&[]);
    assert_eq!(driver.read(0, sector * 8, 4096), [0xa2; 4096], "its flog entry was there");
}

/// Offset of the first map.
fn map_of(setting: &Setting) -> u64 {
    let path = setting.file.to_str().unwrap();
    let inspected: serde_json::Value =
        serde_json::from_slice(&nvdimmctl_ok(&["inspect", "--json", path])).unwrap();
    let arena = &inspected["arenas"][0];
    arena["start"].as_u64().unwrap() + arena["mapoff"].as_u64().unwrap()
}

fn open_for_damage(setting: &Setting) -> std::fs::File {
    std::fs::File::options().read(true).write(true).open(&setting.file).unwrap()
}

fn make_longer(setting: &Setting) {
    std::fs::File::options().write(true).open(&setting.file).unwrap().set_len(64 << 20).unwrap();
}

#[test]
fn growth_forgets_no_failure() {
    let setting = Setting::new();
    let (daemon, mut driver) = setting.serve(&[]);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    setting.syncs.fail(1, Errno::EIO);
    assert_eq!(flush(&mut driver), IOERR);
    drop(driver);
    make_longer(&setting);
    assert_only_read(&mut Driver::connect(daemon.connect(), 1), 1);
}

/// The kernel reports a failed write-back once, to whichever sync comes first.
#[test]
fn a_failure_that_growth_is_told_of_is_the_disks() {
    let setting = Setting::new();
    let (daemon, mut driver) = setting.serve(&[]);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    drop(driver);
    make_longer(&setting);
    setting.syncs.fail(1, Errno::EIO);
    assert_only_read(&mut Driver::connect(daemon.connect(), 1), 1);
}

/// Two namespaces of a file share its pages' fate.
#[test]
fn a_failed_sync_concerns_every_disk_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvdimm");
    let path = file.to_str().unwrap();
    nvdimmctl_ok(&["create", path, "--size", "96M", "--label-size", "128K"]);
    let sockets = ["a", "b"].map(|name| {
        nvdimmctl_ok(&["create-namespace", path, "--name", name, "--size", "32M"]);
        folder.path().join(format!("{name}.sock"))
    });
    let syncs = Syncs::of(&file);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--nvdimm").arg(path);
    for (socket, name) in sockets.iter().zip(["a", "b"]) {
        command.arg("--disk").arg(format!("socket={},namespace={name}", socket.display()));
    }
    syncs.preload(&mut command);
    let mut daemon = Daemon::spawn(command, sockets[0].clone());
    for namespace in ["0.0", "0.1"] {
        daemon.wait_for_log(&format!("serving namespace{namespace}"));
    }
    let mut drivers = sockets
        .map(|socket| Driver::connect(std::os::unix::net::UnixStream::connect(socket).unwrap(), 1));
    for driver in &mut drivers {
        assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    }
    syncs.fail(1, Errno::EIO);
    assert_eq!(flush(&mut drivers[0]), IOERR);
    for driver in &mut drivers {
        assert_only_read(driver, 1);
    }
    drop(drivers);
    assert!(daemon.terminate().0.success());
    for name in ["a", "b"] {
        let checked = nvdimmctl(&["check-namespace", path, "--namespace", name]);
        assert!(checked.status.success());
    }
}
