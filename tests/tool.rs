//! `nvdimmctl`, as an administrator uses it.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};
use common::fixture::{self, sha256};
use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&nvdimmctl_ok(arguments)).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs nvdimmctl, which fails with `code`, and returns its complaint.
fn refused(code: i32, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = nvdimmctl(arguments);
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {message}");
    assert!(stdout.is_empty(), "{arguments:?}");
    message
}

fn import(file: &Path, data: &[u8]) -> Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
        .args(["import", text(file)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A refusal closes the pipe before all is written.
    let _ = child.stdin.take().unwrap().write_all(data);
    child.wait_with_output().unwrap()
}

#[test]
fn linux_images_are_exported_as_linux_reads_them_and_found_clean() {
    for fixture in fixture::all() {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture.unpack(folder.path());
        let before = fs::read(&path).unwrap();
        assert_eq!(sha256(&nvdimmctl_ok(&["export", text(&path)])), fixture.contents_sha256);
        let checked = json(&["check-namespace", "--json", text(&path)]);
        assert_eq!(checked["verdict"], "clean", "{}", fixture.file);
        let pending = u64::from(fixture.pending_log_entry.is_some());
        assert_eq!(checked["pending_writes"], pending);
        assert!(fs::read(&path).unwrap() == before, "looking changes nothing");

        // Serving it recovers it; then nothing is pending any more.
        let (status, log) = Daemon::start(&path, &[]).terminate();
        assert!(status.success(), "{log}");
        let checked = json(&["check-namespace", "--json", text(&path)]);
        assert_eq!((&checked["verdict"], &checked["pending_writes"]), (&"clean".into(), &0.into()));
        assert_eq!(sha256(&nvdimmctl_ok(&["export", text(&path)])), fixture.contents_sha256);
    }
}

#[test]
fn a_file_is_created_sparse_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "1T"]);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (1 << 40, 0));
    assert!(refused(1, &["create", text(&path), "--size", "64M"]).contains("File exists"));
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
    for (size, complaint) in [("16M", "17 MiB"), ("65537K", "a multiple of 4K")] {
        let other = folder.path().join("other");
        assert!(refused(1, &["create", text(&other), "--size", size]).contains(complaint));
        assert!(!other.exists());
    }
    assert!(refused(2, &["create", text(&path), "--size", "lots"]).contains("not a size"));
    assert!(refused(2, &["create", text(&path)]).contains("--size"));
}

#[test]
fn every_kind_of_namespace_can_be_made_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    for (version, start) in [("1.1", 4096), ("2.0", 0)] {
        for size in ["512", "520", "528", "4096", "4104", "4160", "4224"] {
            let path = folder.path().join(format!("{version}-{size}"));
            nvdimmctl_ok(&["create", text(&path), "--size", "32M"]);
            let listed = json(&["list", "--json", text(&path)]);
            assert_eq!(listed[0]["mode"], "raw");
            assert_eq!(listed[0]["size"], 32 << 20);
            let uuid = "01234567-89ab-cdef-0123-456789abcdef";
            let options = ["--sector-size", size, "--btt-version", version, "--uuid", uuid];
            let command = [&["create-namespace", text(&path)][..], &options].concat();
            nvdimmctl_ok(&command);
            let listed = json(&["list", "--json", text(&path)]);
            let inspected = json(&["inspect", "--json", text(&path)]);
            assert_eq!(listed[0]["mode"], "sector");
            assert_eq!(listed[0]["uuid"], uuid);
            assert_eq!(listed[0]["sector_size"].to_string(), size);
            assert_eq!(listed[0]["btt_version"], version);
            assert_eq!(listed[0]["holder"], Value::Null);
            assert_eq!(inspected["arenas"][0]["start"], start);
            let sectors = inspected["sectors"].as_u64().unwrap();
            let data = if size.len() == 3 { 512 } else { 4096 };
            assert_eq!(listed[0]["size"], sectors * data);
            assert_eq!(json(&["check-namespace", "--json", text(&path)])["verdict"], "clean");
            assert!(refused(1, &command).contains("--force"));
        }
    }
    let path = folder.path().join("1.1-512");
    assert!(refused(2, &["create-namespace", text(&path), "-l", "1024"]).contains("not one of"));
    nvdimmctl_ok(&["create-namespace", text(&path), "--force"]);
    assert_eq!(json(&["list", "--json", text(&path)])[0]["sector_size"], 4096);
}

