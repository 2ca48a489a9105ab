//! A disk that `powercut` records, against the same disk that it does not record, without a guest: the user-space
//! driver writes, with a flush now and then. Disks with and without `--record` take turns, each on a new image.
//!
//! `scripts/bench-powercut recording`, or `cargo bench --bench recording [-- TURNS]`; `POWERCUT` is another program than
//! the one of this build. The image and the log are in the folder for temporary files, whose file system counts.

#[path = "../tests/common/driver.rs"]
#[allow(dead_code, reason = "here it only writes")]
mod driver;
#[path = "../tests/common/patience.rs"]
mod patience;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use driver::Disk;
use patience::PATIENCE;

/// Bytes of the image, and how many are written in a turn.
const SIZE: u64 = 128 << 20;
const WRITTEN_MIB: u32 = 64;
const WRITTEN: usize = (WRITTEN_MIB as usize) << 20;
/// Bytes between two flushes.
const FLUSHED: usize = 4 << 20;
/// Requests in flight.
const DEPTH: usize = 16;

/// `powercut serve`, which serves a new image; killed when dropped.
struct Server(Child);

impl Server {
    fn start(folder: &Path, is_recorded: bool) -> Server {
        let path = |name: &str| folder.join(name);
        for name in ["disk.raw", "disk.sock", "log"] {
            let _ = fs::remove_file(path(name));
        }
        let image = File::create(path("disk.raw")).and_then(|image| image.set_len(SIZE));
        image.expect("room for an image");
        let powercut = std::env::var_os("POWERCUT");
        let mut command =
            Command::new(powercut.unwrap_or_else(|| env!("CARGO_BIN_EXE_powercut").into()));
        command.args(["serve", "--sector-size=4096", "--image"]).arg(path("disk.raw"));
        command.arg("--socket-path").arg(path("disk.sock"));
        if is_recorded {
            command.arg("--record").arg(path("log"));
        }
        command.stderr(Stdio::from(File::create(path("said")).expect("room for its messages")));
        let server = Server(command.spawn().expect("powercut was built"));
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(path("said")).is_ok_and(|said| said.contains("serving")) {
            assert!(Instant::now() < deadline, "powercut does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// CPU time of all its threads, also of those that have ended, of both user and kernel.
    fn cpu_time(&self) -> Duration {
        let mut clock = 0;
        // SAFETY: the process is a child that nobody has waited for, and the clock is a variable of the right type.
        let status =
            unsafe { libc::clock_getcpuclockid(self.0.id().cast_signed(), &raw mut clock) };
        assert_eq!(status, 0, "a process that runs has a clock");
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: as above; the time is written to a variable.
        let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
        assert_eq!(status, 0, "the clock of a process that runs can be read");
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below 10⁹"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds that a turn took, and microseconds of CPU time of the server for a request.
#[derive(Debug, Clone, Copy)]
struct Turn {
    seconds: f64,
    cpu_us: f64,
}

/// Writes in requests of `length` bytes, with flushes.
fn turn(folder: &Path, length: usize, is_recorded: bool) -> Turn {
    let server = Server::start(folder, is_recorded);
    let mut disk = Disk::connect(&folder.join("disk.sock"), 1, 256, DEPTH * length);
    disk.buffers.fill(0x5a);
    let before = server.cpu_time();
    let begun = Instant::now();
    for part in (0..WRITTEN).step_by(FLUSHED) {
        for round in (part..part + FLUSHED).step_by(DEPTH * length) {
            for slot in 0..DEPTH {
                let buffer = &disk.buffers[slot * length..][..length];
                let written = disk.queues[0].write((round + slot * length) as u64, buffer, slot);
                written.expect("the queue has room");
            }
            disk.finish(0, DEPTH);
        }
        disk.queues[0].flush(0).expect("the queue has room");
        disk.finish(0, 1);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = server.cpu_time().saturating_sub(before);
    Turn { seconds, cpu_us: cpu.as_secs_f64() * 1e6 / requests_of(length) }
}

/// How many requests of `length` bytes a turn has.
fn requests_of(length: usize) -> f64 {
    f64::from(u32::try_from(WRITTEN / length).expect("no more than bytes"))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(folder: &Path, length: usize, turns: usize) {
    let pairs: Vec<[Turn; 2]> =
        (0..turns).map(|_| [false, true].map(|recorded| turn(folder, length, recorded))).collect();
    let of = |which: usize, what: fn(&Turn) -> f64| median(pairs.iter().map(|p| what(&p[which])));
    let rate = |which| f64::from(WRITTEN_MIB) / of(which, |turn| turn.seconds);
    println!(
        "requests of {} KiB: unrecorded {:.0} MiB/s, CPU {:.1} us; recorded {:.0} MiB/s, CPU {:.1} us per request; \
         a recorded disk runs at {:.0} %, median of {turns} pairs",
        length / 1024,
        rate(0),
        of(0, |turn| turn.cpu_us),
        rate(1),
        of(1, |turn| turn.cpu_us),
        100.0 * median(pairs.iter().map(|[plain, recorded]| plain.seconds / recorded.seconds)),
    );
}

fn main() {
    let turns = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(11);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for length in [64 << 10, 4 << 10] {
        compare(folder.path(), length, turns);
    }
}
