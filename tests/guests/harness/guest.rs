//! A guest under QEMU, started by `qemu/boot`, which runs one shell script.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::daemon::Daemon;
use super::process::Process;

/// Emulated, booting takes 5 s, and 12 s with many NVDIMMs; no step of a script takes longer. On two CPUs with a load
/// of 12 that becomes more than 90 s, which was the limit once: it is for guests that hang, and not for busy machines.
const STEP_LIMIT: Duration = Duration::from_secs(400);

/// Put before every script.
const PRELUDE: &str = include_str!("../prelude.sh");

/// A booted guest. Scripts talk to the scenario in lines `@@NAME VALUE` on the console (`say NAME VALUE`).
pub struct Guest {
    process: Process,
    /// What its script had said in another QEMU, and no test has read.
    earlier: VecDeque<String>,
}

/// A file as one of QEMU's emulated NVDIMMs.
pub struct Nvdimm<'a> {
    pub file: &'a Path,
    pub labels: Labels,
}

/// Selects whether the end of an NVDIMM file is a label area.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    None,
    /// The last 128 KiB: the size that QEMU and Linux agree on everywhere.
    Last128KiB,
    /// The last 2 MiB: index blocks that are larger than the least.
    Last2MiB,
}

impl Labels {
    /// Bytes of the area.
    pub fn bytes(self) -> u64 {
        match self {
            Labels::None => 0,
            Labels::Last128KiB => 128 << 10,
            Labels::Last2MiB => 2 << 20,
        }
    }
}

/// The machine a script is run on.
pub struct Machine<'a> {
    command: Command,
    scratch: &'a Path,
    cpus: u32,
    /// Of QEMU's own.
    arguments: Vec<String>,
}

/// What the program `guest-load` said: `@@NAME WORDS .`
#[derive(Debug, Clone)]
pub struct Said {
    pub name: String,
    pub words: Vec<String>,
}

impl Said {
    /// `None`: it was somebody else, or was cut short.
    fn read(line: &str) -> Option<Self> {
        let words = line.strip_prefix("@@")?.strip_suffix(" .")?;
        let mut words = words.split(' ').map(str::to_owned);
        Some(Self { name: words.next()?, words: words.collect() })
    }
}

impl Guest {
    /// Describes a machine; `scratch` is where its script is written before it boots.
    pub fn machine(scratch: &Path) -> Machine<'_> {
        let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/boot");
        let (command, arguments) = (Command::new(launcher), Vec::new());
        Machine { command, scratch, cpus: 1, arguments }
    }

    /// As [`Guest::machine`], with the QEMU that knows shared memory regions.
    pub fn windows_machine(scratch: &Path) -> Machine<'_> {
        Guest::machine_of(scratch, "trixie-backports")
    }

    /// As [`Guest::machine`], with the QEMU that `qemu/fetch-qemu` has unpacked from `suite`.
    pub fn machine_of<'a>(scratch: &'a Path, suite: &str) -> Machine<'a> {
        let qemu = format!("target/guest/qemu-system-x86_64.{suite}");
        let qemu = Path::new(env!("CARGO_MANIFEST_DIR")).join(qemu);
        assert!(qemu.exists(), "no {}: see prepare_guests in scripts/test", qemu.display());
        let mut machine = Guest::machine(scratch);
        machine.command.arg("--qemu").arg(qemu);
        machine
    }

    /// As [`Guest::machine`], with the kernel that `qemu/fetch-kernel` has unpacked: it knows blocks that are larger than
    /// a page of memory.
    pub fn newer_kernel(scratch: &Path) -> Machine<'_> {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/kernel.trixie-backports");
        assert!(folder.exists(), "no {}: see run_deep_guests in scripts/test", folder.display());
        let mut machine = Guest::machine(scratch);
        machine.command.arg("--kernel").arg(folder);
        machine
    }

    /// Waits until the script says `name`, and returns the value it says with it.
    #[track_caller]
    pub fn wait_for(&mut self, name: &str) -> String {
        self.wait_passing(name, |_| ())
    }

    /// As [`Guest::wait_for`]; `pass` is shown every line up to there.
    #[track_caller]
    fn wait_passing(&mut self, name: &str, mut pass: impl FnMut(&str)) -> String {
        let wanted = format!("@@{name}");
        let mut ended_with = None;
        let mut is_it = |line: &str| {
            pass(line);
            ended_with = line.strip_prefix("@@guest-exit ").map(str::to_owned);
            ended_with.is_some() || line.split(' ').next() == Some(&wanted)
        };
        let earlier = std::iter::from_fn(|| self.earlier.pop_front()).find(|line| is_it(line));
        let line =
            earlier.unwrap_or_else(|| self.process.wait_for_line(&wanted, STEP_LIMIT, is_it));
        if name != "guest-exit"
            && let Some(status) = ended_with
        {
            panic!("the script ended with status {status} before it said {name}");
        }
        line[wanted.len()..].trim().to_owned()
    }

    /// The guest has gone on from `old` to this QEMU; `old`, which stores nothing any more, is killed.
    #[track_caller]
    pub fn succeed(&mut self, old: Guest) {
        self.earlier = old.process.kill_unheard(STEP_LIMIT).into();
    }

    /// Waits for the script to end successfully and for the guest to power off.
    #[track_caller]
    pub fn finish(mut self) {
        let status = self.wait_for("guest-exit");
        assert_eq!(status, "0", "status of the guest's script");
        let status = self.process.wait_for_end(STEP_LIMIT);
        assert!(status.success(), "QEMU ended with {status}");
    }

    /// Stops the guest's QEMU for good: from here on it stores nothing.
    #[track_caller]
    pub fn stop(&self) {
        self.process.stop(STEP_LIMIT);
    }

    /// Kills the guest's QEMU with SIGKILL: to the guest, a power failure. Returns what the program `guest-load` had
    /// said by then.
    #[track_caller]
    pub fn kill(self) -> Vec<Said> {
        let lines = self.process.kill(STEP_LIMIT);
        lines.iter().filter_map(|line| Said::read(line)).collect()
    }

    /// Waits until the program `guest-load` has come to its end, by what follows it in the script, `say name`.
    /// Returns what it said.
    #[track_caller]
    pub fn hear_until(&mut self, name: &str) -> Vec<Said> {
        let mut heard = Vec::new();
        self.wait_passing(name, |line| heard.extend(Said::read(line)));
        heard
    }
}