#[test]
fn inspection_shows_what_debugfs_shows_and_the_map() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "64M", 512);
    assert!(import(&path, &vec![7; 512 * 100]).status.success());
    let inspected = json(&["inspect", "--json", "--lanes", text(&path)]);
    let arena = &inspected["arenas"][0];
    for (field, value) in [
        ("size", (64 << 20) - 4096),
        ("external_lba_start", 0),
        ("internal_nlba", 129_992),
        ("internal_lbasize", 512),
        ("external_nlba", 129_736),
        ("external_lbasize", 512),
        ("nfree", 256),
        ("version_major", 1),
        ("version_minor", 1),
        ("nextoff", 0),
        ("infooff", 0),
        ("dataoff", 4096),
        ("mapoff", 66_564_096),
        ("logoff", 67_084_288),
        ("info2off", 67_100_672),
        ("flags", 0),
    ] {
        assert_eq!(arena[field], value, "{field}");
    }
    assert_eq!(arena["map"]["data"], 100);
    assert_eq!(arena["map"]["never_written"], 129_736 - 100);
    // Each lane's free block takes one sector, and leaves the next the block that it has had.
    assert!(arena["map"]["out_of_order"].as_u64().unwrap() < 100);
    assert_eq!(arena["lanes"].as_array().unwrap().len(), 256);
    let shown = String::from_utf8(nvdimmctl_ok(&["inspect", text(&path)])).unwrap();
    assert!(shown.contains("mapoff") && shown.contains("100 with data"), "{shown}");
}

#[test]
fn an_image_goes_in_and_comes_out_as_it_was() {
    for sector_size in [512, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let path = make_namespace(folder.path(), "32M", sector_size);
        let first: Vec<u8> = (0..5_000_000u32).map(|i| (i / 100 % 255) as u8 + 1).collect();
        let output = import(&path, &first);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let raw = nvdimmctl_ok(&["export", text(&path)]);
        assert!(raw[..first.len()] == first && raw[first.len()..].iter().all(|&byte| byte == 0));

        // A second, with zeroes where the first had data, and an odd end.
        let mut second = first.clone();
        second[100_000..900_000].fill(0);
        second.truncate(3_000_001);
        assert!(import(&path, &second).status.success());
        let raw = nvdimmctl_ok(&["export", text(&path)]);
        assert!(raw[..second.len()] == second);
        assert!(raw[second.len()..first.len()] == first[second.len()..]);

        // Into a file, with holes; and from one.
        let image = folder.path().join("image");
        nvdimmctl_ok(&["export", text(&path), text(&image)]);
        assert!(fs::read(&image).unwrap() == raw);
        assert!(fs::metadata(&image).unwrap().blocks() * 512 < 8 << 20);
        assert!(refused(1, &["export", text(&path), text(&image)]).contains("File exists"));
        let copy_folder = folder.path().join("copy");
        fs::create_dir(&copy_folder).unwrap();
        let copy = make_namespace(&copy_folder, "32M", sector_size);
        nvdimmctl_ok(&["import", text(&copy), text(&image)]);
        assert!(nvdimmctl_ok(&["export", text(&copy)]) == raw);
        assert!(fs::metadata(&copy).unwrap().blocks() * 512 < 8 << 20, "zeroes take no space");
        assert_eq!(json(&["check-namespace", "--json", text(&copy)])["verdict"], "clean");
    }
}

#[test]
fn an_image_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(33 << 20).unwrap();
    let before = nvdimmctl_ok(&["export", text(&path)]);
    assert!(refused(1, &["import", text(&path), text(&image)]).contains("larger than the disk"));
    assert!(nvdimmctl_ok(&["export", text(&path)]) == before);
    // From a pipe, it is noticed when it happens.
    assert!(!import(&path, &vec![1; 33 << 20]).status.success());
}

#[test]
fn any_format_goes_in_by_way_of_qemu_img() {
    let found = Command::new("qemu-img").arg("--version").output();
    assert!(found.is_ok(), "qemu-img is needed: scripts/test installs it (package qemu-utils)");
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let (raw, qcow2) = (folder.path().join("raw"), folder.path().join("qcow2"));
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7 % 253) as u8).collect();
    fs::write(&raw, &data).unwrap();
    let convert = |from: &str, to: &str, source: &Path, target: &Path| {
        let status = Command::new("qemu-img")
            .args(["convert", "-f", from, "-O", to])
            .args([source, target])
            .status()
            .unwrap();
        assert!(status.success());
    };
    convert("raw", "qcow2", &raw, &qcow2);
    fs::remove_file(&raw).unwrap();
    convert("qcow2", "raw", &qcow2, &raw);
    nvdimmctl_ok(&["import", text(&path), text(&raw)]);
    assert!(nvdimmctl_ok(&["export", text(&path)])[..data.len()] == data);
}

