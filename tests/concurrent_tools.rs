//! Several `nvdimmctl` at once on one file: readers never take a change for damage, and those that change
//! something wait for one another.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
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

/// What a process of another user locks, who can read the file, is said together with the way out.
#[test]
fn the_lock_of_another_user_is_named_with_advice() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("this is not root: nothing was tested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "64M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&path)]);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

    let mut stranger = lock_as_another_user(folder.path(), &path);
    let output = nvdimmctl(&["check-namespace", text(&path), "--repair"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(8), "{message}");
    assert!(message.contains(&format!("(pid {})", stranger.id())), "{message}");
    assert!(message.contains("chmod go-rwx"), "{message}");

    drop(stranger.stdin.take());
    assert!(stranger.wait().unwrap().success());
    nvdimmctl_ok(&["check-namespace", text(&path), "--repair"]);
}

/// This program, as the user nobody, with a read lock on the whole of `path`, until its standard input ends.
fn lock_as_another_user(folder: &Path, path: &Path) -> Child {
    let program = folder.join("stranger");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let stranger = Command::new(program)
        .args(["--exact", "--ignored", "stranger"])
        .env("LOCKED_FILE", path)
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    while !is_locked(&file) {
        thread::yield_now();
    }
    stranger
}

#[test]
#[ignore = "a process of the test above"]
fn stranger() {
    let Some(path) = std::env::var_os("LOCKED_FILE") else { return };
    let file = File::open(path).unwrap();
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(nix::libc::F_RDLCK))).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn whole_file(kind: i32) -> nix::libc::flock {
    let (l_type, l_whence) = (kind as i16, nix::libc::SEEK_SET as i16);
    nix::libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}

fn is_locked(file: &std::fs::File) -> bool {
    let mut lock = whole_file(nix::libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != nix::libc::F_UNLCK as i16
}
