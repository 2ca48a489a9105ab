//! Frontends come and go, and daemons are killed: nothing that was acknowledged is lost.

mod common;

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::daemon::{Daemon, make_namespace, nvdimmctl};
use common::frontend::*;

#[test]
fn frontends_are_served_one_after_another_on_one_socket() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    let daemon = Daemon::start(&file, &[]);
    for round in 0..20u8 {
        let mut driver = Driver::connect(daemon.connect(), 1);
        if round > 0 {
            assert_eq!(driver.read(0, 5, 512), [round - 1; 512]);
        }
        assert_eq!(driver.write(0, 5, &[round; 512]), OK);
    }
    // One that says nothing, and one that stops in the middle of a message.
    drop(daemon.connect());
    {
        use std::io::Write;
        daemon.connect().write_all(&[1, 0, 0]).unwrap();
    }
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.read(0, 5, 512), [19; 512]);
}

/// The guest's rings survive in its memory; the frontend hands them to the next daemon at their used
/// index.
#[test]
fn a_guest_goes_on_where_a_killed_daemon_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let mut memory = None;
    for round in 0..30u64 {
        let daemon = Daemon::start(&file, &["--num-queues", "2"]);
        let stream = daemon.connect();
        let mut driver = match memory.take() {
            None => Driver::connect(stream, 2),
            Some(memory) => Driver::resume(stream, 2, u64::MAX, memory),
        };
        for queue in 0..2 {
            // What was in flight when the last daemon died is repeated by this one.
            while driver.used_index(queue) != driver.next_avail(queue) {
                std::thread::yield_now();
            }
            driver.forget_completions(queue);
        }
        if round > 0 {
            for queue in 0..2u64 {
                for index in 0..8 {
                    let sector = (queue * 8 + index) * 8;
                    let data = driver.read(queue as usize, sector, 4096);
                    assert!(data == [(round - 1) as u8; 4096], "round {round}");
                }
            }
        }
        // Offer sixteen writes and kill the daemon at some moment while it carries them out.
        for queue in 0..2usize {
            for index in 0..8u16 {
                let place = BUFFERS + (queue as u64 * 8 + u64::from(index)) * 0x4000;
                let sector = (queue as u64 * 8 + u64::from(index)) * 8;
                driver.put(place, &request_header(T_OUT, sector));
                driver.put(place + 0x1000, &[round as u8; 4096]);
                driver.put(place + 0x3000, &[0xee]);
                let chain = vec![
                    readable(place, 16),
                    readable(place + 0x1000, 4096),
                    writable(place + 0x3000, 1),
                ];
                driver.put_chain(queue, index * 3, &linked(index * 3, chain));
                driver.offer(queue, index * 3);
            }
            driver.kick(queue);
        }
        for _ in 0..round * 20 {
            std::hint::spin_loop();
        }
        daemon.kill();
        memory = Some(driver.memory.clone());
    }
}

#[test]
fn sigterm_ends_the_daemon_at_once_and_takes_the_socket_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    // Before a frontend has come, with one, and after one has gone.
    for state in 0..3 {
        let daemon = Daemon::start(&file, &[]);
        let socket = daemon.socket.clone();
        let driver = (state > 0).then(|| Driver::connect(daemon.connect(), 1));
        let kept = if state == 1 { driver } else { None };
        let (status, log) = daemon.terminate();
        assert!(status.success(), "{log}");
        assert!(!socket.exists());
        drop(kept);
    }
}

/// It says what it will serve before it can be woken at its socket.
#[test]
fn sigterm_ends_a_daemon_that_has_only_just_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    for _ in 0..60 {
        let (status, log) = Daemon::start(&file, &["--read-only"]).terminate();
        assert!(status.success(), "{log}");
    }
}

