//! What the tests of regions have in common.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;
use vhost_user_btt::namespace::NamespaceOptions;
use vhost_user_btt::nvdimm::{LabelSize, Selection};

use super::common::daemon::{nvdimmctl, nvdimmctl_ok};

pub const M: u64 = 1 << 20;

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    (folder, path)
}

/// A file with one namespace in dax mode: without labels, and of 256 MiB.
pub fn region() -> (TempDir, PathBuf) {
    let (folder, path) = folder();
    nvdimmctl_ok(&["create", text(&path), "--size", "256M"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "--mode", "dax"]);
    (folder, path)
}

pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&nvdimmctl_ok(arguments)).unwrap()
}

/// Runs nvdimmctl, which fails with `code`, and returns its complaint.
pub fn refused(code: i32, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = nvdimmctl(arguments);
    let complaint = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {complaint}");
    assert!(stdout.is_empty(), "{arguments:?}");
    complaint
}

pub fn options(path: &Path) -> NamespaceOptions {
    NamespaceOptions::new(path.into(), Selection::Only, LabelSize::Detect)
}

/// Runs `nvdimmctl dax VERB FILE ...`, and returns what it prints.
pub fn dax_ok(path: &Path, verb: &str, arguments: &[&str]) -> String {
    let printed = nvdimmctl_ok(&[&["dax", verb, text(path)], arguments].concat());
    String::from_utf8(printed).unwrap()
}

pub fn dax_json(path: &Path, verb: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&dax_ok(path, verb, &[arguments, &["--json"]].concat())).unwrap()
}

pub fn dax_refused(path: &Path, verb: &str, arguments: &[&str]) -> String {
    refused(1, &[&["dax", verb, text(path)], arguments].concat())
}

/// Writes `bytes` into a device, which is one extent.
pub fn fill(path: &Path, device: &Value, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let start = device["mappings"][0]["start"].as_u64().unwrap();
    file.write_all_at(bytes, start + offset).unwrap();
}

/// First byte and bytes of each extent, in MiB of the file.
pub fn extents(device: &Value) -> Vec<(u64, u64)> {
    let mib = |value: &Value| value.as_u64().unwrap() / M;
    let mappings = device["mappings"].as_array().unwrap().iter();
    mappings.map(|mapping| (mib(&mapping["start"]), mib(&mapping["size"]))).collect()
}

pub fn check(path: &Path, options: &[&str]) -> (i32, Value) {
    let arguments = [&["dax", "check", text(path), "--json"], options].concat();
    let Output { status, stdout, .. } = nvdimmctl(&arguments);
    (status.code().unwrap(), serde_json::from_slice(&stdout).unwrap())
}
