//! Disks whose blocks are several sectors, in a guest whose kernel knows such blocks: file systems with blocks of that
//! size are made there and used, the power fails, and they are whole again.

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Machine, Tool, programs, scratch};
use crate::power_failure::{synced, violations};
use crate::seeds::{Replay, figures, seeds};

const REPLAY: &str = "cargo test --profile suite --features guest-tests --test guests large_blocks";

/// A file system, and how a guest makes one of blocks of `$block` bytes, and looks whether it is whole.
struct FileSystem {
    name: &'static str,
    /// The limit of mkfs.ext4 is the page of the processor: `-F` says that the kernel knows larger ones.
    make: &'static str,
    check: &'static str,
}

const FILE_SYSTEMS: [FileSystem; 2] = [
    FileSystem {
        name: "ext4",
        make: "mkfs.ext4 -q -F -F -b $block /dev/vda",
        check: "e2fsck -f -n /dev/vda",
    },
    FileSystem {
        name: "xfs",
        make: "mkfs.xfs -q -f -b size=$block -s size=$block /dev/vda",
        check: "xfs_repair -n /dev/vda",
    },
];

/// Lets the power fail once. Returns how many files had been synced.
fn fail_with_blocks_of(block: u64, fs: &FileSystem, seed: u64) -> usize {
    let _replay = Replay { seed, command: REPLAY };
    let fences = Random::new(seed).within(500..4000);
    println!("seed {seed}: {} with blocks of {block} bytes, {fences} fences", fs.name);
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("384M", 4096);
    let (atomic, logical) = (format!("--atomic={block}"), format!("--logical-block-size={block}"));
    let failure = format!("--fail=after-fences={fences},seed={seed}");
    let daemon = Daemon::start_failing(&file, 2, &[&atomic, &logical, &failure]);
    let machine =
        || -> Machine<'_> { Guest::newer_kernel(scratch.path()).cpus(2).initramfs(&programs()) };
    let FileSystem { name, make, check } = fs;
    let guest = machine().disk(&daemon).boot(&format!(
        "block={block}
        [ $(cat /sys/block/vda/queue/logical_block_size) = $block ]
        modprobe {name}
        {make}
        mount -t {name} /dev/vda /mnt
        [ $(stat -f -c %S /mnt) = $block ]
        say mounted
        /opt/guest-load files /mnt {seed}"
    ));
    println!("{}", daemon.wait_for_power_failure());
    let synced = synced(&guest.kill());
    Tool::on(&file).assert_clean();

    let daemon = Daemon::start_with(&file, 2, &[&atomic, &logical]);
    let mut guest = machine().disk(&daemon).boot(&format!(
        "modprobe {name}
        mount -t {name} /dev/vda /mnt
        /opt/guest-load find-files /mnt
        say found
        umount /mnt
        {check}
        no_disk_errors"
    ));
    let found = guest.hear_until("found");
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
    assert_eq!(violations(&synced, &found), Vec::<String>::new());
    synced.len()
}

/// Takes the kernel of `qemu/fetch-kernel`: Linux 6.19 for ext4, and 6.15 for XFS.
#[test]
#[ignore = "takes minutes, and a newer kernel; scripts/test --deep runs it"]
fn file_systems_with_larger_blocks_survive_power_failures() {
    let seeds = seeds(2);
    let count = seeds.end - seeds.start;
    for block in [8192, 16384, 32768] {
        for fs in &FILE_SYSTEMS {
            let files: usize = seeds.clone().map(|seed| fail_with_blocks_of(block, fs, seed)).sum();
            figures(&format!(
                "power-fail-blocks fs={} block={block} failures={count} files={files} violations=0",
                fs.name
            ));
            assert!(files > 0, "there was no load");
        }
    }
}
