//! Our back end inside a guest, on a DAX file system of persistent memory, and the guest's power is cut.
//!
//! The file is mapped with `MAP_SYNC`, by the kernel's own path, and stores go to the DIMM by the instructions that
//! they would use on a machine. QEMU's DIMM is a file in the host's page cache, though: what a CPU's caches would have
//! lost is not lost here. So this shows the order of the protocol at any instruction, and not its flushes and fences.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Guest, Labels, Nvdimm, Said, programs, scratch};
use crate::seeds::{Replay, figures, seeds};

/// Power cuts per seed.
const CUTS: u64 = 3;

/// Makes the disk.
const MAKE: &str = "
ndctl create-namespace -f -e namespace0.0 -m fsdax --map=mem
mkfs.ext4 -q -b 4096 /dev/pmem0
mount -o dax /dev/pmem0 /mnt
/opt/nvdimmctl create /mnt/nvdimm --size 64M
";

/// Mounts, checks and serves the disk, and says what is on it.
const CHECK: &str = r#"
grep -q " /mnt " /proc/mounts || mount -o dax /dev/pmem0 /mnt
/opt/nvdimmctl check-namespace /mnt/nvdimm
say backing "$(/opt/nvdimmctl list --json /mnt/nvdimm | sed -n 's/.*"backing": "\(.*\)".*/\1/p')"
/opt/vhost-user-btt --socket-path /tmp/socket --blk-file /mnt/nvdimm --num-queues 2 2>/tmp/log &
until grep -q serving /tmp/log; do sleep 0.1; done
say log "$(grep -o '[a-z-]* durability' /tmp/log)"
/opt/guest-load find-sectors /tmp/socket "$sector_size"
say found
"#;

/// The newest version that was acknowledged, by sector.
type Acknowledged = HashMap<u64, u64>;

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Checks that what is on the disk is what was acknowledged, or newer.
fn check(found: &[Said], acknowledged: &Acknowledged) {
    let mut sectors = 0;
    for said in found {
        match (said.name.as_str(), said.words.as_slice()) {
            ("sector", [sector, version]) => {
                let (sector, version) = (number(sector), number(version));
                let least = acknowledged.get(&sector).copied().unwrap_or(0);
                assert!(version >= least, "sector {sector}: {version} is older than {least}");
                sectors += 1;
            }
            _ => panic!("{said:?}"),
        }
    }
    assert_eq!(sectors, 128);
}

/// Boots, checks what is there, and, unless it is the last time, puts load on the disk and cuts the power. Returns how
/// many sectors were acknowledged.
fn boot(
    file: &Path,
    folder: &Path,
    sector_size: u32,
    time: u64,
    random: &mut Random,
    acknowledged: &mut Acknowledged,
) -> usize {
    let make = format!("{MAKE}\n/opt/nvdimmctl create-namespace /mnt/nvdimm -l {sector_size}");
    let make = if time == 0 { &make } else { "" };
    let load = format!(
        "/opt/guest-load disk /tmp/socket {sector_size} {} {}",
        (time + 1) << 32,
        random.any() >> 1
    );
    let load = if time < CUTS { &load } else { "kill $!; wait $!; no_disk_errors" };
    let nvdimm = Nvdimm { file, labels: Labels::None };
    let mut guest = Guest::machine(folder)
        .cpus(2)
        .nvdimm(&nvdimm)
        .initramfs(&programs())
        .boot(&format!("sector_size={sector_size}\n{make}\n{CHECK}\n{load}"));
    assert_eq!(guest.wait_for("backing"), "fs-dax");
    assert_eq!(guest.wait_for("log"), "dax durability", "no MAP_SYNC");
    check(&guest.hear_until("found"), acknowledged);
    if time == CUTS {
        guest.finish();
        return 0;
    }
    for _ in 0..random.within(1..60) {
        guest.wait_for("acknowledged");
    }
    thread::sleep(Duration::from_micros(random.within(0..200_000)));
    let mut count = 0;
    for said in guest.kill().iter().filter(|said| said.name == "acknowledged") {
        for write in &said.words {
            let (sector, version) = write.split_once(':').expect("sector and version");
            acknowledged.insert(number(sector), number(version));
            count += 1;
        }
    }
    count
}

fn cut_the_power(seed: u64) -> usize {
    let _replay = Replay {
        seed,
        command: "cargo test --profile suite --features guest-tests --test guests dax_power_cut",
    };
    let scratch = scratch();
    let file = scratch.path().join("dimm");
    std::fs::File::create(&file).expect("a new file").set_len(128 << 20).expect("a sparse file");
    let mut random = Random::new(seed);
    let sector_size = [4096, 512][seed as usize % 2];
    let mut acknowledged = Acknowledged::new();
    (0..=CUTS)
        .map(|time| {
            let folder = scratch.path();
            boot(&file, folder, sector_size, time, &mut random, &mut acknowledged)
        })
        .sum()
}

#[test]
fn acknowledged_sectors_survive_power_cuts_on_a_dax_file_system() {
    let begun = Instant::now();
    let seeds = seeds(1);
    let cuts = CUTS * (seeds.end - seeds.start);
    let acknowledged: usize = seeds.map(cut_the_power).sum();
    let seconds = begun.elapsed().as_secs();
    figures(&format!(
        "dax-guest cuts={cuts} acknowledged={acknowledged} violations=0 seconds={seconds}"
    ));
    assert!(acknowledged > 0, "there was no load");
}
