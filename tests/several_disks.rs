//! Several namespaces of one file are several disks: of two daemons, or of one.

mod common;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::daemon::{Daemon, nvdimmctl, nvdimmctl_ok};
use common::frontend::*;
use serde_json::Value;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file with a namespace for each of `names`: 32 MiB, with the sector size that goes with it.
fn file(names: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "256M", "--label-size", "128K"]);
    for (name, sector_size) in names {
        let options = ["--size", "32M", "--name", name, "--sector-size", sector_size];
        nvdimmctl_ok(&[&["create-namespace", text(&path)][..], &options].concat());
    }
    (folder, path)
}

fn daemon(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.args(arguments);
    command
}

/// A daemon that serves one namespace, at a socket of that name.
fn serve(path: &Path, namespace: &str) -> Daemon {
    let socket = path.with_file_name(namespace);
    let arguments = [
        format!("--socket-path={}", socket.display()),
        format!("--nvdimm={}", path.display()),
        format!("--namespace={namespace}"),
    ];
    let mut daemon = Daemon::spawn(daemon(&arguments), socket);
    daemon.wait_for_log("serving");
    daemon
}

fn list(path: &Path) -> Value {
    serde_json::from_slice(&nvdimmctl_ok(&["list", "--json", text(path)])).unwrap()
}

#[test]
fn two_daemons_serve_two_namespaces_of_one_file_side_by_side() {
    let (_folder, path) = file(&[("a", "512"), ("b", "4096")]);
    let daemons = ["a", "b"].map(|name| serve(&path, name));
    let mut drivers = daemons.each_ref().map(|daemon| Driver::connect(daemon.connect(), 1));
    for sector in 0..64 {
        for (driver, byte) in drivers.iter_mut().zip([1, 2]) {
            assert_eq!(driver.write(0, sector * 8, &[byte; 4096]), OK);
        }
    }
    for (driver, byte) in drivers.iter_mut().zip([1, 2]) {
        assert_eq!(driver.read(0, 0, 64 * 4096), vec![byte; 64 * 4096]);
    }
    let listed = list(&path);
    for (listed, daemon) in [(&listed[0], &daemons[0]), (&listed[1], &daemons[1])] {
        assert_eq!(listed["holder"]["pid"], daemon.pid());
    }
    // Held, by the one who says so; its neighbour, and the space beside, are free to change.
    for verb in [&["destroy-namespace"][..], &["create-namespace", "-e"]] {
        let arguments = [&verb[..1], &[text(&path)], &verb[1..], &["a", "--force"]].concat();
        let Output { status, stderr, .. } = nvdimmctl(&arguments);
        let complaint = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{complaint}");
        let holder = format!("busy: held by vhost-user-btt (pid {})", daemons[0].pid());
        assert!(complaint.contains(&holder), "{complaint}");
    }
    // The bytes of a held disk can be looked at, for rescue.
    let raw = nvdimmctl_ok(&["export", text(&path), "-n", "a", "--force-raw"]);
    assert_eq!(raw.len(), 32 << 20);
    let [daemon, other] = daemons;
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    nvdimmctl_ok(&["destroy-namespace", text(&path), "a", "--force"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "--name", "c"]);
    assert_eq!(drivers[1].read(0, 0, 4096), [2; 4096]);
    drop(other);
    for name in ["b", "c"] {
        nvdimmctl_ok(&["check-namespace", text(&path), "--namespace", name]);
    }
}

/// The arguments for several disks of one daemon, and their sockets.
fn disks(path: &Path, disks: &[&str]) -> (Vec<String>, Vec<PathBuf>) {
    let sockets: Vec<PathBuf> =
        (0..disks.len()).map(|number| path.with_file_name(format!("disk{number}"))).collect();
    let disks = disks
        .iter()
        .zip(&sockets)
        .map(|(disk, socket)| format!("--disk=socket={},{disk}", socket.display()));
    let arguments = [format!("--nvdimm={}", path.display())].into_iter().chain(disks).collect();
    (arguments, sockets)
}

