//! The power fails under a guest whose persistent memory holds an ext4 with DAX: what it has synced is there when
//! it is back, files that it has written by stores to mappings, too.
//!
//! It fails when a flush begins, when most is not durable: the guest goes on storing for a moment, and is told of
//! nothing. Or it fails at any time, for the guest first: QEMU is stopped, and what its CPU would have stored next
//! is never stored.
//!
//! Persistent memory has no sectors. Of the block that ends a transaction of the journal some words may be there and
//! others not; the kernel does not mount that by itself, and so e2fsck looks first, as it does when a system starts.

use std::thread;
use std::time::{Duration, Instant};

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Tool, programs, scratch};
use crate::power_failure::{synced, violations};
use crate::seeds::{Replay, figures, seeds};
use crate::windows::make;

const REPLAY: &str =
    "cargo test --profile suite --features guest-tests --test guests dax_power_failure";

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

/// Stores that nobody flushes, all the time.
const UNSYNCED: &str = "( set +x; while :; do random 64k >/mnt/unsynced; sleep 0.05; done ) &";

/// The first e2fsck replays the journal, up to a transaction that is torn; the second finds nothing that is wrong.
const FIND: &str = "
e2fsck -p /dev/pmem0 || [ $? -eq 1 ]
mount -o dax=always /dev/pmem0 /mnt
/opt/guest-load find-files /mnt
say found
umount /mnt
e2fsck -f -n /dev/pmem0
no_disk_errors
";

/// Lets the power fail once.
fn fail_under_dax(seed: u64) -> Failure {
    let _replay = Replay { seed, command: REPLAY };
    let mut random = Random::new(seed);
    let scratch = scratch();
    let file = make(scratch.path());
    let socket = file.with_extension("pmem");
    let device = format!("--pmem=socket={},device=data", socket.display());
    let machine =
        || Guest::windows_machine(scratch.path()).cpus(2).initramfs(&programs()).pmem_at(&socket);

    // More than making and mounting the file system takes.
    let fences = (!seed.is_multiple_of(4)).then(|| random.within(80..400));
    let at = fences.map(|count| format!(",after-fences={count}")).unwrap_or_default();
    let unsynced = if fences.is_none() { UNSYNCED } else { "" };
    let options = [device.clone(), format!("--fail=seed={seed}{at}")];
    let daemon = Daemon::start_failing_devices(&file, &options, vec![socket.clone()]);
    let mut guest = machine().boot(&format!(
        "mkfs.ext4 -q -b 4096 /dev/pmem0
        mount -o dax=always /dev/pmem0 /mnt
        {unsynced}
        /opt/guest-load mapped-files /mnt {seed}"
    ));
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

    let daemon = Daemon::start_devices(&file, &[device], vec![socket.clone()]);
    let mut guest = machine().boot(FIND);
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