#[test]
fn requests_in_flight_are_completed_before_the_daemon_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&file, &["--durability", "strict"]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    for index in 0..32u16 {
        let place = BUFFERS + u64::from(index) * 0x4000;
        driver.put(place, &request_header(T_OUT, u64::from(index) * 8));
        driver.put(place + 0x1000, &[7; 4096]);
        driver.put(place + 0x3000, &[0xee]);
        let chain =
            vec![readable(place, 16), readable(place + 0x1000, 4096), writable(place + 0x3000, 1)];
        driver.put_chain(0, index * 3, &linked(index * 3, chain));
        driver.offer(0, index * 3);
    }
    driver.kick(0);
    let (status, _) = daemon.terminate();
    assert!(status.success());
    // What the ring says is used was carried out; what it does not say has no status.
    let used = driver.used_index(0);
    let daemon = Daemon::start(&file, &[]);
    let memory = driver.memory.clone();
    for index in 0..32u16 {
        let place = BUFFERS + u64::from(index) * 0x4000 + 0x3000;
        let status = driver.get(place, 1)[0];
        assert_eq!(status, if index < used { OK } else { 0xee }, "request {index} of {used}");
    }
    let mut driver = Driver::resume(daemon.connect(), 1, u64::MAX, memory);
    while driver.used_index(0) != 32 {
        std::thread::yield_now();
    }
    driver.forget_completions(0);
    for index in 0..32 {
        assert!(driver.read(0, index * 8, 4096) == [7; 4096]);
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_taken_over_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    let daemon = Daemon::start(&file, &[]);
    let socket = daemon.socket.clone();
    daemon.kill();
    assert!(socket.exists());
    let daemon = Daemon::start(&file, &[]);
    Driver::connect(daemon.connect(), 1);

    let other = make_namespace(&make_folder(folder.path()), "32M", 512);
    let refuse = |path: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"))
            .arg("--socket-path")
            .arg(path)
            .arg("--blk-file")
            .arg(&other)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refuse(&socket).contains("another process is listening"));
    let ordinary = folder.path().join("ordinary");
    std::fs::write(&ordinary, "precious").unwrap();
    assert!(refuse(&ordinary).contains("not a socket"));
    assert_eq!(std::fs::read(&ordinary).unwrap(), b"precious");
}

fn make_folder(parent: &Path) -> std::path::PathBuf {
    let folder = parent.join("other");
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// A daemon that is handed the descriptor `socket` as number 17.
fn with_descriptor(file: &Path, socket: &impl AsRawFd, path: &Path) -> Daemon {
    let number = socket.as_raw_fd();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.args(["--fd", "17", "--blk-file"]).arg(file);
    // SAFETY: dup2 is async-signal-safe; the child leaves nothing else open.
    unsafe {
        command.pre_exec(move || {
            nix::errno::Errno::result(nix::libc::dup2(number, 17)).map(drop).map_err(Into::into)
        });
    }
    let mut daemon = Daemon::spawn(command, path.into());
    daemon.wait_for_log("serving");
    daemon
}

#[test]
fn a_listening_descriptor_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    let path = folder.path().join("listening");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = with_descriptor(&file, &listener, &path);
    for round in 1..4 {
        let mut driver = Driver::connect(daemon.connect(), 1);
        assert_eq!(driver.write(0, 0, &[round; 512]), OK);
    }
    let (status, _) = daemon.terminate();
    assert!(status.success());
    assert!(path.exists(), "the name is not ours to take away");
}

#[test]
fn a_connected_descriptor_is_served_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut daemon = with_descriptor(&file, &theirs, folder.path());
    drop(theirs);
    let mut driver = Driver::connect(ours, 1);
    assert_eq!(driver.write(0, 0, &[9; 512]), OK);
    assert_eq!(driver.read(0, 0, 512), [9; 512]);
    drop(driver);
    assert!(daemon.wait().success(), "{}", daemon.log());
}

#[test]
fn descriptors_that_are_no_sockets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    for descriptor in ["0", "999"] {
        let output = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"))
            .args(["--fd", descriptor, "--blk-file"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{descriptor}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("not a Unix stream socket"), "{log}");
    }
}

#[test]
fn a_held_namespace_is_busy_and_the_holder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    let daemon = Daemon::start(&file, &[]);
    let holder = format!("vhost-user-btt (pid {})", daemon.pid());
    for command in ["export", "import", "create-namespace"] {
        let output = nvdimmctl(&[command, file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("busy") && message.contains(&holder), "{message}");
    }
    let second = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"))
        .arg("--socket-path")
        .arg(folder.path().join("second"))
        .arg("--blk-file")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains(&holder));
    assert!(!folder.path().join("second").exists());
}
