//! Two power failures, each of which tears a journal entry in the same place: together, they must not make a
//! whole one.

use super::*;
use crate::dax::format::superblock::{BACKUP_OFFSET, SUPERBLOCK_OFFSET, Superblock};
use crate::dax::format::version::Version;
use crate::pmem::simulated::{Event, Recorder};

const JOURNAL: std::ops::Range<u64> = PAGES_OFFSET..PAGES_OFFSET + 2 * PAGE;

/// What a power failure left of an entry.
struct Torn {
    image: Simulated,
    /// The whole entry, and where it belongs.
    entry: Box<[u8]>,
    at: u64,
}

/// Runs `change` on a copy of `before`, up to its journal entry, of which the pieces of `unit` bytes are
/// left that `keep` says. What comes before the entry is fenced, and so durable.
fn torn(
    before: &Simulated,
    unit: usize,
    keep: impl Fn(usize) -> bool,
    change: impl FnOnce(&Region<Arc<Recorder>>),
) -> Torn {
    let recorder = Arc::new(Recorder::new(Simulated::of(before.snapshot())));
    let region = Region::open(Arc::clone(&recorder), false).unwrap();
    drop(recorder.take_trace());
    change(&region);
    let image = Simulated::of(before.snapshot());
    for event in recorder.take_trace() {
        match event {
            Event::Stream { offset, bytes, .. } => {
                let is_entry = JOURNAL.contains(&offset) && bytes.iter().any(|byte| *byte != 0);
                if !is_entry {
                    image.write_bytes(offset, &bytes).unwrap();
                    continue;
                }
                for (number, piece) in bytes.chunks(unit).enumerate().filter(|(n, _)| keep(*n)) {
                    image.write_bytes(offset + (number * unit) as u64, piece).unwrap();
                }
                return Torn { image, entry: bytes, at: offset };
            }
            Event::Store { offset, bytes } => image.write_bytes(offset, &bytes).unwrap(),
            Event::ZeroEnds { offset, length } => image.zero(offset, length).unwrap(),
            _ => {}
        }
    }
    panic!("no entry");
}

/// A region of this version whose free space is in single pages.
fn fragmented(version: Version) -> Arc<Simulated> {
    let medium = medium(64);
    let superblock = Superblock::read(&medium, SUPERBLOCK_OFFSET).unwrap();
    for offset in [SUPERBLOCK_OFFSET, BACKUP_OFFSET] {
        Superblock { version, ..superblock }.write(&medium, offset).unwrap();
    }
    let region = open(&medium);
    for name in ["a", "b", "c", "d", "e", "f"] {
        region.create_device(&device(name, 1)).unwrap();
    }
    for name in ["a", "c", "e"] {
        region.destroy_device(name).unwrap();
    }
    medium
}

fn made(uuid: u128) -> DeviceOptions {
    let uuid = Uuid::from_u128(uuid << 64 | uuid);
    DeviceOptions { uuid, label: String::new(), ..device("cache", 4) }
}

#[test]
fn a_device_that_is_made_again_after_a_power_failure_is_not_the_first_one() {
    for (version, unit) in
        [(Version::One, 64), (Version::One, 8), (Version::Two, 64), (Version::Two, 8)]
    {
        let medium = fragmented(version);
        let first = |region: &Region<Arc<Recorder>>| region.create_device(&made(0x11)).unwrap();
        let second = |region: &Region<Arc<Recorder>>| region.create_device(&made(0x22)).unwrap();
        let whole = torn(&medium, unit, |_| true, first);
        let pieces = whole.entry.len().div_ceil(unit);
        for missing in 0..pieces {
            // The first power failure takes one piece of the entry.
            let one = torn(&medium, unit, |number| number != missing, first);
            let opened =
                Region::open(Arc::new(Simulated::of(one.image.snapshot())), false).unwrap();
            if opened.device("cache").is_ok() {
                assert!(whole.entry[missing * unit..].iter().take(unit).all(|byte| *byte == 0));
                continue;
            }
            // The second one leaves that piece of the entry alone.
            let other = torn(&one.image, unit, |number| number == missing, second);
            assert_eq!(one.at, other.at);
            let opened = Region::open(Arc::new(other.image), false).unwrap();
            let device = opened.device("cache").map(|device| device.uuid);
            assert_eq!(device, Err(Error::UnknownDevice("cache".into())), "piece {missing}");
        }
    }
}

#[test]
fn a_shrink_that_was_cut_off_does_not_come_back_after_data_were_stored() {
    let medium = medium(64);
    for name in ["x", "y"] {
        open(&medium).create_device(&device(name, 8)).unwrap();
    }
    let shrink = |region: &Region<Arc<Recorder>>| {
        region.resize_device("x", 2 * PAGE).unwrap();
    };
    let grow = |region: &Region<Arc<Recorder>>| {
        region.resize_device("x", 12 * PAGE).unwrap();
    };
    let words = torn(&medium, 8, |_| true, shrink).entry.len() / 8;
    for missing in 0..words {
        let first = torn(&medium, 8, |number| number != missing, shrink).image;
        let opened = Region::open(Arc::new(Simulated::of(first.snapshot())), false).unwrap();
        if opened.device("x").unwrap().size != 8 * PAGE {
            continue;
        }
        let place = opened.resolve("x", 5 * PAGE).unwrap().start;
        first.write_bytes(place, b"acknowledged").unwrap();
        let second = torn(&first, 8, |number| number == missing, grow).image;
        let region = Region::open(Arc::new(second), false).unwrap();
        assert_eq!(region.device("x").unwrap().size, 8 * PAGE, "word {missing}");
    }
}

/// Both halves of the uuid have bits where Fletcher-64 does not notice that they are gone.
#[test]
fn an_entry_that_lacks_what_cancels_out_in_fletcher_64_is_torn_all_the_same() {
    let half = 0x8000_0000u32;
    let uuid = u128::from(half.swap_bytes()) << 96 | u128::from(half.swap_bytes()) << 32;
    let options = DeviceOptions { uuid: Uuid::from_u128(uuid), ..device("cancels", 1) };
    let change = |region: &Region<Arc<Recorder>>| region.create_device(&options).unwrap();
    let whole = |version| torn(&fragmented(version), 8, |_| true, change).entry;
    let entry = whole(Version::Two);
    let halves: Vec<usize> = (0..entry.len() / 8)
        .filter(|word| entry[word * 8..][..8] == u64::from(half).to_le_bytes())
        .collect();
    assert_eq!(halves.len(), 2);
    for (version, misses) in [(Version::One, true), (Version::Two, false)] {
        let Torn { image, .. } =
            torn(&fragmented(version), 8, |word| !halves.contains(&word), change);
        let opened = Region::open(Arc::new(image), false);
        // Version 1 replays an entry that makes a device without a uuid.
        let is_as_before = opened.is_ok_and(|region| {
            region.devices().len() == 3 && {
                let report = check::check(region.medium());
                report.is_clean() && report.pending == 0
            }
        });
        assert_eq!(is_as_before, !misses, "{version:?}");
    }
}