impl Machine<'_> {
    /// Adds virtual CPUs; there is one otherwise.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Adds the disks that `daemon` serves: /dev/vda is the first.
    pub fn disk(mut self, daemon: &Daemon) -> Self {
        for socket in daemon.sockets() {
            let queues = daemon.queues();
            self.command.arg("--disk").arg(format!("{},num-queues={queues}", socket.display()));
        }
        self
    }

    /// Has it boot from its first disk, by this firmware: `seabios` or `ovmf`.
    pub fn firmware(mut self, name: &str) -> Self {
        self.command.arg("--firmware").arg(name);
        self
    }

    /// Adds a disk that is served at `socket`.
    pub fn disk_at(mut self, socket: &Path) -> Self {
        self.command.arg("--disk").arg(socket);
        self
    }

    /// Adds persistent memory that is served at `socket`: /dev/pmem0 is the first.
    pub fn pmem_at(mut self, socket: &Path) -> Self {
        self.command.arg("--pmem").arg(socket);
        self
    }

    /// Adds a disk with windows that is served at `socket`.
    pub fn windows_at(mut self, socket: &Path) -> Self {
        self.command.arg("--windows").arg(socket);
        self
    }

    /// Adds arguments of QEMU's own.
    pub fn arguments(mut self, arguments: &[String]) -> Self {
        self.arguments.extend_from_slice(arguments);
        self
    }

    /// Adds an emulated NVDIMM.
    pub fn nvdimm(mut self, nvdimm: &Nvdimm) -> Self {
        let option = match nvdimm.labels.bytes() {
            0 => String::new(),
            bytes => format!(",label-size={bytes}"),
        };
        self.command.arg("--nvdimm").arg(format!("{}{option}", nvdimm.file.display()));
        self
    }

    /// Adds a cpio archive to the guest's root.
    pub fn initramfs(mut self, archive: &Path) -> Self {
        self.command.arg("--initramfs").arg(archive);
        self
    }

    /// Boots, and runs the script; it stops at the first command that fails.
    #[track_caller]
    pub fn boot(self, script: &str) -> Guest {
        let mut guest = self.resume(script);
        guest.wait_for("guest-ready");
        guest
    }

    /// As [`Machine::boot`], for a guest that does not boot, but goes on where it was saved.
    #[track_caller]
    pub fn resume(mut self, script: &str) -> Guest {
        let path: PathBuf = self.scratch.join("script.sh");
        std::fs::write(&path, format!("{PRELUDE}\n{script}")).expect("a script file");
        self.command.arg("--script").arg(&path).arg("--cpus").arg(self.cpus.to_string());
        self.command.arg("--").args(&self.arguments);
        let process = Process::start("the guest", &self.command);
        Guest { process, earlier: VecDeque::new() }
    }
}
