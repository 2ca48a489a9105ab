//! Labels that are lost cost their own namespaces, whose bytes nobody gets, and which come back.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::daemon::{nvdimmctl, nvdimmctl_ok};
use serde_json::Value;
use tempfile::TempDir;
use vhost_user_btt::nvdimm::label::NamespaceLabel;
use vhost_user_btt::nvdimm::{ClaimKind, LabelSize, NvdimmFile};

const M: u64 = 1 << 20;
const LABEL: u64 = 256;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(path: &Path, arguments: &[&str]) -> (i32, Value, String) {
    let arguments = [&[arguments[0], text(path)], &arguments[1..]].concat();
    let Output { status, stdout, stderr } = nvdimmctl(&arguments);
    let json = serde_json::from_slice(&stdout).unwrap_or_default();
    (status.code().unwrap(), json, String::from_utf8(stderr).unwrap())
}

fn done(path: &Path, arguments: &[&str]) {
    nvdimmctl_ok(&[&[arguments[0], text(path)], &arguments[1..]].concat());
}

/// A file of 64 MiB with the namespaces `a`, in sector mode, and `b`, as `mode` says, of 16 MiB and
/// 32 MiB: `a` holds the text of its name.
fn file(mode: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    done(&path, &["create", "--size", "64M", "--label-size", "128K"]);
    done(&path, &["create-namespace", "--name", "a", "--size", "16M", "-l", "528"]);
    let raw = folder.path().join("raw");
    fs::write(&raw, [b'a'; 4096]).unwrap();
    nvdimmctl_ok(&["import", text(&path), text(&raw), "--namespace", "a"]);
    done(&path, &["create-namespace", "--name", "b", "--size", "32M", "--mode", mode]);
    (folder, path)
}

fn contents_of_a(path: &Path) -> Vec<u8> {
    let output = nvdimmctl(&["export", text(path), "--namespace", "a"]);
    assert!(output.status.success());
    output.stdout[..4096].to_vec()
}

