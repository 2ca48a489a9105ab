//! The daemons that are measured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;
use serde::Serialize;

use crate::cell::{Group, LONGEST, MOST_DEPTH};
use crate::driver::Disk;
use crate::patience::PATIENCE;

/// Descriptors of a queue: the driver takes three for a request.
const QUEUE_SIZE: u16 = (MOST_DEPTH * 4) as u16;
/// Where the daemon runs, and where the client, if there is one queue. With two, the client and two
/// workers share the CPUs as the scheduler likes.
const DAEMON_CPU: usize = 0;
const CLIENT_CPU: usize = 1;

/// Which daemon, and in which durability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// qemu-storage-daemon on a raw file, with the settings that are its best here.
    QemuStorageDaemon,
    /// This daemon, as it serves a file in the page cache.
    PageCache,
    /// This daemon with every flush and fence that persistent memory needs.
    Dax,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::QemuStorageDaemon, Kind::PageCache, Kind::Dax];

    pub fn name(self) -> &'static str {
        match self {
            Kind::QemuStorageDaemon => "QSD raw",
            Kind::PageCache => "page-cache",
            Kind::Dax => "dax",
        }
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
    daemon: Daemon,
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
    pub fn start(kind: Kind, group: Group, size: u64, poll_us: Option<u32>, folder: &Path) -> Peer {
        let pins = group.queues == 1;
        if pins {
            pin(Some(DAEMON_CPU));
        }
        let (file, socket) =
            (folder.join(kind.name()), folder.join(format!("{}.sock", kind.name())));
        let mut command = match kind {
            Kind::QemuStorageDaemon => storage_daemon(group, size, &file, &socket),
            Kind::PageCache => ours(group, "page-cache", size, &file, &socket),
            Kind::Dax => ours(group, "dax", size, &file, &socket),
        };
        if let (Kind::PageCache | Kind::Dax, Some(poll_us)) = (kind, poll_us) {
            command.arg(format!("--poll-us={poll_us}"));
        }
        let daemon = start(command, folder, kind);
        // The child has taken this thread's CPU over; now the thread takes its own.
        pin(pins.then_some(CLIENT_CPU));
        wait_for(&socket, folder, kind);
        let buffers = group.queues * MOST_DEPTH * LONGEST;
        let disk = Disk::connect(&socket, group.queues, QUEUE_SIZE, buffers);
        let mut peer = Peer { disk, size: 0, daemon };
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

    /// CPU time that all threads of the daemon have used, of both user and kernel.
    pub fn cpu_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.daemon.0.id()));
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
    let (file, socket) = (file.display(), socket.display());
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--object", "iothread,id=thread,poll-max-ns=32768"]);
    command.arg("--blockdev").arg(format!("driver=file,node-name=file,filename={file},{settings}"));
    command.arg("--blockdev").arg("driver=raw,node-name=disk,file=file");
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket},writable=on,\
         num-queues={},iothread=thread,logical-block-size={}",
        group.queues, group.sector_size
    ));
    command
}

/// This daemon, in a durability.
fn ours(group: Group, durability: &str, size: u64, file: &Path, socket: &Path) -> Command {
    let tool = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nvdimmctl")).args(arguments).output();
        let output = output.expect("nvdimmctl was built");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let path = file.to_str().expect("a name of ASCII characters");
    tool(&["create", path, "--size", &size.to_string()]);
    tool(&["create-namespace", path, "--sector-size", &group.sector_size.to_string()]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--socket-path").arg(socket).arg("--blk-file").arg(file);
    command.arg(format!("--durability={durability}")).arg(format!("--num-queues={}", group.queues));
    command
}

fn start(mut command: Command, folder: &Path, kind: Kind) -> Daemon {
    let log = std::fs::File::create(log_of(folder, kind)).expect("room for a log");
    command.stdin(Stdio::null()).stderr(log);
    Daemon(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn log_of(folder: &Path, kind: Kind) -> PathBuf {
    folder.join(format!("{}.log", kind.name()))
}

fn wait_for(socket: &Path, folder: &Path, kind: Kind) {
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
