//! A daemon with a disk for the frontend that is hostile, and another one that must not notice.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::daemon::{Daemon, nvdimmctl_ok};
use crate::common::frontend::{Driver, OK, T_FLUSH, linked, readable, writable};
use crate::common::raw::{GET_FEATURES, HEADER, Raw, RawGuest, STATUS};
use crate::common::sectors::{Found, describe, read};
use crate::common::usage::Usage;

/// Queues of the disk of the hostile frontend.
pub const QUEUES: usize = 4;

/// The daemon, and who uses its other disk.
pub struct House {
    pub folder: TempDir,
    pub daemon: Daemon,
    other: Option<Other>,
}

impl House {
    /// A daemon with two disks, of which the victim has a window, with `pmem`, a device of persistent
    /// memory, and a control socket.
    pub fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nvdimm");
        let file = file.to_str().unwrap();
        nvdimmctl_ok(&["create", file, "--size", "192M", "--label-size", "128K"]);
        nvdimmctl_ok(&["create-namespace", file, "-n", "victim", "-s", "32M"]);
        nvdimmctl_ok(&["create-namespace", file, "-n", "other", "-s", "32M"]);
        nvdimmctl_ok(&["create-namespace", file, "-n", "pool", "-m", "dax", "-s", "96M"]);
        nvdimmctl_ok(&["dax", "create-device", file, "data", "--size", "4M"]);
        nvdimmctl_ok(&["dax", "create-device", file, "window", "--size", "4M"]);
        let socket = |name: &str| folder.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.args(["--nvdimm", file]);
        for (name, queues) in [("victim", QUEUES), ("other", 1)] {
            let socket = socket(name);
            command.arg(format!(
                "--disk=socket={},namespace={name},queues={queues}",
                socket.display()
            ));
        }
        let pmem = socket("pmem");
        command.arg(format!("--pmem=socket={},device=data,expose-file", pmem.display()));
        command.arg("--window=window,disk=victim,expose-file");
        command.arg(format!("--control={}", socket("control").display()));
        let mut daemon = Daemon::spawn(command, socket("victim"));
        for name in ["victim", "other", "pmem"] {
            wait_for_socket(&mut daemon, &socket(name));
        }
        let other = Some(Other::start(UnixStream::connect(socket("other")).unwrap()));
        House { folder, daemon, other }
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn victim(&self) -> PathBuf {
        self.socket("victim")
    }

    /// A guest of the disk for hostile frontends.
    pub fn guest(&self, rings: usize) -> RawGuest {
        RawGuest::start(&self.victim(), rings)
    }

    /// Persistent memory answers a flush, though no part of it is mapped.
    pub fn pmem_answers(&self) {
        let mut guest = RawGuest::start(&self.socket("pmem"), 1);
        guest.put(HEADER, &[0; 4]);
        guest.put_chain(0, 0, &linked(0, vec![readable(HEADER, 4), writable(STATUS, 4)]));
        guest.offer(0, &[0]);
        guest.wait(0);
    }

    /// The control socket answers.
    pub fn control_answers(&self) {
        let mut stream = UnixStream::connect(self.socket("control")).unwrap();
        stream.write_all(b"{\"command\":\"no such command\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.contains("not a request"), "{answer}");
    }

    /// Waits until threads that have ended are gone, and their descriptors.
    pub fn settle(&self) {
        let pid = self.daemon.pid();
        let mut before = Usage::of(pid);
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = Usage::of(pid);
            if now.descriptors >= before.descriptors && now.threads >= before.threads {
                return;
            }
            before = now;
        }
    }

    /// Leaves the other disk alone from now on.
    pub fn leave_other_alone(&mut self) {
        self.other.take().expect("the other disk is in use").end();
    }

    /// The hostile disk serves an honest frontend, the other disk has never noticed anything, and the
    /// daemon ends when it is told to.
    #[track_caller]
    pub fn stands(self) {
        self.serves();
        self.ends();
    }

    /// The other disk has never noticed anything, and the daemon ends when it is told to.
    #[track_caller]
    pub fn ends(mut self) {
        if let Some(other) = self.other.take() {
            other.end();
        }
        let (status, log) = self.daemon.terminate();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }

    /// The hostile disk serves an honest frontend.
    #[track_caller]
    pub fn serves(&self) {
        let mut driver = Driver::connect(UnixStream::connect(self.victim()).unwrap(), QUEUES);
        for queue in 0..QUEUES {
            assert_eq!(driver.write(queue, 8, &[0x5a; 4096]), OK);
            assert!(driver.read(queue, 8, 4096) == [0x5a; 4096]);
            assert_eq!(driver.request(queue, T_FLUSH, 0, &[], 0).0, OK);
        }
        self.pmem_answers();
    }
}

fn wait_for_socket(daemon: &mut Daemon, socket: &std::path::Path) {
    let deadline = Instant::now() + crate::common::daemon::PATIENCE;
    // The file is there before the daemon listens.
    while UnixStream::connect(socket).is_err() {
        assert!(!daemon.has_ended(), "the daemon is gone: {}", daemon.log());
        assert!(Instant::now() < deadline, "no {}: {}", socket.display(), daemon.log());
        std::thread::sleep(Duration::from_millis(2));
    }
    // The daemon serves it, too.
    assert_eq!(Raw::connect(socket).ask_number(GET_FEATURES) >> 32 & 1, 1);
}

/// The other disk: written and read all the time, and every answer checked.
struct Other {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Other {
    fn start(stream: UnixStream) -> Other {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let mut driver = Driver::connect(stream, 1);
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            loop {
                round += 1;
                check_round(&mut driver, round);
                if is_stopped.load(Ordering::Relaxed) {
                    return round;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Other { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() > 0);
    }
}

/// Writes a sector and reads it, and the one before.
fn check_round(driver: &mut Driver, round: u64) {
    const SECTORS: u64 = 64;
    let mut data = vec![0; 4096];
    let sector = round % SECTORS;
    describe(sector, round, &mut data);
    assert_eq!(driver.write(0, sector * 8, &data), OK);
    for version in [round, round - 1].into_iter().filter(|version| *version > 0) {
        let sector = version % SECTORS;
        let found = read(sector, &driver.read(0, sector * 8, 4096));
        assert_eq!(found, Found::Whole { sector, version });
    }
}
