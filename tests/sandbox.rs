//! What is left to a daemon that a guest has taken over.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use common::daemon::{Daemon, make_namespace, nvdimmctl_ok};
use common::frontend::{BUFFERS, Driver, OK, T_FLUSH, linked, readable, request_header, writable};
use common::shim;
use nix::sys::signal::Signal;

static INTRUDER: LazyLock<PathBuf> = LazyLock::new(|| shim::build("intruder"));

/// A daemon in which `deed` is done at each flush.
struct Intruded {
    daemon: Daemon,
    driver: Driver,
    report: PathBuf,
    _folder: tempfile::TempDir,
}

impl Intruded {
    fn start(deed: &str, options: &[&str]) -> Intruded {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        let (socket, report) = (folder.path().join("disk"), folder.path().join("report"));
        std::fs::write(&report, [0]).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.env("LD_PRELOAD", &*INTRUDER).env("INTRUDER", deed);
        // A preloaded library alone leaves the sandbox open.
        let sandbox = ["--sandbox=on"].into_iter().filter(|_| !is_chosen(options));
        command.env("INTRUDER_REPORT", &report).args(options).args(sandbox);
        command.arg("--nvdimm").arg(&file).arg("--socket-path").arg(&socket);
        let mut daemon = Daemon::spawn(command, socket);
        daemon.wait_for_log("serving");
        let mut driver = Driver::connect(daemon.connect(), 1);
        assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
        Intruded { daemon, driver, report, _folder: folder }
    }

    /// What came of the deed: 1 done, 2 refused.
    fn report_after_flush(&mut self) -> u8 {
        assert_eq!(self.driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        std::fs::read(&self.report).unwrap()[0]
    }
}

fn is_chosen(options: &[&str]) -> bool {
    options.iter().any(|option| option.starts_with("--sandbox"))
}

/// Offers a flush, and does not wait for it.
fn begin_flush(driver: &mut Driver) {
    driver.put(BUFFERS, &request_header(T_FLUSH, 0));
    let chain = linked(0, vec![readable(BUFFERS, 16), writable(BUFFERS + 0x800, 1)]);
    driver.put_chain(0, 0, &chain);
    driver.offer(0, 0);
    driver.kick(0);
}

#[test]
fn a_system_call_that_serving_does_not_need_kills_the_daemon() {
    let mut intruded = Intruded::start("call", &[]);
    assert_eq!(std::fs::read(&intruded.report).unwrap(), [0]);
    begin_flush(&mut intruded.driver);
    assert_eq!(intruded.daemon.wait().signal(), Some(Signal::SIGSYS as i32));
    assert_eq!(std::fs::read(&intruded.report).unwrap(), [0]);
}

#[test]
fn a_system_call_is_only_logged_or_not_looked_at_where_that_was_asked_for() {
    for options in ["--seccomp=log", "--seccomp=none", "--sandbox=none"] {
        assert_eq!(Intruded::start("call", &[options]).report_after_flush(), 1, "{options}");
    }
}

/// What an administrator preloads, such as another allocator, is not killed for what it does.
#[test]
fn a_preloaded_library_does_as_it_likes_unless_the_sandbox_is_asked_for() {
    for deed in ["call", "open"] {
        let mut intruded = Intruded::start(deed, &["--sandbox=auto"]);
        intruded.daemon.wait_for_log("a preloaded library (LD_PRELOAD) may need");
        assert_eq!(intruded.report_after_flush(), 1, "{deed}");
    }
}

#[test]
fn a_file_that_was_not_named_cannot_be_opened() {
    // The queue's filter knows no call that opens files; the second line of defence is seen without it.
    let mut refused = Intruded::start("open", &["--seccomp=none"]);
    refused.daemon.wait_for_log("in the sandbox: files restricted");
    assert_eq!(refused.report_after_flush(), 2);
    let mut allowed = Intruded::start("open", &["--seccomp=none", "--allow-path=/etc"]);
    assert_eq!(allowed.report_after_flush(), 1);
    assert_eq!(Intruded::start("open", &["--sandbox=none"]).report_after_flush(), 1);
    let mut killed = Intruded::start("open", &[]);
    begin_flush(&mut killed.driver);
    assert_eq!(killed.daemon.wait().signal(), Some(Signal::SIGSYS as i32));
}

/// The fields of all threads in /proc.
fn status_of_threads(daemon: &Daemon, field: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let statuses =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")));
    let value = |status: String| {
        let line =
            status.lines().find(|line| line.starts_with(field)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    statuses.map(|status| value(status.unwrap())).collect()
}

#[test]
fn no_thread_has_capabilities_or_can_gain_any_and_each_has_its_own_filter() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let control = format!("--control={}", folder.path().join("control").display());
    let mut daemon = Daemon::start(&file, &["--num-queues=2", &control]);
    daemon.wait_for_log("in the sandbox");
    let mut driver = Driver::connect(daemon.connect(), 2);
    assert_eq!(driver.write(1, 0, &[1; 4096]), OK);
    assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
    // Main, signals, control, two queues, and the flusher.
    let filters = status_of_threads(&daemon, "Seccomp_filters");
    assert!(filters.len() >= 5, "{filters:?}");
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let values = status_of_threads(&daemon, field);
        assert!(values.iter().all(|value| value == "0000000000000000"), "{field}: {values:?}");
    }
    assert!(status_of_threads(&daemon, "NoNewPrivs").iter().all(|value| value == "1"));
    assert!(status_of_threads(&daemon, "Seccomp:").iter().all(|value| value == "2"));
    // That of the process, and that of its kind, at least.
    let has_own = |count: &String| count.parse::<u32>().unwrap() >= 2;
    assert!(filters.iter().all(has_own), "{filters:?}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
}

/// `program` with `arguments` as nobody, without capabilities, where the tests run as root.
fn as_nobody(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    command.args(["--inh-caps=-all", "--no-new-privs", program]);
    command
}

#[test]
fn the_daemon_needs_no_privileges() {
    if !rustix::process::geteuid().is_root() {
        // The other tests show it.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvdimm");
    let name = file.to_str().unwrap();
    nvdimmctl_ok(&["create", name, "--size", "128M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", name, "--size", "32M", "--name", "first"]);
    for path in [folder.path(), file.as_path()] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let program = folder.path().join("vhost-user-btt");
    std::fs::copy(env!("CARGO_BIN_EXE_vhost-user-btt"), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let socket = folder.path().join("disk");
    let mut command = as_nobody(program.to_str().unwrap());
    command.arg("--nvdimm").arg(&file).arg("--socket-path").arg(&socket);
    let mut daemon = Daemon::spawn(command, socket.clone());
    daemon.wait_for_log("in the sandbox: files restricted, system calls filtered");
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.write(0, 0, &[7; 4096]), OK);
    drop(driver);
    nvdimmctl_ok(&["grow-namespace", name, "--namespace", "first", "--size", "64M"]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    daemon.wait_for_log("the disk has grown from");
    assert_eq!(driver.read(0, 0, 4096), [7; 4096]);
    drop(driver);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    assert!(!socket.exists(), "the name of the socket stays: {log}");
}
