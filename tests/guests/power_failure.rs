//! The power fails under a guest whose ext4 is busy: everything that was synced is there when it is back.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Said, Tool, programs, scratch};
use crate::seeds::{Replay, figures, seeds};

const REPLAY: &str =
    "cargo test --profile suite --features guest-tests --test guests power_failure";

/// What the guest has acknowledged of a file, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synced {
    /// It has this version, or a later one.
    Kept {
        name: String,
        version: u64,
    },
    /// It has these many bytes, or more.
    Appended {
        length: u64,
    },
    Gone,
}

/// A disk with a file system.
fn make_disk(folder: &Path, sector_size: u32) -> PathBuf {
    let (disk, raw) = (folder.join("disk.nvdimm"), folder.join("raw"));
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/packages");
    File::create(&raw).and_then(|file| file.set_len(60 << 20)).expect("a sparse file");
    let run_unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/run-unpacked");
    let made = Command::new(run_unpacked)
        .arg(&guest)
        .args(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096"])
        .arg(&raw)
        .env("MKE2FS_CONFIG", guest.join("etc/mke2fs.conf"))
        .status();
    assert!(made.expect("mke2fs").success());
    Tool::on(&disk).create_disk("64M", sector_size);
    Tool::on(&disk).import(&raw);
    disk
}

fn path_of(said: &Said) -> (String, String, u64) {
    match said.words.as_slice() {
        [name, number, path] => (path.clone(), name.clone(), number.parse().expect("a number")),
        _ => panic!("{said:?}"),
    }
}

/// What was acknowledged last of each file.
pub fn synced(said: &[Said]) -> HashMap<String, Synced> {
    let mut synced = HashMap::new();
    for said in said {
        let (path, name, number) = path_of(said);
        let fact = match said.name.as_str() {
            "kept" => Synced::Kept { name, version: number },
            "appended" => Synced::Appended { length: number },
            "gone" => Synced::Gone,
            _ => panic!("{said:?}"),
        };
        synced.insert(path, fact);
    }
    synced
}

/// What is wrong with what was found.
pub fn violations(synced: &HashMap<String, Synced>, found: &[Said]) -> Vec<String> {
    let found: HashMap<String, (&str, String, u64)> = found
        .iter()
        .map(|said| (path_of(said), said.name.as_str()))
        .map(|((path, name, number), kind)| (path, (kind, name, number)))
        .collect();
    let is_there = |path: &String, synced: &Synced| match (synced, found.get(path)) {
        (Synced::Gone, None) => true,
        (Synced::Kept { name, version }, Some(("whole", found, number))) => {
            found == name && number >= version
        }
        (Synced::Appended { length }, Some(("log", _, number))) => number >= length,
        _ => false,
    };
    synced
        .iter()
        .filter(|(path, synced)| !is_there(path, synced))
        .map(|(path, synced)| format!("{path}: {synced:?}, but found: {:?}", found.get(path)))
        .collect()
}

/// Lets the power fail once. Returns how many files had been synced.
fn fail_under_ext4(seed: u64) -> usize {
    let _replay = Replay { seed, command: REPLAY };
    let mut random = Random::new(seed);
    let sector_size = [4096, 512][seed as usize % 2];
    let data = ["ordered", "ordered", "journal"][random.within(0..3) as usize];
    let fences = random.within(100..3000);
    println!("seed {seed}: sectors of {sector_size} bytes, data={data}, {fences} fences");

    let scratch = scratch();
    let disk = make_disk(scratch.path(), sector_size);
    let failure = format!("--fail=after-fences={fences},seed={seed}");
    let daemon = Daemon::start_failing(&disk, 2, &[&failure]);
    let machine = || Guest::machine(scratch.path()).cpus(2).initramfs(&programs());
    let guest = machine().disk(&daemon).boot(&format!(
        "mount -t ext4 -o data={data} /dev/vda /mnt
        /opt/guest-load files /mnt {seed}"
    ));
    println!("{}", daemon.wait_for_power_failure());
    let synced = synced(&guest.kill());
    Tool::on(&disk).assert_clean();

    let daemon = Daemon::start(&disk, 2);
    // Mounting replays the journal, and repairs nothing: what e2fsck finds then was there.
    let mut guest = machine().disk(&daemon).boot(
        "mount -t ext4 /dev/vda /mnt
        /opt/guest-load find-files /mnt
        say found
        umount /mnt
        e2fsck -f -n /dev/vda
        no_disk_errors",
    );
    let found = guest.hear_until("found");
    guest.finish();
    daemon.stop();
    Tool::on(&disk).assert_clean();
    assert_eq!(violations(&synced, &found), Vec::<String>::new());
    synced.len()
}

#[test]
fn synced_files_survive_power_failures() {
    let begun = Instant::now();
    let seeds = seeds(3);
    let count = seeds.end - seeds.start;
    let files: usize = seeds.map(fail_under_ext4).sum();
    let seconds = begun.elapsed().as_secs();
    figures(&format!(
        "power-fail-guest seeds={count} files={files} violations=0 seconds={seconds}"
    ));
    assert!(files > 0 || count < 3, "there was no load");
}

/// What is asserted above can fail.
#[test]
fn files_that_are_lost_or_partial_or_back_again_are_noticed() {
    let said = |text: &str| {
        let mut words = text.split(' ').map(str::to_owned);
        Said { name: words.next().unwrap(), words: words.collect() }
    };
    let synced = synced(&[
        said("kept k1 1 /k1"),
        said("kept r1 3 /r1"),
        said("kept r1 8 /r1"),
        said("appended l1 500 /l1"),
        said("gone g1 0 /g1"),
    ]);
    let good = ["whole k1 1 /k1", "whole r1 9 /r1", "log l1 500 /l1", "partial - 0 /new"].map(said);
    assert_eq!(violations(&synced, &good), Vec::<String>::new());
    for bad in [
        [said("partial - 0 /k1"), good[1].clone(), good[2].clone()],
        [said("whole k2 1 /k1"), good[1].clone(), good[2].clone()],
        [good[0].clone(), said("whole r1 7 /r1"), good[2].clone()],
        [good[0].clone(), good[1].clone(), said("log l1 499 /l1")],
        [good[0].clone(), good[1].clone(), said("whole g1 1 /g1")],
    ] {
        assert!(!violations(&synced, &bad).is_empty(), "{bad:?}");
    }
    let back = [&good[..], &[said("whole g1 1 /g1")]].concat();
    assert_eq!(violations(&synced, &back).len(), 1);
}
