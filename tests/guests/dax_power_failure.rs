//! The power fails under a guest whose persistent memory holds an ext4 with DAX, and whose disk holds its journal:
//! what it has synced is there when it is back, files that it has written by stores to mappings, too.
//!
//! With its journal on the persistent memory, which has no sectors, an ext4 does not survive that: a commit block
//! that is torn has the wrong checksum, and the kernel refuses to mount. On a disk of ours it is there or not.
//!
//! The power fails at a fence, when most is not durable: the guest goes on storing for a moment, and is told of
//! nothing. Or it fails at any time, for the guest first: QEMU is stopped, and what its CPU would have stored next
//! is never stored.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Tool, programs, scratch};
use crate::power_failure::{synced, violations};
use crate::seeds::{Replay, figures, seeds};
use crate::windows::make;

const REPLAY: &str =
    "cargo test --release --features guest-tests,power-fail --test guests dax_power_failure";

/// What a power failure was about.
#[derive(Default)]
struct Failure {
    /// Files that had been synced.
    files: usize,
    /// Bytes that had been stored and not flushed, and are lost.
    lost: u64,
}

/// How many bytes were lost, by what the daemon says: `...: 40 bytes were pending, 8 of them are kept`.
fn lost(said: &str) -> u64 {
    let (_, said) = said.rsplit_once(": ").expect("what was pending");
    let mut numbers = said.split(' ').filter_map(|word| word.parse::<u64>().ok());
    let (pending, kept) = (numbers.next().expect("a number"), numbers.next().expect("a number"));
    pending - kept
}

const MAKE: &str = "
mkfs.ext4 -q -b 4096 -O journal_dev /dev/vda
mkfs.ext4 -q -b 4096 -J device=/dev/vda /dev/pmem0
";

const MOUNT: &str = "mount -o dax=always,journal_path=/dev/vda /dev/pmem0 /mnt";

/// Stores that nobody flushes, all the time.
const UNSYNCED: &str = "( set +x; while :; do random 64k >/mnt/unsynced; sleep 0.05; done ) &";

/// Mounting replays the journal, and repairs nothing: what e2fsck finds then was there.
const FIND: &str = "
/opt/guest-load find-files /mnt
say found
umount /mnt
e2fsck -f -n -j /dev/vda /dev/pmem0
no_disk_errors
";

/// A daemon that serves the disk and the persistent memory, and a machine with both.
struct Setup<'a> {
    file: &'a Path,
    folder: &'a Path,
}

impl Setup<'_> {
    fn sockets(&self) -> [PathBuf; 2] {
        ["disk", "pmem"].map(|name| self.file.with_extension(name))
    }

    fn serve(&self, more: &[String]) -> Daemon {
        let [disk, pmem] = self.sockets().map(|socket| socket.display().to_string());
        let mut arguments = vec![
            format!("--disk=socket={disk},namespace=disk,queues=2"),
            format!("--pmem=socket={pmem},device=data"),
        ];
        arguments.extend_from_slice(more);
        Daemon::start_devices(self.file, &arguments, self.sockets().to_vec())
    }

    fn boot(&self, script: &str) -> Guest {
        let [disk, pmem] = self.sockets();
        let machine = Guest::windows_machine(self.folder).cpus(2).initramfs(&programs());
        machine.disk_at(&disk).pmem_at(&pmem).boot(script)
    }
}

/// Lets the power fail once.
fn fail_under_dax(seed: u64) -> Failure {
    let _replay = Replay { seed, command: REPLAY };
    let mut random = Random::new(seed);
    let scratch = scratch();
    let file = make(scratch.path());
    let setup = Setup { file: &file, folder: scratch.path() };
    let daemon = setup.serve(&[]);
    setup.boot(MAKE).finish();
    daemon.stop();

    // More than mounting takes.
    let fences = (!seed.is_multiple_of(4)).then(|| random.within(150..2000));
    let at = fences.map(|count| format!(",after-fences={count}")).unwrap_or_default();
    let unsynced = if fences.is_none() { UNSYNCED } else { "" };
    let daemon = setup.serve(&[format!("--power-fail=seed={seed}{at}")]);
    let load = format!("{MOUNT}\n{unsynced}\n/opt/guest-load mapped-files /mnt {seed}");
    let mut guest = setup.boot(&load);
    if fences.is_none() {
        (0..random.within(1..60)).for_each(|_| drop(guest.wait_for("kept")));
        thread::sleep(Duration::from_micros(random.within(0..100_000)));
        guest.stop();
        daemon.send_power_failure();
    }
    let said = daemon.wait_for_power_failure();
    println!("{said}");
    let synced = synced(&guest.kill());
    Tool::on(&file).dax("check", &[]);
    Tool::on(&file).namespace("disk").assert_clean();

    let daemon = setup.serve(&[]);
    let mut guest = setup.boot(&format!("{MOUNT}\n{FIND}"));
    let found = guest.hear_until("found");
    guest.finish();
    daemon.stop();
    assert_eq!(violations(&synced, &found), Vec::<String>::new());
    Failure { files: synced.len(), lost: lost(&said) }
}

#[test]
fn synced_files_on_dax_survive_power_failures() {
    let begun = Instant::now();
    let seeds = seeds(1);
    let count = seeds.end - seeds.start;
    let mut all = Failure::default();
    for Failure { files, lost } in seeds.map(fail_under_dax) {
        all = Failure { files: all.files + files, lost: all.lost + lost };
    }
    let (Failure { files, lost }, seconds) = (all, begun.elapsed().as_secs());
    figures(&format!(
        "power-fail-dax-guest seeds={count} files={files} unflushed-bytes-lost={lost} violations=0 \
         seconds={seconds}"
    ));
    assert!(count < 3 || (files > 0 && lost > 0), "there was no load");
}
