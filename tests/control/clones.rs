//! Copies of namespaces, with an identity of their own.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};
use crate::common::frontend::{Driver, OK};
use crate::common::patience::PATIENCE;
use crate::setup::{Place, pattern};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn clone(arguments: &[&str]) -> Result<Value, String> {
    let output = nvdimmctl(&[&["clone", "--json"][..], arguments].concat());
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// The uuids of the namespaces of a file, and of what is in them.
fn uuids(file: &Path) -> Vec<String> {
    let listed: Value =
        serde_json::from_slice(&nvdimmctl_ok(&["list", text(file), "--json"])).unwrap();
    let mut found = Vec::new();
    let mut places = vec![&listed];
    while let Some(place) = places.pop() {
        match place {
            Value::Object(fields) => {
                for (key, value) in fields {
                    if key.contains("uuid") && value.is_string() {
                        found.push(value.as_str().unwrap().to_owned());
                    }
                    places.push(value);
                }
            }
            Value::Array(values) => places.extend(values),
            _ => {}
        }
    }
    assert!(!found.is_empty(), "{listed}");
    found
}

fn serial(driver: &mut Driver) -> Vec<u8> {
    // GET_ID (VIRTIO 1.2, 5.2.6).
    let (status, bytes) = driver.request(0, 8, 0, &[], 20);
    assert_eq!(status, OK);
    bytes
}

/// A copy of a file without a daemon, checked: it holds `image`.
fn check_copy(original: &Path, copy: &Path, namespace: &str, image: &[u8]) {
    nvdimmctl_ok(&["check-namespace", text(copy), namespace]);
    assert!(nvdimmctl_ok(&["export", text(copy)]) == image);
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (theirs, ours) = (uuids(original), uuids(copy));
    assert!(ours.iter().all(|uuid| !theirs.contains(uuid)), "{theirs:?} {ours:?}");
}

#[test]
fn a_copy_is_clean_equal_and_has_uuids_of_its_own_and_both_are_served() {
    let place = Place::new("128M", &["first", "second"]);
    let daemon = place.serve(&["second"], &[]);
    let mut driver = Driver::connect(place.connect("second"), 1);
    for number in 0..20 {
        assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
    }
    drop(driver);
    assert!(daemon.terminate().0.success());
    let copy = place.folder().join("copy");
    let said = clone(&[text(&place.file), text(&copy), "--namespace=second"]).unwrap();
    assert_eq!((&said["name"], &said["size"]), (&"second".into(), &(32 << 20).into()), "{said}");
    let image = nvdimmctl_ok(&["export", text(&place.file), "--namespace=second"]);
    check_copy(&place.file, &copy, "second", &image);
    nvdimmctl_ok(&["check-labels", text(&copy)]);
    // One namespace, and its labels.
    assert_eq!(copy.metadata().unwrap().len(), (32 << 20) + (128 << 10));
    let original = place.serve(&["second"], &[]);
    let copied = Daemon::start(&copy, &[]);
    let mut drivers =
        [place.connect("second"), copied.connect()].map(|one| Driver::connect(one, 1));
    let serials = drivers.each_mut().map(serial);
    assert_ne!(serials[0], serials[1]);
    assert_eq!(drivers[1].write(0, 0, &pattern(99)), OK);
    assert!(drivers[0].read(0, 0, 4096) == pattern(0));
    assert!(drivers[1].read(0, 0, 4096) == pattern(99));
    drop(drivers);
    assert!(original.terminate().0.success() && copied.terminate().0.success());
    // Nothing is written over.
    let error = clone(&[text(&place.file), text(&copy), "--namespace=first"]).unwrap_err();
    assert!(error.contains("exists"), "{error}");
}

#[test]
fn a_file_without_labels_a_raw_namespace_and_what_was_interrupted_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    for sector_size in [512, 4096] {
        let part = folder.path().join(sector_size.to_string());
        std::fs::create_dir(&part).unwrap();
        let file = make_namespace(&part, "32M", sector_size);
        let mut daemon = Daemon::start(&file, &["--atomic=16K", "--num-queues=1"]);
        let mut driver = Driver::connect(daemon.connect(), 1);
        assert_eq!(driver.write(0, 8, &pattern(1).repeat(4)), OK);
        drop(driver);
        daemon.wait_for_log("disconnected");
        daemon.kill();
        let copy = part.join("copy");
        clone(&[text(&file), text(&copy), "--reflink=never"]).unwrap();
        let image = nvdimmctl_ok(&["export", text(&file)]);
        assert!(image[4096..].starts_with(&pattern(1).repeat(4)));
        check_copy(&file, &copy, "namespace0.0", &image);
        assert_eq!(copy.metadata().unwrap().len(), file.metadata().unwrap().len());
    }
    let (raw, copy) = (folder.path().join("raw"), folder.path().join("raw-copy"));
    nvdimmctl_ok(&["create", text(&raw), "--size", "32M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&raw), "--mode", "raw"]);
    let file = std::fs::File::options().write(true).open(&raw).unwrap();
    file.write_all_at(b"bytes", 5 << 20).unwrap();
    clone(&[text(&raw), text(&copy)]).unwrap();
    let image = nvdimmctl_ok(&["export", text(&copy)]);
    assert_eq!(&image[5 << 20..][..5], b"bytes");
    assert!(uuids(&copy).iter().all(|uuid| !uuids(&raw).contains(uuid)));
}

#[test]
fn a_disk_that_is_served_stands_still_while_it_is_copied_and_goes_on() {
    let place = Place::new("64M", &["first"]);
    let mut daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for number in 0..50 {
        assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
    }
    let (control, copy) = (place.control(), place.folder().join("copy"));
    let error = clone(&[text(&place.file), text(&copy)]).unwrap_err();
    assert!(error.contains("held by"), "{error}");
    let asked = [text(&place.file), text(&copy), "--control", text(&control)];
    clone(&asked).unwrap();
    daemon.wait_for_log("quiesced for 600 s at most");
    daemon.wait_for_log("resumed");
    assert_eq!(driver.write(0, 0, &pattern(1000)), OK);
    nvdimmctl_ok(&["check-namespace", text(&copy), "first"]);
    let image = nvdimmctl_ok(&["export", text(&copy)]);
    for number in 0..50 {
        assert!(image[number as usize * 4096..].starts_with(&pattern(number)), "{number}");
    }
    // After an error, it goes on, too: the file system of the tests may share extents, and may not.
    let again = place.folder().join("again");
    let asked = [text(&place.file), text(&again), "--control", text(&control), "--reflink=always"];
    let is_shared = clone(&asked).is_ok();
    assert_eq!(again.exists(), is_shared);
    assert_eq!(place.stat("first")["quiesced"], false);
    assert_eq!(driver.write(0, 8, &pattern(1001)), OK);
    // A daemon that serves something else.
    let other = Place::new("64M", &["first"]);
    let asked = [text(&other.file), text(&again), "--control", text(&control)];
    let error = clone(&asked[..]).unwrap_err();
    assert!(is_shared || error.contains("does not serve"), "{error}");
}

#[test]
fn a_copy_that_is_interrupted_leaves_no_file_and_no_disk_that_stands_still() {
    // Large enough to be interrupted, with holes only: the bytes are looked at one chunk after another.
    let folder = tempfile::tempdir().unwrap();
    let place = Place::in_folder(folder, "512M", &[]);
    let options = ["--size", "480M", "--name", "first", "--sector-size", "4096"];
    nvdimmctl_ok(&[&["create-namespace", text(&place.file)][..], &options].concat());
    let mut daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for number in 0..20_000 {
        if number % 4 == 0 {
            assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
        }
    }
    let copy = place.folder().join("copy");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
    command.args(["clone", text(&place.file), text(&copy), "--reflink=never", "--control"]);
    let mut child = command.arg(place.control()).stderr(Stdio::piped()).spawn().unwrap();
    daemon.wait_for_log("quiesced for");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    // It may have been quicker than the signal; then the copy is whole.
    assert_eq!(copy.exists(), status.success());
    let deadline = Instant::now() + PATIENCE;
    while place.stat("first")["quiesced"] != false {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(driver.write(0, 0, &pattern(7)), OK);
    let left = std::fs::read_dir(place.folder()).unwrap();
    let names: Vec<_> =
        left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("part")), "{names:?}");
}