fn serial_of(driver: &mut Driver) -> String {
    let (status, id) = driver.request(0, T_GET_ID, 0, &[], 20);
    assert_eq!(status, OK);
    String::from_utf8(id).unwrap().trim_end_matches('\0').to_owned()
}

#[test]
fn one_daemon_serves_several_disks_each_at_its_socket() {
    let (_folder, path) = file(&[("a", "512"), ("b", "4096"), ("c", "4096")]);
    let uuid = list(&path)[1]["raw_uuid"].as_str().unwrap().to_owned();
    let by_uuid = format!("namespace={uuid},queues=2");
    let (arguments, sockets) =
        disks(&path, &["namespace=a,serial=first", &by_uuid, "namespace=namespace0.2,read-only"]);
    let mut daemon = Daemon::spawn(daemon(&arguments), sockets[0].clone());
    daemon.wait_for_log("namespace0.2 \"c\"");
    let connect = |number: usize| UnixStream::connect(&sockets[number]).unwrap();

    let mut first = Driver::connect(connect(0), 1);
    let mut second = Driver::connect(connect(1), 2);
    let mut third = Driver::connect(connect(2), 1);
    assert_eq!(serial_of(&mut first), "first");
    assert_eq!(serial_of(&mut second), uuid.replace('-', "")[..20]);
    assert_eq!(first.write(0, 3, &[1; 512]), OK);
    for queue in 0..2 {
        assert_eq!(second.write(queue, 8 * queue as u64, &[2 + queue as u8; 4096]), OK);
    }
    assert_eq!(third.write(0, 0, &[4; 4096]), IOERR);
    assert_eq!(third.read(0, 0, 4096), [0; 4096]);
    for namespace in list(&path).as_array().unwrap() {
        assert_eq!(namespace["holder"]["pid"], daemon.pid());
    }

    // A frontend that goes, or misbehaves, leaves the other disks alone.
    drop(first);
    connect(0);
    assert_eq!(second.read(1, 8, 4096), [3; 4096]);
    let mut first = Driver::connect(connect(0), 1);
    assert_eq!(first.read(0, 3, 512), [1; 512]);

    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    for socket in &sockets {
        assert!(!socket.exists(), "{log}");
    }
    for name in ["a", "b", "c"] {
        nvdimmctl_ok(&["check-namespace", text(&path), "--namespace", name]);
    }
    let exported = nvdimmctl_ok(&["export", text(&path), "--namespace", "b"]);
    assert!(exported[..4096] == [2; 4096] && exported[4096..8192] == [3; 4096]);
}

#[test]
fn what_is_in_flight_on_every_disk_is_completed_at_sigterm() {
    let (_folder, path) = file(&[("a", "512"), ("b", "4096")]);
    let (arguments, sockets) = disks(&path, &["namespace=a", "namespace=b"]);
    let mut daemon = Daemon::spawn(daemon(&arguments), sockets[0].clone());
    daemon.wait_for_log("namespace0.1");
    let mut drivers = [0, 1]
        .map(|number: usize| Driver::connect(UnixStream::connect(&sockets[number]).unwrap(), 1));
    for driver in &mut drivers {
        for index in 0..64u16 {
            let place = BUFFERS + u64::from(index) * 0x4000;
            driver.put(place, &request_header(T_OUT, u64::from(index) * 8));
            driver.put(place + 0x1000, &[index as u8 + 1; 4096]);
            driver.put(place + 0x3000, &[0xee]);
            let chain = vec![
                readable(place, 16),
                readable(place + 0x1000, 4096),
                writable(place + 0x3000, 1),
            ];
            driver.put_chain(0, index * 3, &linked(index * 3, chain));
            driver.offer(0, index * 3);
        }
        driver.kick(0);
    }
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    // What was taken off a ring was completed, and what was completed is there.
    for (driver, name) in drivers.iter().zip(["a", "b"]) {
        let exported = nvdimmctl_ok(&["export", text(&path), "--namespace", name]);
        for index in 0..usize::from(driver.used_index(0)) {
            let status = driver.get(BUFFERS + index as u64 * 0x4000 + 0x3000, 1);
            assert_eq!(status, [OK], "{name} {index}");
            assert!(exported[index * 4096..][..4096] == [index as u8 + 1; 4096]);
        }
    }
}

