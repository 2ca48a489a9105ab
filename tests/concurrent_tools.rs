//! Several `nvdimmctl` at once on one file: readers never take a change for damage, and those that change
//! something wait for one another.

mod common;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::daemon::{nvdimmctl, nvdimmctl_ok};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn labels_that_are_being_changed_are_not_taken_for_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "256M", "--label-size", "128K"]);
    let path = text(&path);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 0..12 {
                        let name = format!("n{writer}-{round}");
                        let arguments = ["create-namespace", "-j", path, "-s", "16M", "-n", &name];
                        let output = nvdimmctl(&arguments);
                        assert!(output.status.success(), "{}", stderr(&output));
                        assert_eq!(stderr(&output), "");
                        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
                        assert_eq!(
                            (&made["name"], &made["mode"]),
                            (&name.into(), &"sector".into())
                        );
                        assert_eq!(made["sector_size"], 4096, "described as it was made");
                        let name = made["name"].as_str().unwrap();
                        let output = nvdimmctl(&["destroy-namespace", "-f", path, name]);
                        assert!(output.status.success(), "{}", stderr(&output));
                        assert_eq!(stderr(&output), "");
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            for command in ["list", "check-labels"] {
                let output = nvdimmctl(&[command, path]);
                assert!(output.status.success(), "{}", stderr(&output));
                assert_eq!(stderr(&output), "");
            }
        }
    });
}

#[test]
fn damage_that_stays_is_still_reported() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "64M", "--label-size", "128K"]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 8], (64 << 20) + 64).unwrap();
    let output = nvdimmctl(&["list", text(&path)]);
    assert!(stderr(&output).contains("label index block 0"), "{}", stderr(&output));
}

#[test]
fn changes_of_devices_wait_for_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "256M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "--mode", "dax"]);
    let path = text(&path);
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let device = format!("device{number}");
                let output = nvdimmctl(&["dax", "create-device", path, &device, "--size", "2M"]);
                assert!(output.status.success(), "{}", stderr(&output));
            });
        }
    });
    let listed: Value =
        serde_json::from_slice(&nvdimmctl_ok(&["dax", "list", "-j", path])).unwrap();
    assert_eq!(listed["devices"].as_array().unwrap().len(), 4);
}

/// A tool that is at work for a long time is not waited for without end.
#[test]
fn a_namespace_that_a_tool_keeps_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "64M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&path)]);
    let mut import = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
        .args(["import", text(&path)])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The image is looked at before the namespace is taken; it does not come to its end.
    import.stdin.as_mut().unwrap().write_all(&vec![0; 1 << 20]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    while !is_locked(&file) {
        thread::yield_now();
    }
    let output = nvdimmctl(&["destroy-namespace", "-f", text(&path), "namespace0.0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nvdimmctl (pid"), "{}", stderr(&output));
    drop(import.stdin.take());
    import.wait().unwrap();
}

fn is_locked(file: &std::fs::File) -> bool {
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 4096,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != nix::libc::F_UNLCK as i16
}
