//! Sockets that the daemon makes and gets, and what else a service manager expects of it.

mod common;

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon::{Daemon, PATIENCE, make_namespace, nvdimmctl_ok};
use common::frontend::{Driver, OK};

/// Modes of the sockets of a disk and for control, made under `umask`.
fn modes(umask: &str) -> [u32; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let sockets = ["disk", "control"].map(|name| folder.path().join(name));
    let mut command = Command::new("sh");
    command.args(["-c", "umask $0; exec \"$@\"", umask, env!("CARGO_BIN_EXE_vhost-user-btt")]);
    command.arg("--nvdimm").arg(file).arg("--socket-path").arg(&sockets[0]);
    command.arg("--control").arg(&sockets[1]);
    let mut daemon = Daemon::spawn(command, sockets[0].clone());
    daemon.wait_for_log("listening for administrators");
    let mode = |socket: &Path| socket.metadata().unwrap().permissions().mode() & 0o777;
    sockets.each_ref().map(|socket| mode(socket))
}

#[test]
fn sockets_are_for_their_owner_and_what_the_umask_leaves_of_the_group() {
    assert_eq!(modes("000"), [0o660; 2]);
    assert_eq!(modes("007"), [0o660; 2]);
    assert_eq!(modes("022"), [0o640; 2]);
    assert_eq!(modes("077"), [0o600; 2]);
}

/// A daemon that serves `file` at the socket `path`, with some options more.
fn serve(file: &Path, socket: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--nvdimm").arg(file).arg("--socket-path").arg(socket).args(options);
    command
}

#[test]
fn a_mode_that_was_asked_for_is_set_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    for (umask, mode) in [("077", 0o666), ("000", 0o600), ("022", 0o660)] {
        let socket = folder.path().join("disk");
        let mut command = Command::new("sh");
        command.args(["-c", "umask $0; exec \"$@\"", umask]);
        command.arg(env!("CARGO_BIN_EXE_vhost-user-btt")).arg("--nvdimm").arg(&file);
        command.arg("--socket-path").arg(&socket).arg(format!("--socket-mode={mode:o}"));
        let mut daemon = Daemon::spawn(command, socket.clone());
        daemon.wait_for_log("serving");
        let _connection = daemon.connect();
        assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, mode, "{umask}");
        assert!(daemon.terminate().0.success());
    }
    for bad in ["--socket-mode=999", "--socket-mode=1777", "--socket-mode=rw"] {
        let output = serve(&file, Path::new("disk"), &[bad]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
}

#[test]
fn the_group_that_was_asked_for_owns_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    // Only root, or a member, can give a file to a group: the process's own group is possible always.
    let is_root = rustix::process::geteuid().is_root();
    let group = if is_root { 4242 } else { rustix::process::getegid().as_raw() };
    let socket = folder.path().join("disk");
    let option = format!("--socket-group={group}");
    let mut daemon = Daemon::spawn(serve(&file, &socket, &[&option]), socket.clone());
    daemon.wait_for_log("serving");
    assert_eq!(socket.metadata().unwrap().gid(), group);
    let _connection = daemon.connect();
    let unknown = serve(&file, &socket, &["--socket-group=no-such-group-here"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no such group"));
}

/// Starts a daemon to which a service manager has passed `sockets`, from descriptor 3 on.
fn activated(sockets: &[&UnixListener], arguments: &[&str], file: &Path) -> Daemon {
    let numbers: Vec<i32> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vhost-user-btt")]);
    command.env("LISTEN_FDS", numbers.len().to_string());
    command.args(arguments).arg("--nvdimm").arg(file);
    // SAFETY: the system calls are async-signal-safe, and the child uses no other descriptors.
    unsafe {
        command.pre_exec(move || {
            let check = |result| nix::errno::Errno::result(result).map(drop);
            // First out of the way: one of them may have the number that another one is to get.
            for (number, place) in numbers.iter().zip(100..) {
                check(nix::libc::dup2(*number, place))?;
            }
            for (place, target) in (100..).zip(3..).take(numbers.len()) {
                check(nix::libc::dup2(place, target))?;
                check(nix::libc::close(place))?;
            }
            Ok(())
        });
    }
    Daemon::spawn(command, PathBuf::new())
}

#[test]
fn sockets_of_the_service_manager_go_to_the_devices_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvdimm");
    let name = file.to_str().unwrap();
    nvdimmctl_ok(&["create", name, "--size", "128M", "--label-size", "128K"]);
    for (disk, sector_size) in [("a", "512"), ("b", "4096")] {
        let options = ["--size", "32M", "--sector-size", sector_size, "--name", disk];
        nvdimmctl_ok(&[&["create-namespace", name][..], &options].concat());
    }
    let paths = ["first", "second"].map(|name| folder.path().join(name));
    let listeners = paths.each_ref().map(|path| UnixListener::bind(path).unwrap());
    let disks = ["--disk=namespace=b", "--disk=namespace=a"];
    let passed = [&listeners[0], &listeners[1]];
    let mut daemon = activated(&passed, &disks, &file);
    daemon.wait_for_log("4096 bytes");
    daemon.wait_for_log("512 bytes");
    let sizes = paths.each_ref().map(|path| {
        let mut driver = Driver::connect(UnixStream::connect(path).unwrap(), 1);
        driver.config(20, 4)
    });
    assert_eq!(sizes, [4096u32.to_le_bytes(), 512u32.to_le_bytes()]);
    assert!(daemon.terminate().0.success());
    assert!(paths.iter().all(|path| path.exists()), "the names are not the daemon's");
    // One socket is too few for two disks, and exactly what a single disk needs.
    let mut few = activated(&passed[..1], &disks, &file);
    assert_eq!(few.wait().code(), Some(2), "{}", few.log());
    let mut one = activated(&passed[..1], &["--namespace=a"], &file);
    one.wait_for_log("serving");
    let mut driver = Driver::connect(UnixStream::connect(&paths[0]).unwrap(), 1);
    assert_eq!(driver.write(0, 0, &[1; 512]), OK);
}

/// Receives messages for the service manager until one contains `text`.
fn wait_for_notice(manager: &UnixDatagram, text: &str) {
    let mut bytes = [0; 4096];
    loop {
        let length = manager.recv(&mut bytes).unwrap_or_else(|error| panic!("{text}: {error}"));
        if String::from_utf8_lossy(&bytes[..length]).contains(text) {
            return;
        }
    }
}

#[test]
fn the_service_manager_is_told_when_the_disk_can_be_used_and_that_the_daemon_lives() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let (socket, notices) = (folder.path().join("disk"), folder.path().join("notices"));
    let manager = UnixDatagram::bind(&notices).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = serve(&file, &socket, &[]);
    command.env("NOTIFY_SOCKET", &notices).env("WATCHDOG_USEC", "100000");
    let daemon = Daemon::spawn(command, socket.clone());
    wait_for_notice(&manager, "READY=1\nSTATUS=serving 1 devices");
    let _connection = daemon.connect();
    wait_for_notice(&manager, "WATCHDOG=1");
    wait_for_notice(&manager, "WATCHDOG=1");
    assert!(daemon.terminate().0.success());
    wait_for_notice(&manager, "STOPPING=1");
}

#[test]
fn a_hangup_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let mut daemon = Daemon::start(&file, &[]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    daemon.wait_for_log("SIGHUP");
    assert_eq!(driver.write(0, 0, &[7; 4096]), OK);
    assert_eq!(driver.read(0, 0, 4096), [7; 4096]);
}
