//! The power fails under a guest that writes sectors past its page cache: of a BTT, none is torn; of the raw bytes of
//! the same file, some are.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Said, Tool, programs, scratch};
use crate::sectors::{Found, read};
use crate::seeds::{Replay, figures, seeds};

const SIZE: usize = 4096;
/// The sectors that the guest writes.
const SECTORS: std::ops::Range<u64> = 256..320;

/// The newest version that was acknowledged, by sector.
fn acknowledged(said: &[Said]) -> HashMap<u64, u64> {
    let writes = said.iter().filter(|said| said.name == "acknowledged").flat_map(|s| &s.words);
    let number = |text: &str| text.parse::<u64>().expect("a number");
    writes
        .map(|write| write.split_once(':').expect("sector and version"))
        .map(|(sector, version)| (number(sector), number(version)))
        .collect()
}

/// Counts torn sectors in `bytes`, the disk from its first byte on; a version that is older than
/// what was acknowledged fails the test.
fn count_torn(bytes: &[u8], acknowledged: &HashMap<u64, u64>) -> u64 {
    let mut torn = 0;
    for sector in SECTORS {
        let data = &bytes[sector as usize * SIZE..][..SIZE];
        let least = acknowledged.get(&sector).copied().unwrap_or(0);
        match read(sector, data) {
            Found::Torn => torn += 1,
            Found::Whole { sector: of, version } => {
                assert_eq!(of, sector, "a foreign sector");
                assert!(version >= least, "sector {sector}: {version} is older than {least}");
            }
        }
    }
    torn
}

/// Lets the power fail once; returns how many sectors are torn.
fn fail_under_load(file: &Path, folder: &Path, fences: u64, seed: u64, raw: bool) -> u64 {
    Tool::on(file).create_disk("32M", SIZE as u32);
    let failure = format!("--fail=after-fences={fences},seed={seed}");
    let kind: &[&str] = if raw { &["--raw=4096"] } else { &[] };
    let daemon = Daemon::start_failing(file, 2, &[kind, &[&failure]].concat());
    let guest = Guest::machine(folder)
        .cpus(2)
        .initramfs(&programs())
        .disk(&daemon)
        .boot(&format!("/opt/guest-load direct /dev/vda {seed}"));
    println!("{}", daemon.wait_for_power_failure());
    let acknowledged = acknowledged(&guest.kill());
    assert!(!acknowledged.is_empty(), "there was no load");
    let mut bytes = Vec::new();
    if raw {
        File::open(file).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the disk");
    } else {
        Tool::on(file).assert_clean();
        bytes = Tool::on(file).export();
    }
    count_torn(&bytes, &acknowledged)
}

#[test]
fn the_power_fails_and_sectors_of_a_btt_are_whole_where_raw_ones_are_torn() {
    let (mut torn_btt, mut torn_raw) = (0, 0);
    let seeds = seeds(1);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let _replay = Replay {
            seed,
            command: "cargo test --profile suite --features guest-tests --test guests torn_sectors",
        };
        let scratch = scratch();
        let mut random = Random::new(seed);
        let fences = random.within(100..600);
        // Of raw sectors nothing but streaming stores is pending, and then the first choice is whether
        // some of them reach the file, all, or none: this seed has to make it some.
        let mut failure = random.any();
        while Random::new(failure).within(0..4) < 2 {
            failure = random.any();
        }
        let fail = |name: &str, raw| {
            fail_under_load(&scratch.path().join(name), scratch.path(), fences, failure, raw)
        };
        torn_btt += fail("btt.nvdimm", false);
        torn_raw += fail("raw.nvdimm", true);
    }
    figures(&format!(
        "power-fail-guest-sectors seeds={count} torn_btt={torn_btt} torn_raw={torn_raw}"
    ));
    assert_eq!(torn_btt, 0);
    assert!(torn_raw > 0, "the harness is blind: no raw sector was torn");
}
