//! The daemons that are measured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;
use serde::Serialize;

use crate::cell::{Group, LONGEST, MOST_DEPTH, Medium};
use crate::driver::Disk;
use crate::patience::PATIENCE;

/// Descriptors of a queue: the driver takes three for a request.
const QUEUE_SIZE: u16 = (MOST_DEPTH * 4) as u16;
/// Where the daemon runs, and where the client, if there is one queue. With two, the client and two
/// workers share the CPUs as the scheduler likes.
const DAEMON_CPU: usize = 0;
const CLIENT_CPU: usize = 1;

/// Which daemon, and in which durability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// qemu-storage-daemon on a raw file, with the settings that are its best here.
    QemuStorageDaemon,
    /// This daemon, as it serves a file in the page cache.
    PageCache,
    /// This daemon with every flush and fence that persistent memory needs.
    Dax,
    /// qemu-storage-daemon on a raw file, whose every write is durable when it completes.
    WriteThrough,
    /// This daemon, as it serves a file so that every write is durable when it completes.
    Strict,
    /// One that runs already: its name, and its socket.
    Given(String, PathBuf),
}

/// A daemon that was given as NAME=SOCKET.
pub fn given(text: &str) -> Result<Kind, String> {
    let (name, socket) = text.split_once('=').ok_or("NAME=SOCKET is missing")?;
    Ok(Kind::Given(name.to_owned(), socket.into()))
}

impl Kind {
    /// Those that are compared on a medium.
    pub fn all(medium: Medium) -> Vec<Kind> {
        match medium {
            Medium::Memory => vec![Kind::QemuStorageDaemon, Kind::PageCache, Kind::Dax],
            Medium::Disk => vec![Kind::WriteThrough, Kind::Strict],
        }
    }

    /// The one that the others are compared with.
    pub fn reference(medium: Medium) -> Kind {
        match medium {
            Medium::Memory => Kind::QemuStorageDaemon,
            Medium::Disk => Kind::WriteThrough,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Kind::QemuStorageDaemon => "QSD raw",
            Kind::PageCache => "page-cache",
            Kind::Dax => "dax",
            Kind::WriteThrough => "QSD writethrough",
            Kind::Strict => "strict",
            Kind::Given(name, _) => name,
        }
    }

    /// Returns whether it is this daemon.
    fn is_ours(&self) -> bool {
        matches!(self, Kind::PageCache | Kind::Dax | Kind::Strict)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A daemon that runs, and a client that is connected to it.
pub struct Peer {
    pub disk: Disk,
    /// Bytes that the client reads and writes.
    pub size: u64,
    /// `None`: it was running already.
    daemon: Option<Daemon>,
    /// The control socket of this daemon.
    control: Option<PathBuf>,
}

/// A daemon; killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    /// Starts a daemon on a new disk of `size` bytes in `folder`, connects, and fills the disk. This
    /// daemon of ours waits for `poll_us` microseconds at an empty ring, if that is given.
    pub fn start(
        kind: &Kind,
        group: Group,
        size: u64,
        poll_us: Option<u32>,
        folder: &Path,
    ) -> Peer {
        let pins = group.queues == 1;
        if pins {
            pin(Some(DAEMON_CPU));
        }
        let named = |what: &str| folder.join(format!("{}{what}", kind.name()));
        let (file, mut socket) = (named(""), named(".sock"));
        let command = match kind {
            Kind::QemuStorageDaemon | Kind::WriteThrough => {
                Some(storage_daemon(group, size, &file, &socket))
            }
            Kind::PageCache | Kind::Dax | Kind::Strict => {
                Some(ours(group, kind.name(), size, &file, &socket))
            }
            Kind::Given(_, theirs) => {
                socket.clone_from(theirs);
                None
            }
        };
        let control = kind.is_ours().then(|| named(".control"));
        let daemon = command.map(|mut command| {
            if let Some(control) = &control {
                command.arg("--control").arg(control);
                command.args(poll_us.map(|poll_us| format!("--poll-us={poll_us}")));
            }
            start(command, folder, kind)
        });
        // The child has taken this thread's CPU over; now the thread takes its own.
        pin(pins.then_some(CLIENT_CPU));
        wait_for(&socket, folder, kind);
        let buffers = group.queues * MOST_DEPTH * LONGEST;
        let disk = Disk::connect(&socket, group.queues, QUEUE_SIZE, buffers);
        let mut peer = Peer { disk, size: 0, daemon, control };
        // A little less than the file: the BTT's own tables take some of it.
        peer.size = (u64::from(peer.disk.config().capacity) * 512) & !0xf_ffff;
        peer.fill();
        peer
    }

    /// Writes all of the disk, so that no cell pays for new pages.
    fn fill(&mut self) {
        let length = LONGEST;
        self.disk.buffers.fill(0x5a);
        for offset in (0..self.size).step_by(length) {
            self.disk.queues[0]
                .write(offset, &self.disk.buffers[..length], 0)
                .expect("there is room");
            self.disk.finish(0, 1);
        }
    }

    /// Puts the disk in order, if it is one of this daemon's: of the others, sectors stay where they are.
    pub fn defragment(&mut self) {
        let Some(control) = &self.control else { return };
        let control = control.to_str().expect("a name of ASCII characters");
        nvdimmctl(&["--control", control, "defragment", "namespace0.0", "--rate=64G"]);
    }

    /// CPU time that all threads of the daemon have used, of both user and kernel; none of one that was running
    /// already.
    pub fn cpu_time(&self) -> Duration {
        let Some(daemon) = &self.daemon else { return Duration::ZERO };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.0.id()));
        let times = tasks.expect("the daemon lives").filter_map(|task| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }
}

