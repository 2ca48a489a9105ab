//! Namespaces that grow: nothing is lost, and the disk is larger.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon::{Daemon, nvdimmctl, nvdimmctl_ok};
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

#[test]
fn a_namespace_that_is_served_has_its_new_size_and_the_old_disk() {
    let (_folder, path) = file("4096");
    let socket = path.with_extension("sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--socket-path").arg(&socket).arg("--nvdimm").arg(&path);
    command.args(["--namespace", "first"]);
    let mut daemon = Daemon::spawn(command, socket);
    daemon.wait_for_log("serving");
    let before = list(&path);
    let said = grow(&path, "64M");
    assert!(said.contains("held by vhost-user-btt"), "{said}");
    assert_eq!(list(&path)["raw_size"], 64 << 20);
    assert_eq!(list(&path)["size"], before["size"]);
    drop(daemon);
    assert!(grow(&path, "64M").contains("sectors where it had"));
    nvdimmctl_ok(&["check-namespace", text(&path)]);
}