#[test]
fn damage_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    assert!(import(&path, &vec![9; 4096 * 10]).status.success());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let inspected = json(&["inspect", "--json", text(&path)]);
    let mapoff = inspected["arenas"][0]["mapoff"].as_u64().unwrap() + 4096;
    // Sector 3 takes the block of sector 4.
    let raw = fs::read(&path).unwrap();
    let entry = &raw[mapoff as usize + 16..][..4];
    file.write_all_at(entry, mapoff + 12).unwrap();
    let output = nvdimmctl(&["check-namespace", text(&path)]);
    assert_eq!(output.status.code(), Some(2));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("LBA 3") && shown.contains("LBA 4") && shown.contains("I4"), "{shown}");
    let checked = nvdimmctl(&["check-namespace", "--json", text(&path)]);
    let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(checked["verdict"], "problems");

    // The first info block gone: listed, checked, and served from the second.
    file.write_all_at(&[0; 4096], 4096).unwrap();
    let listed = json(&["list", "--json", text(&path)]);
    assert!(listed[0]["problem"].as_str().unwrap().contains("first info block"));
    let (status, log) = Daemon::start(&path, &[]).terminate();
    assert!(status.success() && log.contains("using the second"), "{log}");
    // Both: nothing can be served, and nothing is made up.
    file.write_all_at(&[0; 4096], (32 << 20) - 4096).unwrap();
    assert_eq!(json(&["list", "--json", text(&path)])[0]["mode"], "raw");
    assert!(refused(1, &["export", text(&path)]).contains("no BTT here"));
}

#[test]
fn a_check_that_cannot_be_made_is_told_from_one_that_finds_problems() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&path, &[]);
    assert!(refused(8, &["check-namespace", text(&path)]).contains("busy"));
    drop(daemon);
    assert!(refused(8, &["check-namespace", "/nowhere"]).contains("No such file"));
    assert!(refused(2, &["check-namespace"]).contains("FILE"));
    nvdimmctl_ok(&["check-namespace", text(&path)]);
}

#[test]
fn output_that_nobody_reads_is_no_error_and_output_that_is_lost_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let run = |verb: &str, stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
        command.args([verb, text(&path)]).stdout(stdout).output().unwrap()
    };
    for (verb, lost) in [("list", 1), ("inspect", 1), ("check-namespace", 8)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let Output { status, stderr, .. } = run(verb, writer.into());
        assert!(status.success() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let Output { status, stderr, .. } = run(verb, full.into());
        assert_eq!(status.code(), Some(lost), "{verb}");
        assert!(String::from_utf8_lossy(&stderr).contains("No space left"), "{verb}");
    }
}

#[test]
fn the_holder_is_listed_and_readers_share() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&path, &["--read-only"]);
    let listed = json(&["list", "--json", text(&path)]);
    assert_eq!(listed[0]["holder"]["pid"], daemon.pid());
    assert_eq!(listed[0]["holder"]["program"], "vhost-user-btt");
    let shown = String::from_utf8(nvdimmctl_ok(&["list", text(&path)])).unwrap();
    assert!(shown.contains("vhost-user-btt ("), "{shown}");
    nvdimmctl_ok(&["export", text(&path)]);
    nvdimmctl_ok(&["check-namespace", text(&path)]);
    assert!(refused(1, &["create-namespace", "--force", text(&path)]).contains("busy"));
}

#[test]
fn the_back_end_program_conventions_are_kept() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_vhost-user-btt")).args(arguments).output().unwrap()
    };
    let output = run(&["--print-capabilities", "--no-such-option", "--fd=nonsense"]);
    assert!(output.status.success());
    let capabilities: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(capabilities["type"], "block");
    assert_eq!(capabilities["features"], serde_json::json!(["read-only", "blk-file"]));
    for (arguments, code) in [
        (&["--socket-path=/tmp/x"][..], 2),
        (&["--blk-file=/tmp/x"], 2),
        (&["--socket-path=/tmp/x", "--fd=3", "--blk-file=/tmp/x"], 2),
        (&["--socket-path=/tmp/x", "--blk-file=/tmp/x", "--num-queues=65"], 2),
        (&["--socket-path=/tmp/x", "--blk-file=/tmp/x", "--num-queues=0"], 2),
        (&["--socket-path=/tmp/x", "--blk-file=/tmp/x", "--queue-size=100"], 2),
        (&["--socket-path=/tmp/x", "--blk-file=/tmp/x", "--serial=123456789012345678901"], 2),
        (&["--socket-path=/tmp/no/x", "--blk-file=/nowhere"], 1),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}
