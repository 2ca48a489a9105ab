//! Pages of several sectors that are all or nothing, as databases write them: the power fails under a guest that
//! writes them, with `--atomic` and without; and Linux's own driver opens a disk that was cut off in the middle of
//! some.

use std::collections::HashMap;
use std::fs::{read, write};
use std::path::Path;
use std::sync::Arc;

use vhost_user_btt::btt::check::{CheckOptions, Report, check};
use vhost_user_btt::btt::{Btt, OpenOptions, find};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{
    Contents, CrashModel, Effort, Event, MediumKind, Random, Simulated,
};
use vm_memory::VolatileSlice;

use crate::harness::{Daemon, Guest, Labels, Nvdimm, Said, Tool, programs, scratch};
use crate::sectors::{Found, describe, read as read_sector};
use crate::seeds::{Replay, figures, seeds};

const SIZE: usize = 4096;
/// Sectors of a page.
const PAGE: u64 = 4;
/// The sectors that the guests write.
const SECTORS: std::ops::Range<u64> = 256..320;

const REPLAY: &str = "cargo test --profile suite --features guest-tests --test guests torn_pages";

/// The newest version of each sector that was acknowledged.
fn acknowledged(said: &[Said]) -> HashMap<u64, u64> {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let writes = said.iter().filter(|said| said.name == "acknowledged").flat_map(|s| &s.words);
    writes
        .map(|write| write.split_once(':').expect("sector and version"))
        .map(|(sector, version)| (number(sector), number(version)))
        .collect()
}

/// The version of each sector in `bytes`, the disk from its first byte on: none is torn, and none is older than
/// what was acknowledged.
fn versions(bytes: &[u8], acknowledged: &HashMap<u64, u64>) -> Vec<u64> {
    let version = |sector: u64| {
        let data = &bytes[sector as usize * SIZE..][..SIZE];
        let Found::Whole { sector: of, version } = read_sector(sector, data) else {
            panic!("sector {sector} is torn");
        };
        let least = acknowledged.get(&sector).copied().unwrap_or(0);
        assert_eq!(of, sector, "a foreign sector");
        assert!(version >= least, "sector {sector}: {version} is older than {least}");
        version
    };
    SECTORS.map(version).collect()
}

fn count_torn(versions: &[u64]) -> usize {
    let pages = versions.chunks(PAGE as usize);
    pages.filter(|page| page.iter().any(|version| *version != page[0])).count()
}

/// Lets the power fail once; returns how many pages are torn.
fn fail_under_load(file: &Path, folder: &Path, fences: u64, seed: u64, atomic: &str) -> usize {
    Tool::on(file).create_disk("32M", SIZE as u32);
    let options =
        [format!("--fail=after-fences={fences},seed={seed}"), format!("--atomic={atomic}")];
    let daemon = Daemon::start_failing(file, 2, &options.each_ref().map(String::as_str));
    let guest = Guest::machine(folder)
        .cpus(2)
        .initramfs(&programs())
        .disk(&daemon)
        .boot(&format!("/opt/guest-load pages /dev/vda {seed}"));
    println!("{}", daemon.wait_for_power_failure());
    let acknowledged = acknowledged(&guest.kill());
    assert!(!acknowledged.is_empty(), "there was no load");
    Tool::on(file).assert_clean();
    count_torn(&versions(&Tool::on(file).export(), &acknowledged))
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn the_power_fails_and_pages_are_whole_with_atomic_where_they_are_torn_without() {
    let (mut torn, mut torn_without, mut failures_without) = (0, 0, 0);
    let seeds = seeds(1);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let _replay = Replay { seed, command: REPLAY };
        let scratch = scratch();
        let mut random = Random::new(seed);
        let (fences, failure) = (random.within(100..600), random.any());
        let fail = |name: &str, fences, atomic| {
            fail_under_load(&scratch.path().join(name), scratch.path(), fences, failure, atomic)
        };
        torn += fail("atomic.nvdimm", fences, "16K");
        // A round has three fences: of the one after the flog's entries, some are there.
        let torn_before = torn_without;
        for fences in fences..fences + 3 {
            failures_without += 1;
            torn_without += fail(&format!("sectors-{fences}.nvdimm"), fences, "off");
            if torn_without > torn_before {
                break;
            }
        }
    }
    let pages = SECTORS.count() as u64 / PAGE;
    figures(&format!(
        "power-fail-guest-pages failures={count} pages={} torn={torn} \
         failures_without_atomic={failures_without} pages={} torn={torn_without}",
        count * pages,
        failures_without * pages,
    ));
    assert_eq!(torn, 0);
    assert!(torn_without > 0, "the harness is blind: no page was torn");
}