/// The label of namespace `name`, and its slot's offset in the file.
fn label(path: &Path, name: &str) -> (NamespaceLabel, u64) {
    let file = NvdimmFile::open(path, ClaimKind::Shared, LabelSize::Detect).unwrap();
    let found = file.namespaces().iter().find(|namespace| namespace.name == name);
    let label = found.unwrap().label.clone().unwrap();
    let area = file.labels().unwrap();
    let offset = file.size() - area.size + area.index.slot_offset(label.slot);
    (label, offset)
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// The names of the namespaces that there are.
fn names(path: &Path) -> Vec<String> {
    let (code, listed, _) = run(path, &["list", "--json"]);
    assert_eq!(code, 0);
    let name = |listed: &Value| listed["name"].as_str().unwrap_or_default().to_owned();
    listed.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn a_label_with_a_wrong_checksum_costs_its_own_namespace_until_it_is_mended() {
    let (_folder, path) = file("raw");
    let (before, offset) = label(&path, "a");
    let whole = fs::read(&path).unwrap();
    write(&path, offset + 90, &[0xff]);
    assert_eq!(names(&path), ["b"]);
    let damaged = fs::read(&path).unwrap();
    for refused in [
        &["create-namespace", "--size", "16M"][..],
        &["create-namespace", "--mode", "raw", "--size", "16M"],
        &["grow-namespace", "--namespace", "b"],
    ] {
        let (code, _, complaint) = run(&path, refused);
        assert_eq!(code, 1, "{refused:?}");
        assert!(complaint.contains("check-labels"), "{complaint}");
    }
    let (code, checked, _) = run(&path, &["check-labels", "--json"]);
    assert_eq!((code, &checked["found"][0]["uuid"]), (2, &before.uuid.to_string().into()));
    assert_eq!(checked["found"][0]["raw_size"], 16 * M);
    assert!(fs::read(&path).unwrap() == damaged, "what is refused, or looked at, changes nothing");
    // The others can be changed.
    done(&path, &["rename-namespace", "b", "c"]);
    done(&path, &["destroy-namespace", "c", "--force"]);

    let (code, mended, _) = run(&path, &["check-labels", "--repair", "--json"]);
    assert_eq!((code, &mended["verdict"]), (1, &"clean".into()));
    let (after, offset) = label(&path, "a");
    assert_eq!(after, NamespaceLabel { slot: after.slot, ..before });
    assert_eq!(contents_of_a(&path), [b'a'; 4096]);
    done(&path, &["create-namespace", "--size", "48M"]);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[..16 << 20] == whole[..16 << 20], "labels alone are written");
    assert_eq!(bytes[offset as usize..][..LABEL as usize], after.encode());
}

#[test]
fn namespaces_come_back_after_all_labels_were_lost() {
    let (_folder, path) = file("dax");
    nvdimmctl_ok(&["dax", "create-device", text(&path), "device", "--size", "4M"]);
    let labels = [label(&path, "a").0, label(&path, "b").0];
    done(&path, &["init-labels", "--force"]);
    assert_eq!(names(&path), [""; 0]);
    let (code, checked, _) = run(&path, &["check-labels", "--repair", "--json"]);
    assert_eq!((code, &checked["repaired"]), (2, &Value::Array(Vec::new())), "not unasked");
    let unknown = "00000000-0000-0000-0000-000000000001";
    let (code, _, complaint) = run(&path, &["check-labels", "--restore", unknown]);
    assert!(code == 8 && complaint.contains(unknown), "{complaint}");

    let [a, b] = labels.each_ref().map(|label| label.uuid.to_string());
    let (code, ..) = run(&path, &["check-labels", "--restore", &b, "--restore", &a]);
    assert_eq!(code, 1);
    done(&path, &["rename-namespace", &a, "a"]);
    done(&path, &["rename-namespace", &b, "b"]);
    for (before, name) in labels.into_iter().zip(["a", "b"]) {
        let (after, _) = label(&path, name);
        assert_eq!(after, NamespaceLabel { slot: after.slot, ..before });
    }
    assert_eq!(contents_of_a(&path), [b'a'; 4096]);
    let listed = nvdimmctl_ok(&["dax", "list", text(&path), "--namespace", "b"]);
    assert!(String::from_utf8(listed).unwrap().contains("device"));
    assert_eq!(run(&path, &["check-labels"]).0, 0);
}

#[test]
fn of_two_labels_of_the_same_bytes_the_one_that_is_kept_counts_again() {
    let (_folder, path) = file("raw");
    let (mut second, offset) = label(&path, "b");
    second.dpa = 8 * M;
    write(&path, offset, &second.encode());
    assert_eq!(names(&path), [""; 0], "nobody can tell which is right");
    // What either names is not free.
    done(&path, &["create-namespace", "--name", "c", "--mode", "raw", "-s", "16M"]);
    let (code, listed, _) = run(&path, &["list", "--json"]);
    assert_eq!((code, &listed[0]["start"]), (0, &(48 * M).into()));
    let (code, checked, _) = run(&path, &["check-labels", "--json"]);
    assert_eq!((code, &checked["lost"][0]["holds"]["holds"]), (2, &"a BTT of version 2.0".into()));
    assert_eq!(checked["lost"][1]["holds"], Value::Null);

    let drawing = nvdimmctl_ok(&["inspect", text(&path), "--svg", "-"]);
    let drawing = String::from_utf8(drawing).unwrap();
    assert!(drawing.contains("label lost: 40 MiB at byte 0<"), "{drawing}");

    let slot = second.slot.to_string();
    let (code, _, complaint) = run(&path, &["check-labels", "--drop", "3"]);
    assert!(code == 8 && complaint.contains("no label that is lost"), "{complaint}");
    assert_eq!(run(&path, &["check-labels", "--drop", &slot]).0, 1);
    assert_eq!(names(&path), ["a", "c"]);
    assert_eq!(contents_of_a(&path), [b'a'; 4096]);
}