/// qemu-storage-daemon on a raw file.
fn storage_daemon(group: Group, size: u64, file: &Path, socket: &Path) -> Command {
    std::fs::File::create(file).and_then(|file| file.set_len(size)).expect("room for a disk");
    // Direct I/O wants blocks of a page on tmpfs.
    let settings = match group.sector_size {
        4096 => "aio=native,cache.direct=on",
        _ => "aio=io_uring,cache.direct=off",
    };
    let writethrough = if group.medium == Medium::Disk { ",writethrough=on" } else { "" };
    let (file, socket) = (file.display(), socket.display());
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--object", "iothread,id=thread,poll-max-ns=32768"]);
    command.arg("--blockdev").arg(format!("driver=file,node-name=file,filename={file},{settings}"));
    command.arg("--blockdev").arg("driver=raw,node-name=disk,file=file");
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket},writable=on,\
         num-queues={},iothread=thread,logical-block-size={}{writethrough}",
        group.queues, group.sector_size
    ));
    command
}

/// This daemon, in a durability.
fn ours(group: Group, durability: &str, size: u64, file: &Path, socket: &Path) -> Command {
    let path = file.to_str().expect("a name of ASCII characters");
    nvdimmctl(&["create", path, "--size", &size.to_string()]);
    nvdimmctl(&["create-namespace", path, "--sector-size", &group.sector_size.to_string()]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--socket-path").arg(socket).arg("--blk-file").arg(file);
    command.arg(format!("--durability={durability}")).arg(format!("--num-queues={}", group.queues));
    command
}

fn nvdimmctl(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_nvdimmctl")).args(arguments).output();
    let output = output.expect("nvdimmctl was built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn start(mut command: Command, folder: &Path, kind: &Kind) -> Daemon {
    let log = std::fs::File::create(log_of(folder, kind)).expect("room for a log");
    command.stdin(Stdio::null()).stderr(log);
    Daemon(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn log_of(folder: &Path, kind: &Kind) -> PathBuf {
    folder.join(format!("{}.log", kind.name()))
}

fn wait_for(socket: &Path, folder: &Path, kind: &Kind) {
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        let log = || std::fs::read_to_string(log_of(folder, kind)).unwrap_or_default();
        assert!(Instant::now() < deadline, "{kind} does not listen: {}", log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Binds this thread, and what it starts, to a CPU, or to none.
fn pin(cpu: Option<usize>) {
    let mut set = CpuSet::new();
    match cpu {
        Some(cpu) => set.set(cpu),
        None => (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu)),
    }
    rustix::thread::sched_setaffinity(None, &set).expect("a machine with two CPUs");
}
