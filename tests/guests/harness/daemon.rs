//! The back end under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::process::Process;
use crate::syncs::Syncs;

/// Recovery of the disks used here is a matter of milliseconds; this is for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);
/// For a guest, emulated on a busy machine, to make a back end fence some thousand times.
const FAILURE_LIMIT: Duration = Duration::from_secs(180);

/// A `vhost-user-btt` that serves one file; its sockets lie beside the file.
pub struct Daemon {
    process: Process,
    command: Command,
    sockets: Vec<PathBuf>,
    queues: u32,
}

impl Daemon {
    /// Starts serving `file` with `queues` virtqueues; returns when the socket accepts connections.
    #[track_caller]
    pub fn start(file: &Path, queues: u32) -> Self {
        Self::start_with(file, queues, &[])
    }

    /// Like [`Daemon::start`], with further options.
    #[track_caller]
    pub fn start_with(file: &Path, queues: u32, options: &[&str]) -> Self {
        let socket = file.with_extension("sock");
        let mut command = disk_command(file, &socket, queues);
        command.args(options);
        Self::listening(command, vec![socket], queues)
    }

    /// Like [`Daemon::start_with`], at a socket whose name ends with `extension`.
    #[track_caller]
    pub fn start_at(file: &Path, extension: &str, queues: u32, options: &[&str]) -> Self {
        let socket = file.with_extension(extension);
        let mut command = disk_command(file, &socket, queues);
        command.args(options);
        Self::listening(command, vec![socket], queues)
    }

    /// Like [`Daemon::start`], with its syncs under control.
    #[track_caller]
    pub fn start_with_syncs(file: &Path, queues: u32, syncs: &Syncs) -> Self {
        let socket = file.with_extension("sock");
        let mut command = disk_command(file, &socket, queues);
        syncs.preload(&mut command);
        Self::listening(command, vec![socket], queues)
    }

    /// Like [`Daemon::start_with`], with a power that fails.
    #[track_caller]
    pub fn start_failing(file: &Path, queues: u32, options: &[&str]) -> Self {
        let socket = file.with_extension("sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_powercut"));
        command
            .arg("serve")
            .arg(format!("--socket-path={}", socket.display()))
            .arg(format!("--nvdimm={}", file.display()))
            .arg(format!("--num-queues={queues}"))
            .args(options);
        Self::listening(command, vec![socket], queues)
    }

    /// Serves the namespaces `names` of `file`, each as a disk of its own with one virtqueue.
    #[track_caller]
    pub fn start_disks(file: &Path, names: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg(format!("--nvdimm={}", file.display()));
        let sockets: Vec<PathBuf> =
            (0..names.len()).map(|number| file.with_extension(number.to_string())).collect();
        for (name, socket) in names.iter().zip(&sockets) {
            command.arg(format!("--disk=socket={},namespace={name}", socket.display()));
        }
        Self::listening(command, sockets, 1)
    }

    /// Serves devices of `file`, as `arguments` say, at `sockets`.
    #[track_caller]
    pub fn start_devices(file: &Path, arguments: &[String], sockets: Vec<PathBuf>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg(format!("--nvdimm={}", file.display())).args(arguments);
        Self::listening(command, sockets, 1)
    }

    /// Like [`Daemon::start_devices`], with a power that fails.
    #[track_caller]
    pub fn start_failing_devices(file: &Path, options: &[String], sockets: Vec<PathBuf>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_powercut"));
        command.arg("serve").arg(format!("--nvdimm={}", file.display())).args(options);
        Self::listening(command, sockets, 1)
    }

    /// Serves the raw image `image`, whose writes are recorded to `log`, and a disk of marks.
    #[track_caller]
    pub fn start_recording(image: &Path, log: &Path) -> Self {
        let sockets = ["sock", "marks"].map(|extension| image.with_extension(extension));
        let mut command = Command::new(env!("CARGO_BIN_EXE_powercut"));
        command
            .args(["serve", "--sector-size=4096"])
            .arg(format!("--image={}", image.display()))
            .arg(format!("--record={}", log.display()))
            .arg(format!("--socket-path={}", sockets[0].display()))
            .arg(format!("--mark-socket={}", sockets[1].display()));
        Self::listening(command, sockets.to_vec(), 1)
    }

    /// Waits until the back end logs a line that contains `text`, and returns it.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str) -> String {
        self.process.wait_for_line(text, START_LIMIT, |line| line.contains(text))
    }

    #[track_caller]
    fn listening(command: Command, sockets: Vec<PathBuf>, queues: u32) -> Self {
        let process = start_listening(&command, &sockets);
        Self { process, command, sockets, queues }
    }

    /// What [`super::Guest`] connects to.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Virtqueues of each disk.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Kills the back end with SIGKILL and starts it again the same way, under a guest that knows nothing.
    #[track_caller]
    pub fn kill_and_restart(self) -> Self {
        self.process.kill(END_LIMIT);
        let process = start_listening(&self.command, &self.sockets);
        Self { process, ..self }
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.process.kill(END_LIMIT);
    }

    /// Tells the back end to let the power fail.
    #[track_caller]
    pub fn send_power_failure(&self) {
        self.process.send("USR1");
    }

    /// Waits until the back end has let the power fail; returns what it said of that.
    #[track_caller]
    pub fn wait_for_power_failure(mut self) -> String {
        let said = self
            .process
            .wait_for_line("power failure", FAILURE_LIMIT, |line| line.contains("power failure: "));
        self.process.wait_for_end(END_LIMIT);
        said
    }

    /// Ends the back end as an administrator would, which must be quick and without complaint.
    #[track_caller]
    pub fn stop(self) {
        let status = self.process.terminate(END_LIMIT);
        assert!(status.success(), "the back end ended with {status} after SIGTERM");
    }
}

fn disk_command(file: &Path, socket: &Path, queues: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command
        .arg(format!("--socket-path={}", socket.display()))
        .arg(format!("--blk-file={}", file.display()))
        .arg(format!("--num-queues={queues}"));
    command
}

#[track_caller]
fn start_listening(command: &Command, sockets: &[PathBuf]) -> Process {
    let mut process = Process::start("the back end", command);
    let deadline = Instant::now() + START_LIMIT;
    while let Some(socket) = sockets.iter().find(|socket| !listens(socket)) {
        assert!(process.is_running(), "the back end has ended instead of listening");
        assert!(Instant::now() < deadline, "the back end does not listen on {}", socket.display());
        thread::sleep(Duration::from_millis(5));
    }
    process
}

/// Asks the kernel instead of connecting: a connection would be one that the back end has to serve.
fn listens(socket: &Path) -> bool {
    /// `__SO_ACCEPTCON`, as the flags column of /proc/net/unix shows it.
    const ACCEPTS_CONNECTIONS: &str = "00010000";
    let table = std::fs::read_to_string("/proc/net/unix").expect("the table of Unix sockets");
    table.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.nth(3) == Some(ACCEPTS_CONNECTIONS) && columns.last().map(Path::new) == Some(socket)
    })
}
