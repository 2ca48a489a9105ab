//! The two programs, run as a user runs them.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use super::patience::PATIENCE;
use super::syncs::Syncs;

/// Runs nvdimmctl.
pub fn nvdimmctl<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nvdimmctl")).args(arguments).output().unwrap()
}

/// Runs nvdimmctl, which succeeds, and returns its output.
pub fn nvdimmctl_ok<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Vec<u8> {
    let output = nvdimmctl(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A file with a namespace of atomic sectors.
pub fn make_namespace(folder: &Path, size: &str, sector_size: u32) -> PathBuf {
    let path = folder.join("nvdimm");
    let file = path.to_str().unwrap();
    nvdimmctl_ok(&["create", file, "--size", size]);
    nvdimmctl_ok(&["create-namespace", file, "--sector-size", &sector_size.to_string()]);
    path
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub socket: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts the daemon on `file` and waits until it listens.
    pub fn start(file: &Path, arguments: &[&str]) -> Daemon {
        let mut daemon = Daemon::begin(file, arguments);
        daemon.wait_for_log("serving");
        daemon
    }

    /// As `start`, with its syncs under control.
    pub fn start_with_syncs(file: &Path, arguments: &[&str], syncs: &Syncs) -> Daemon {
        let (mut command, socket) = command(file, arguments);
        syncs.preload(&mut command);
        let mut daemon = Daemon::spawn(command, socket);
        daemon.wait_for_log("serving");
        daemon
    }

    /// Starts the daemon on `file`, and does not wait.
    pub fn begin(file: &Path, arguments: &[&str]) -> Daemon {
        let (command, socket) = command(file, arguments);
        Daemon::spawn(command, socket)
    }

    /// Starts `powercut serve` on `file`, whose power fails, and does not wait.
    pub fn begin_failing(file: &Path, arguments: &[&str]) -> Daemon {
        let socket = file.with_extension("sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_powercut"));
        command.arg("serve").arg("--socket-path").arg(&socket);
        command.arg("--nvdimm").arg(file).args(arguments);
        Daemon::spawn(command, socket)
    }

    /// Starts `command`, a daemon in some form.
    pub fn spawn(mut command: Command, socket: PathBuf) -> Daemon {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (log.clone(), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Daemon { child, socket, log, reader: Some(reader) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes that a daemon with `--keeper` has had serve so far.
    pub fn serving_pids(&self) -> Vec<i32> {
        let log = self.log();
        let pids = log.split("the serving process is ").skip(1);
        pids.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
    }

    /// The process that serves for a daemon with `--keeper`, once there were `number` of them.
    pub fn serving_pid(&self, number: usize) -> nix::unistd::Pid {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(pid) = self.serving_pids().get(number - 1) {
                return nix::unistd::Pid::from_raw(*pid);
            }
            assert!(Instant::now() < deadline, "no process {number}: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the log has a line that contains `text` for the `count`th time.
    pub fn wait_for_count(&self, text: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.log().matches(text).count() < count {
            assert!(Instant::now() < deadline, "not {count} times {text:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the log has a line that contains `text` after the last one that contains `mark`.
    pub fn wait_for_log_after(&self, mark: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().rsplit(mark).next().is_some_and(|rest| rest.contains(text)) {
            assert!(Instant::now() < deadline, "no {text:?} after {mark:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until the daemon has logged a line that contains `text`.
    pub fn wait_for_log(&mut self, text: &str) {
        assert!(self.logs_or_ends(text), "the daemon is gone: {}", self.log());
    }

    /// As `wait_for_log`, unless the daemon ends first: whether it lives.
    pub fn logs_or_ends(&mut self, text: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "no {text:?} in the log: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// A descriptor that is readable once the daemon is gone.
    pub fn pidfd(&self) -> OwnedFd {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
    }

    /// Returns whether the daemon has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    /// Kills the daemon as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM; returns how the daemon ended, and its log.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = self.wait();
        (status, self.log())
    }

    /// Waits until the daemon ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.reader.take().unwrap().join().unwrap();
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The command of a daemon on `file`, and its socket.
fn command(file: &Path, arguments: &[&str]) -> (Command, PathBuf) {
    let socket = file.with_extension("sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--socket-path").arg(&socket).arg("--blk-file").arg(file).args(arguments);
    (command, socket)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of {}:\n{}", self.socket.display(), self.log());
        }
    }
}