/// Writes all pages, once each, with sectors of `version`.
fn write_pages<M: PersistentMemory>(medium: M, version: u64) {
    let options =
        OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 16384 };
    let (_, mut queues) = Btt::open(medium, &options).expect("a BTT");
    let mut batch = queues[0].batch();
    for first in SECTORS.step_by(PAGE as usize) {
        let mut data = vec![0; PAGE as usize * SIZE];
        (first..).zip(data.chunks_mut(SIZE)).for_each(|(sector, data)| {
            describe(sector, version, data);
        });
        batch.write(first, &VolatileSlice::from(&mut data[..]), 0).expect("a page");
    }
    batch.commit();
}

fn checked(image: &Contents) -> Report {
    check(&Simulated::of(image.clone()), &CheckOptions::default(), &mut |_, _| {})
}

/// What a power failure in the middle of the second write of all pages leaves of `file`: of most pages a part is in
/// the flog. Returns how many entries of the flog are to be taken back, too.
fn cut_off(file: &Path, seed: u64) -> (usize, Contents) {
    let medium = Arc::new(Simulated::with_contents(&read(file).expect("the disk")));
    write_pages(medium.clone(), 1);
    let base = medium.snapshot();
    let mut model = CrashModel::new(MediumKind::Dax, &base);
    let recorder = Arc::new(model.open());
    write_pages(recorder.clone(), 2);
    let arena = find(&*medium, None).expect("a BTT")[0];
    let flog = arena.start + arena.info.geometry.logoff;
    let flog = flog..flog + (16 << 10);
    let mut random = Random::new(seed);
    let mut best: Option<(usize, Contents)> = None;
    for event in recorder.take_trace() {
        model.replay(std::slice::from_ref(&event));
        if !matches!(&event, Event::Store { offset, .. } if flog.contains(offset)) {
            continue;
        }
        let effort = Effort { most: 4, random: 4, lines: 0 };
        model.images(&effort, &mut random, &mut |image| {
            let taken_back = checked(&image).taken_back.len();
            if best.as_ref().is_none_or(|(most, _)| taken_back > *most) {
                best = Some((taken_back, image));
            }
        });
    }
    let (taken_back, image) = best.expect("an image");
    assert!(taken_back > 8, "{taken_back} entries are to be taken back");
    (taken_back, image)
}

fn save(image: &Contents, file: &Path) {
    write(file, Simulated::of(image.clone()).contents()).expect("a file");
}

/// Linux completes what is pending sector by sector, and writes; and then the disk is ours again, whose
/// record of the pages is still there. Returns how many entries would have been taken back, how many sectors Linux had
/// acknowledged, and how many pages are torn after it.
fn linux_has_a_disk_in_between(seed: u64) -> [usize; 3] {
    let _replay = Replay { seed, command: REPLAY };
    let scratch = scratch();
    let file = scratch.path().join("cut.nvdimm");
    Tool::on(&file).create_disk("32M", SIZE as u32);
    let (taken_back, image) = cut_off(&file, seed);
    save(&image, &file);

    // If no other process has it in between, it is of whole pages.
    let ours = scratch.path().join("ours.nvdimm");
    save(&image, &ours);
    assert_eq!(count_torn(&versions(&Tool::on(&ours).export(), &HashMap::new())), 0);

    let nvdimm = Nvdimm { file: &file, labels: Labels::None };
    let guest = Guest::machine(scratch.path()).cpus(2).initramfs(&programs()).nvdimm(&nvdimm);
    let mut guest = guest.boot(&format!(
        "read_sectors /dev/pmem0s | say_sha256 sectors
        timeout 1 /opt/guest-load direct /dev/pmem0s {seed} || true
        say done"
    ));
    let sectors = guest.wait_for("sectors");
    println!("Linux read {sectors}");
    let mut acknowledged = acknowledged(&guest.hear_until("done"));
    assert!(!acknowledged.is_empty(), "there was no load");
    guest.finish();
    let by_linux = acknowledged.len();
    for sector in SECTORS {
        // Linux's versions begin anew.
        acknowledged.entry(sector).or_insert(1);
    }
    Tool::on(&file).assert_clean();
    versions(&Tool::on(&file).export(), &acknowledged);
    // Served again with pages, it shows the same.
    let daemon = Daemon::start_with(&file, 2, &["--atomic=16K"]);
    daemon.stop();
    let versions = versions(&Tool::on(&file).export(), &acknowledged);
    [taken_back, by_linux, count_torn(&versions)]
}

#[test]
fn linux_serves_whole_sectors_of_a_disk_that_was_cut_off_in_pages_and_so_do_we_after_it() {
    let seeds = seeds(1);
    let count = seeds.end - seeds.start;
    let mut sum = [0; 3];
    for seed in seeds {
        let counts = linux_has_a_disk_in_between(seed);
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let [taken_back, acknowledged, mixed] = sum;
    figures(&format!(
        "linux-after-pages images={count} entries_of_cut_pages={taken_back} \
         acknowledged_by_linux={acknowledged} torn_sectors=0 lost=0 pages_of_two_versions={mixed}"
    ));
}
