//! The filters of system calls are minimal: what a kind of thread may call, it calls.
//!
//! Daemons are traced while they do all that daemons do, by strace, which `scripts/test` installs. A call that
//! this cannot cause is listed with what does ([`ELSEWHERE`]).

mod common;
#[path = "windows/setup.rs"]
#[allow(dead_code, reason = "shared with the tests of windows")]
mod setup;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, PATIENCE, nvdimmctl_ok};
use common::frontend::{Driver, IOERR, OK, T_FLUSH};
use common::shmem::Manner;
use setup::{Guest, M, Place, control_option, resize, text};
use vhost_user_btt::sandbox::{ThreadKind, allowed};

/// Calls that the runs below do not cause, or not always, and what causes them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("brk", "the allocator, when the heap of the main thread grows"),
    ("clone", "the start of a thread where clone3 is denied: packaging"),
    ("clock_gettime", "the vDSO, where the clock of the machine cannot be read without the kernel"),
    ("clock_nanosleep", "a wait before something is tried again: hostile_frontend, descriptors"),
    ("exit", "the end of a thread that otherwise ends with the process"),
    ("futex", "a lock that two threads want at the same time: the log's, the allocator's"),
    ("fcntl", "std, which checks descriptors that it closes in debug builds; claims"),
    ("fadvise64", "a strict disk that grows, or is claimed by running: growth, claims"),
    ("fstatfs", "a disk that grows while a frontend is connected: control, growth"),
    ("fsync", "the same"),
    ("ftruncate", "the same"),
    ("sendmsg", "the message to the frontend that the disk has grown: control, growth"),
    ("getpid", "pthread_kill of some C libraries"),
    ("getrandom", "the first hash map of a thread"),
    ("lseek", "bytes that cannot be read: unreadable"),
    ("madvise", "the end of a thread, whose stack is given back or kept"),
    ("mincore", "bytes that cannot be read: unreadable"),
    ("mremap", "the allocator, when a large block grows"),
    ("munmap", "the allocator, when a thread gets an arena of its own"),
    ("pread64", "bytes that cannot be read: unreadable"),
    ("restart_syscall", "a wait that a stopped process resumes"),
    ("rt_sigprocmask", "the end of a thread in some C libraries"),
    ("rt_sigreturn", "a signal: SIGBUS in unreadable and hostile_frontend, SIGTERM in any thread"),
    ("sched_yield", "a worker that polls"),
    ("sendto", "the handler of SIGTERM, in whichever thread the kernel has chosen"),
    ("exit_group", "a stop that takes too long, or a second signal"),
    ("tgkill", "a thread that a frontend's descriptor blocks: hostile_frontend, descriptors"),
    ("unlink", "the socket's name, by the thread that ends last"),
    ("readlink", "/proc/self/fd, for a file that is opened once more: windows, resize"),
    ("fallocate", "pages of a device that are given back: windows, resize; growth"),
    (
        "openat",
        "the control socket's requests, for a file that is opened once more: windows, resize",
    ),
    ("statx", "the same"),
    ("read", "the same"),
    ("write", "a line of the log"),
    ("close", "a descriptor whose last owner the thread happens to be"),
    ("shutdown", "the end of a connection that a thread happens to see first"),
];

/// What a thread that goes by `name` is there for.
fn kind_of(name: &str) -> Option<ThreadKind> {
    Some(match name {
        "vhost-user-btt" => ThreadKind::Main,
        "device" => ThreadKind::Device,
        name if name.starts_with("queue ") => ThreadKind::Queue,
        "flusher" => ThreadKind::Flusher,
        "pages" => ThreadKind::Pages,
        "windows" => ThreadKind::Windows,
        "control" | "control-client" => ThreadKind::Control,
        "signals" | "stop-limit" => ThreadKind::Signals,
        "watchdog" => ThreadKind::Watchdog,
        _ => return None,
    })
}

/// System calls by the kind of the thread that made them, after the first filter was installed.
type Calls = BTreeMap<ThreadKind, BTreeSet<String>>;

