//! File systems that keep what was synced, in every state that `powercut` tries: ext4, and in a deep run XFS and btrfs.
//! A guest does things to files and marks each when it is durable; another mounts one state after another, reads the
//! files, and unmounts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::{Daemon, scratch};
use crate::powercut::{boot_command, make_guest, packages, run_unpacked};
use crate::seeds::{figures, number};

/// Operations of a recording.
const OPERATIONS: u64 = 12;

/// A file system, and how an image of it is made.
struct FileSystem {
    name: &'static str,
    /// Megabytes of the image: the least that its mkfs takes, and a little more.
    size: u64,
    /// The folder with mkfs, and the command.
    mkfs: (&'static str, &'static [&'static str]),
    /// Options of mount.
    options: &'static str,
}

const FILE_SYSTEMS: [FileSystem; 3] = [
    FileSystem {
        name: "ext4",
        size: 24,
        mkfs: ("packages", &["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096"]),
        options: "noinit_itable",
    },
    FileSystem {
        name: "xfs",
        size: 320,
        mkfs: ("mkfs", &["/usr/sbin/mkfs.xfs", "-q", "-s", "size=4096"]),
        options: "",
    },
    FileSystem {
        name: "btrfs",
        size: 128,
        mkfs: ("mkfs", &["/usr/sbin/mkfs.btrfs", "-q"]),
        options: "",
    },
];

fn guest_load() -> PathBuf {
    packages().with_file_name("bin").join("guest-load")
}

impl FileSystem {
    /// An image, and a copy of it.
    fn make_image(&self, folder: &Path) -> PathBuf {
        let image = folder.join("disk.raw");
        File::create(&image).and_then(|file| file.set_len(self.size << 20)).expect("a sparse file");
        let (tools, mkfs) = self.mkfs;
        let tools = packages().with_file_name(tools);
        let mut command = Command::new(run_unpacked());
        command.arg(&tools).args(mkfs).arg(&image);
        command.env("MKE2FS_CONFIG", tools.join("etc/mke2fs.conf"));
        let made = command.output().expect("mkfs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::copy(&image, folder.join("base.raw")).expect("a copy");
        image
    }

    /// Records a guest that does the operations of `seed`.
    fn record(&self, folder: &Path, seed: u64) {
        let image = self.make_image(folder);
        let script = format!(
            "set -e
            mount -t {} -o {} /dev/vda /mnt
            guest-load operations /mnt {seed} {OPERATIONS}
            umount /mnt",
            self.name,
            if self.options.is_empty() { "rw" } else { self.options },
        );
        let load = guest_load();
        let boot = make_guest(&folder.join("writer"), &[self.name], &[load.as_path()], &script);
        let daemon = Daemon::start_recording(&image, &folder.join("log"));
        let output = boot_command(&boot).args(daemon.sockets()).output().expect("the guest");
        let console = String::from_utf8_lossy(&output.stdout);
        assert!(console.contains("@@guest-exit 0"), "{console}");
        daemon.stop();
    }

    /// A guest that checks one state after another.
    fn checker(&self, folder: &Path, seed: u64) -> PathBuf {
        let script = format!(
            "echo 0 >/sys/block/vda/queue/read_ahead_kb
            guest-load check-operations {} '{}' {seed} {OPERATIONS}",
            self.name, self.options,
        );
        make_guest(&folder.join("checker"), &[self.name], &[guest_load().as_path()], &script)
    }
}

/// `powercut explore` on the recording in `folder`. Returns the exit status, and what was said.
fn explore(folder: &Path, boot: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = boot_command(Path::new(env!("CARGO_BIN_EXE_powercut")));
    command.arg("explore").arg(folder.join("log")).arg("--base").arg(folder.join("base.raw"));
    command.args(["--with-marks", "--timeout", "400"]).args(arguments).arg("--").arg(boot);
    let output = command.args(["{disk}", "{marks}"]).output().expect("powercut");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The number before `what` in the last line.
fn count(said: &str, what: &str) -> u64 {
    let last = said.lines().last().unwrap_or_default();
    let (before, _) = last.split_once(what).unwrap_or_else(|| panic!("no {what:?}: {said}"));
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Has states of `models` checked, no more than `budget` of each. Returns how many there were.
fn check_models(fs: &FileSystem, seed: u64, models: &[&str], budget: u64) -> u64 {
    let scratch = scratch();
    let folder = scratch.path();
    fs.record(folder, seed);
    let boot = fs.checker(folder, seed);
    let (name, budget) = (fs.name, budget.to_string());
    let mut checked = 0;
    for model in models {
        let begun = Instant::now();
        let (code, said) = explore(folder, &boot, &["--model", model, "--budget", &budget]);
        let (states, failed) = (count(&said, " states checked"), count(&said, " failed"));
        figures(&format!(
            "powercut-states fs={name} model={model} seed={seed} states={states} failed={failed} seconds={}",
            begun.elapsed().as_secs()
        ));
        assert_eq!((code, failed), (Some(0), 0), "{name}, {model}: {said}");
        checked += states;
    }
    // The same check of a disk that ignores flushes.
    let control = ["--model", "ignore-flush", "--budget", "200", "--most-failures", "1"];
    let (code, said) = explore(folder, &boot, &control);
    assert_eq!(code, Some(1), "{name}: the check is blind: {said}");
    checked
}

#[test]
fn ext4_keeps_what_was_synced_in_the_states_of_powercut_but_in_the_control() {
    let checked = check_models(&FILE_SYSTEMS[0], 1, &["drop-1"], 60);
    assert!(checked > 20, "{checked} states");
}

/// Thousands of states of each file system: `POWERCUT_STATES=1000 cargo test ... -- --ignored every_file_system`.
#[test]
#[ignore = "takes an hour; scripts/test --deep runs it"]
fn every_file_system_keeps_what_was_synced_in_all_models() {
    let states = number("POWERCUT_STATES", 1000);
    let wanted = std::env::var("POWERCUT_FILE_SYSTEMS").unwrap_or("ext4 xfs btrfs".into());
    let is_wanted = |fs: &&FileSystem| wanted.split(' ').any(|name| name == fs.name);
    let models = ["prefix", "drop-1", "drop-2", "keep-1", "random:1"];
    let checked: Vec<u64> = FILE_SYSTEMS
        .iter()
        .filter(is_wanted)
        .map(|fs| check_models(fs, number("CRASH_SEED", 1), &models, states))
        .collect();
    assert!(!checked.is_empty(), "no file system is called {wanted:?}");
}

/// Every state of every moment, by what the check reads.
#[test]
#[ignore = "takes an hour; scripts/test --deep runs it"]
fn every_state_of_every_file_system_is_covered() {
    for fs in &FILE_SYSTEMS {
        let scratch = scratch();
        let (folder, seed, begun) = (scratch.path(), number("CRASH_SEED", 1), Instant::now());
        fs.record(folder, seed);
        let budget = number("POWERCUT_STATES", 1000).to_string();
        let (code, said) = explore(folder, &fs.checker(folder, seed), &["--budget", &budget]);
        println!("{said}");
        let (moments, runs) = (count(&said, " moments in"), count(&said, " runs"));
        let covered = said.matches("all are covered").count();
        figures(&format!(
            "powercut-exhaustive fs={} moments={moments} covered={covered} runs={runs} seconds={}",
            fs.name,
            begun.elapsed().as_secs()
        ));
        assert_eq!(code, Some(0), "{}: {said}", fs.name);
    }
}
