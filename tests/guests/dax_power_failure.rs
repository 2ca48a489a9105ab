//! The power fails under a guest whose persistent memory holds an ext4 with DAX: what it has synced is there when
//! it is back, files that it has written by stores to mappings, too.
//!
//! It fails when a flush begins, when most is not durable: the guest goes on storing for a moment, and is told of
//! nothing. Or it fails at any time, for the guest first: QEMU is stopped, and what its CPU would have stored next
//! is never stored.

use std::thread;
use std::time::{Duration, Instant};

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Tool, programs, scratch};
use crate::power_failure::{synced, violations};
use crate::seeds::{Replay, figures, seeds};
use crate::windows::make;

const REPLAY: &str =
    "cargo test --release --features guest-tests,power-fail --test guests dax_power_failure";

/// Lets the power fail once. Returns how many files had been synced.
fn fail_under_dax(seed: u64) -> usize {
    let _replay = Replay { seed, command: REPLAY };
    let mut random = Random::new(seed);
    let scratch = scratch();
    let file = make(scratch.path());
    let socket = file.with_extension("pmem");
    let serve = |more: &[String]| {
        let mut arguments = vec![format!("--pmem=socket={},device=data", socket.display())];
        arguments.extend_from_slice(more);
        Daemon::start_devices(&file, &arguments, vec![socket.clone()])
    };
    let machine =
        || Guest::windows_machine(scratch.path()).cpus(2).initramfs(&programs()).pmem_at(&socket);

    // More than making and mounting the file system takes.
    let fences = (!seed.is_multiple_of(5)).then(|| random.within(80..400));
    let fences_option = fences.map(|count| format!(",after-fences={count}")).unwrap_or_default();
    let daemon = serve(&[format!("--power-fail=seed={seed}{fences_option}")]);
    let mut guest = machine().boot(&format!(
        "mkfs.ext4 -q -b 4096 /dev/pmem0
        mount -o dax=always /dev/pmem0 /mnt
        /opt/guest-load mapped-files /mnt {seed}"
    ));
    if fences.is_none() {
        (0..random.within(1..60)).for_each(|_| drop(guest.wait_for("kept")));
        thread::sleep(Duration::from_micros(random.within(0..100_000)));
        guest.stop();
        daemon.send_power_failure();
    }
    println!("{}", daemon.wait_for_power_failure());
    let synced = synced(&guest.kill());
    Tool::on(&file).dax("check", &[]);

    let daemon = serve(&[]);
    // Mounting replays the journal, and repairs nothing: what e2fsck finds then was there.
    let mut guest = machine().boot(
        "mount -o dax=always /dev/pmem0 /mnt
        /opt/guest-load find-files /mnt
        say found
        umount /mnt
        e2fsck -f -n /dev/pmem0
        no_disk_errors",
    );
    let found = guest.hear_until("found");
    guest.finish();
    daemon.stop();
    assert_eq!(violations(&synced, &found), Vec::<String>::new());
    synced.len()
}

#[test]
fn synced_files_on_dax_survive_power_failures() {
    let begun = Instant::now();
    let seeds = seeds(1);
    let count = seeds.end - seeds.start;
    let files: usize = seeds.map(fail_under_dax).sum();
    let seconds = begun.elapsed().as_secs();
    figures(&format!(
        "power-fail-dax-guest seeds={count} files={files} violations=0 seconds={seconds}"
    ));
    assert!(files > 0, "there was no load");
}