#[test]
fn one_disk_that_cannot_be_served_ends_them_all_at_the_start() {
    let (_folder, path) = file(&[("a", "512"), ("b", "4096")]);
    nvdimmctl_ok(&["create-namespace", text(&path), "-m", "raw", "-n", "raw"]);
    let held = serve(&path, "b");
    let unbindable = format!("socket={}/no/such/folder,namespace=a", path.display());
    for (second, complaint) in [
        ("namespace=nobody", "no namespace \"nobody\"; there are: namespace0.0"),
        ("serial=x", "several namespaces; choose one"),
        ("namespace=b", "busy: held by vhost-user-btt"),
        ("namespace=raw", "in raw mode, not in sector mode"),
        ("namespace=a", "namespace0.0 is busy"),
        ("nvdimm=/nowhere", "cannot open /nowhere"),
        (&unbindable, "socket is given twice"),
    ] {
        let (arguments, sockets) = disks(&path, &["namespace=a", second]);
        let Output { status, stderr, .. } = daemon(&arguments).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        let code = if second == unbindable { 2 } else { 1 };
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.contains(complaint), "{second}: {said}");
        assert!(!sockets.iter().any(|socket| socket.exists()));
    }
    // The same socket twice.
    let socket = path.with_file_name("same");
    let disk = |name: &str| format!("--disk=socket={},namespace={name}", socket.display());
    drop(held);
    let arguments = [format!("--nvdimm={}", path.display()), disk("a"), disk("b")];
    let Output { status, stderr, .. } = daemon(&arguments).output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stderr).contains("listening on this socket"));
}

#[test]
fn disks_of_different_files_and_labels_go_together() {
    let (_folder, path) = file(&[("a", "512")]);
    let other = path.with_file_name("other");
    nvdimmctl_ok(&["create", text(&other), "--size", "32M"]);
    nvdimmctl_ok(&["create-namespace", text(&other)]);
    let file = format!("nvdimm={}", other.display());
    let (arguments, sockets) = disks(&path, &["namespace=a", &file]);
    let mut daemon = Daemon::spawn(daemon(&arguments), sockets[0].clone());
    daemon.wait_for_log("other: serving namespace0.0");
    let mut driver = Driver::connect(UnixStream::connect(&sockets[1]).unwrap(), 1);
    assert_eq!(driver.write(0, 0, &[5; 4096]), OK);
    drop(daemon);
    assert_eq!(nvdimmctl_ok(&["export", text(&other)])[..4096], [5; 4096]);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt")).args(arguments).output();
        let Output { status, stderr, .. } = output.unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    for (arguments, complaint) in [
        (&["--disk=namespace=a", "--nvdimm=/x"][..], "say where to listen"),
        (&["--disk=socket=/a"], "--nvdimm=FILE"),
        (&["--disk=socket=/a", "--nvdimm=/x", "--socket-path=/b"], "cannot be used with"),
        (&["--disk=socket=/a", "--nvdimm=/x", "--serial=s"], "cannot be used with"),
        (&["--disk=socket=/a", "--nvdimm=/x", "--namespace=n"], "cannot be used with"),
        (&["--disk=socket=/a,queues=0", "--nvdimm=/x"], "queues=0: not a number from 1 to 64"),
        (&["--socket-path=/a", "--nvdimm=/x", "--blk-file=/x"], "cannot be used with"),
    ] {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(complaint), "{arguments:?}: {said}");
    }
}