/// Adds the calls in a trace. Returns `false` if it is not complete yet.
fn collect(trace: &str, calls: &mut Calls) -> bool {
    let mut is_filtered = false;
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once("> ") else { continue };
        let Some((_, name)) = thread.split_once('<') else { continue };
        let rest = rest.trim_start_matches("<... ");
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let call = &rest[..end];
        if let (true, Some(kind), false) = (is_filtered, kind_of(name), call.is_empty()) {
            calls.entry(kind).or_default().insert(call.to_owned());
        }
        is_filtered |= call == "seccomp";
    }
    trace.lines().last().is_some_and(|line| line.contains("+++ exited"))
}

/// Starts strace, which is to write to `trace`.
fn strace(trace: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-q", "--decode-pids=comm", "-o"]).arg(trace);
    command
}

/// A daemon under strace, which writes to `trace`.
fn traced(trace: &Path, socket: &Path, arguments: &[String], notify: Option<&Path>) -> Daemon {
    let mut command = strace(trace);
    command.arg(env!("CARGO_BIN_EXE_vhost-user-btt")).args(arguments);
    if let Some(notify) = notify {
        command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", "100000");
    }
    let mut daemon = Daemon::spawn(command, socket.into());
    daemon.wait_for_log("in the sandbox");
    daemon
}

