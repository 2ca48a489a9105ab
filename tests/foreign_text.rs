//! Text of foreign origin, in labels, names of files and arguments, reaches no terminal and no log as it is.

mod common;

use std::fs;
use std::path::Path;

use common::daemon::{Daemon, nvdimmctl, nvdimmctl_ok};
use vhost_user_btt::nvdimm::label::{LabelVersion, NamespaceLabel};
use vhost_user_btt::pmem::fletcher64;

/// The usual size of a label storage area, in bytes.
const LABELS: usize = 128 << 10;

/// A name with an escape sequence, a newline, and a character that reverses the text after it.
const NAME: &str = "a\x1b[31mb\nc\u{202e}d";
const SHOWN: &str = r"a\u{1b}[31mb\nc\u{202e}d";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Makes a file with a namespace whose label has [`NAME`].
fn make_foreign(path: &Path) {
    nvdimmctl_ok(&["create", text(path), "--size", "64M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(path), "--name", "ours"]);
    let mut bytes = fs::read(path).unwrap();
    let start = bytes.len() - LABELS;
    let mut changed = 0;
    for slot in 0..510 {
        let place = start + 512 + 256 * slot..start + 512 + 256 * (slot + 1);
        let Ok(label) =
            NamespaceLabel::decode(&bytes[place.clone()], LabelVersion::V1_2, slot as u32)
        else {
            continue;
        };
        let mut encoded = label.encode();
        encoded[16..80].fill(0);
        encoded[16..16 + NAME.len()].copy_from_slice(NAME.as_bytes());
        encoded[248..].fill(0);
        let checksum = fletcher64(&encoded);
        encoded[248..].copy_from_slice(&checksum.to_le_bytes());
        bytes[place].copy_from_slice(&encoded);
        changed += 1;
    }
    assert!(changed > 0, "no label was found");
    fs::write(path, bytes).unwrap();
}

/// Asserts that an output has only printable characters and ends of lines.
fn assert_harmless(output: &[u8]) {
    let output = std::str::from_utf8(output).unwrap();
    let bad = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!output.contains(bad), "{output:?}");
}

#[test]
fn names_in_labels_are_escaped_in_tables_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    make_foreign(&path);
    let listed = nvdimmctl_ok(&["list", text(&path)]);
    assert_harmless(&listed);
    let listed = String::from_utf8(listed).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains(SHOWN), "{listed}");
    for arguments in [&["list", "-v"][..], &["list", "--json"], &["check-labels"], &["inspect"]] {
        assert_harmless(&nvdimmctl_ok(&[arguments, &[text(&path)]].concat()));
    }
    let json = nvdimmctl_ok(&["list", "--json", text(&path)]);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["name"], NAME, "JSON means the name as it is");
    assert_harmless(&nvdimmctl_ok(&["destroy-namespace", "--force", text(&path), "namespace0.0"]));
}

#[test]
fn names_of_files_are_escaped_in_messages_and_hints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it's\x1b]0;title\x07\nnamespace9.9");
    let created = nvdimmctl_ok(&["create", text(&path), "--size", "64M"]);
    assert_harmless(&created);
    let created = String::from_utf8(created).unwrap();
    assert_eq!(created.lines().count(), 2, "{created}");
    let hint = created.lines().last().unwrap().strip_prefix("next: nvdimmctl ").unwrap();
    let command = format!("{} {hint}", env!("CARGO_BIN_EXE_nvdimmctl"));
    let status = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
    assert!(status.status.success(), "a shell runs the hint as it is: {hint}");
    for arguments in [&["list"][..], &["list", "--json"], &["inspect"], &["check-namespace"]] {
        assert_harmless(&nvdimmctl_ok(&[arguments, &[text(&path)]].concat()));
    }
    for arguments in [&["create", "--size", "64M"][..], &["check-labels"], &["rename-namespace"]] {
        let output = nvdimmctl(&[arguments, &[text(&path)]].concat());
        assert!(!output.status.success());
        assert_harmless(&output.stderr);
    }
}

#[test]
fn names_are_escaped_in_the_daemons_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm\x1b[2J\nfake line");
    make_foreign(&path);
    let (status, log) = Daemon::start(&path, &[]).terminate();
    assert!(status.success(), "{log:?}");
    assert!(log.contains(r"nvdimm\u{1b}[2J\nfake line"), "{log:?}");
    assert_harmless(log.as_bytes());
}