/// Ends a traced daemon, and adds its calls.
fn end(daemon: Daemon, trace: &Path, calls: &mut Calls) {
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    let deadline = Instant::now() + PATIENCE;
    while !collect(&std::fs::read_to_string(trace).unwrap(), calls) {
        assert!(Instant::now() < deadline, "the trace has no end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two devices, windows, an administrator, and a service manager.
fn run_several(calls: &mut Calls) {
    let place = Place::new();
    let (disk, pmem) = (place.socket("disk"), place.socket("pmem"));
    let (trace, notices) = (place.socket("trace"), place.socket("notices"));
    let manager = UnixDatagram::bind(&notices).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let arguments = [
        format!("--nvdimm={}", place.file.display()),
        format!("--disk=socket={},namespace=disk", disk.display()),
        "--window=data,reserve=32M,expose-file".to_owned(),
        format!("--pmem=socket={},device=log,expose-file", pmem.display()),
        control_option(&place),
    ];
    let daemon = traced(&trace, &disk, &arguments, Some(&notices));
    let mut bytes = [0; 4096];
    while !bytes.starts_with(b"WATCHDOG=1") {
        manager.recv(&mut bytes).unwrap();
    }
    // The manager reads on: the daemon waits where its socket is full.
    let _reader = std::thread::spawn(move || while manager.recv(&mut bytes).is_ok() {});
    for _ in 0..3 {
        let mut guest = Guest::connect(&daemon, Manner::Obliging);
        guest.driver.start_queue(0);
        guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
        assert_eq!(guest.driver.write(0, 0, &[1; 4096]), OK);
        assert_eq!(guest.driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        resize(&place, "data", 12 * M, false).unwrap();
        resize(&place, "data", 8 * M, true).unwrap();
    }
    drop(Guest::connect_to(&pmem, Manner::Obliging));
    end(daemon, &trace, calls);
}

/// One device, whose writes are durable at once, and which grows.
fn run_growing(calls: &mut Calls) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&file), "--size", "128M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&file), "--name", "first", "--size", "32M"]);
    let (socket, trace) = (folder.path().join("disk"), folder.path().join("trace"));
    let arguments = [
        format!("--nvdimm={}", file.display()),
        format!("--socket-path={}", socket.display()),
        "--durability=strict".to_owned(),
    ];
    let mut daemon = traced(&trace, &socket, &arguments, None);
    let mut driver = Driver::connect(daemon.connect(), 2);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    drop(driver);
    nvdimmctl_ok(&["grow-namespace", text(&file), "--namespace", "first", "--size", "64M"]);
    let mut driver = Driver::connect(daemon.connect(), 2);
    daemon.wait_for_log("the disk has grown from");
    assert_eq!(driver.write(1, 8, &[2; 4096]), OK);
    drop(driver);
    end(daemon, &trace, calls);
}

/// Disks that are added: by path, to a socket that a process has left, and by descriptors.
fn run_adding(calls: &mut Calls) {
    let folder = tempfile::tempdir().unwrap();
    let (trace, control) = (folder.path().join("trace"), folder.path().join("control"));
    let part = |name: &str| {
        let part = folder.path().join(name);
        std::fs::create_dir(&part).unwrap();
        let file = part.join("nvdimm");
        nvdimmctl_ok(&["create", text(&file), "--size", "64M"]);
        nvdimmctl_ok(&["create-namespace", text(&file)]);
        (file, part.join("socket"))
    };
    let [allowed, handed] = ["allowed", "handed"].map(part);
    let group = rustix::process::getegid().as_raw();
    let arguments = [
        format!("--control={}", control.display()),
        format!("--allow-path={}", allowed.0.parent().unwrap().display()),
        "--socket-mode=600".to_owned(),
        format!("--socket-group={group}"),
    ];
    let mut daemon = traced(&trace, &control, &arguments, None);
    daemon.wait_for_log("in the sandbox");
    drop(std::os::unix::net::UnixListener::bind(&allowed.1).unwrap());
    for ((file, socket), by_path) in [(&allowed, &["--by-path"][..]), (&handed, &[])] {
        let add = ["--control", text(&control), "add", text(file), "--socket-path", text(socket)];
        nvdimmctl_ok(&[&add[..], by_path].concat());
        let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let mut driver = Driver::connect(stream, 1);
        assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
        drop(driver);
        nvdimmctl_ok(&["--control", text(&control), "remove", text(socket)]);
    }
    end(daemon, &trace, calls);
}

#[test]
fn a_tracer_may_have_calls_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let [file, socket, trace] = ["nvdimm", "disk", "trace"].map(|name| folder.path().join(name));
    nvdimmctl_ok(&["create", text(&file), "--size", "64M"]);
    nvdimmctl_ok(&["create-namespace", text(&file)]);
    let mut command = strace(&trace);
    // Of each thread: opening makes none.
    command.args(["--trace=fdatasync", "--inject=fdatasync:error=EIO:when=2"]);
    command.arg(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg(format!("--nvdimm={}", file.display()));
    command.arg(format!("--socket-path={}", socket.display()));
    let mut daemon = Daemon::spawn(command, socket);
    daemon.wait_for_log("in the sandbox");
    let mut driver = Driver::connect(daemon.connect(), 1);
    let mut flush = || {
        assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
        driver.request(0, T_FLUSH, 0, &[], 0).0
    };
    assert_eq!([flush(), flush()], [OK, IOERR]);
    drop(driver);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{status}: {log}");
}

#[test]
fn threads_may_call_what_they_call_and_nothing_else() {
    let mut calls = Calls::new();
    run_several(&mut calls);
    run_growing(&mut calls);
    run_adding(&mut calls);
    let mut surplus = Vec::new();
    for kind in ThreadKind::ALL {
        let names = allowed(kind);
        // A thread may do what those that it starts may do.
        let is_within =
            |other: &ThreadKind| allowed(*other).iter().all(|name| names.contains(name));
        let made: BTreeSet<&String> =
            calls.iter().filter(|(other, _)| is_within(other)).flat_map(|(_, made)| made).collect();
        let is_made = |name: &&str| made.iter().any(|made| made.as_str() == *name);
        let is_elsewhere = |name: &&str| ELSEWHERE.iter().any(|(call, _)| call == name);
        let unused = names.iter().filter(|name| !is_made(name) && !is_elsewhere(name));
        surplus.extend(unused.map(|name| format!("{kind:?}: {name}")));
    }
    assert!(surplus.is_empty(), "allowed, and not called: {surplus:?}");
    let known: Vec<_> = allowed(ThreadKind::Process);
    let strange = ELSEWHERE.iter().filter(|(name, _)| !known.contains(name)).collect::<Vec<_>>();
    assert!(strange.is_empty(), "listed, and not allowed: {strange:?}");
}
