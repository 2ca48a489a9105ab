//! Sectors that are moved to where they belong, while their disk is served and while it is not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;

use crate::common::daemon::{nvdimmctl, nvdimmctl_ok};
use crate::common::frontend::{Driver, OK};
use crate::setup::{Place, pattern};

/// Sectors that are written.
const SECTORS: u64 = 3000;

/// The sector that write `number` is of: each once, in order, and then some at random.
fn sector_of(number: u64) -> u64 {
    if number < SECTORS {
        return number;
    }
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) % SECTORS
}

fn age(driver: &mut Driver) {
    for number in 0..2 * SECTORS {
        assert_eq!(driver.write(0, sector_of(number) * 8, &pattern(number)), OK);
    }
}

/// The number of the last write of each sector, of writes whose sectors are told by `sector`.
fn newest(writes: u64, sector: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut newest = vec![0; SECTORS as usize];
    (0..writes).for_each(|number| newest[sector(number) as usize] = number);
    newest
}

fn json(printed: &[u8]) -> Value {
    serde_json::from_slice(printed).unwrap()
}

/// How many sectors of the disk do not lie behind the one before.
fn out_of_order(place: &Place) -> u64 {
    let path = place.file.to_str().unwrap();
    let inspected = json(&nvdimmctl_ok(&["inspect", path, "first", "--json"]));
    inspected["arenas"][0]["map"]["out_of_order"].as_u64().unwrap()
}

/// A disk that was written in order and then at random.
fn aged() -> Place {
    let place = Place::new("64M", &["first"]);
    let daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    age(&mut driver);
    drop(driver);
    assert!(daemon.terminate().0.success());
    place
}

#[test]
fn a_disk_is_put_in_order_while_its_guest_writes() {
    let place = aged();
    let before = out_of_order(&place);
    assert!(before > SECTORS / 2, "{before}");
    let daemon = place.serve(&["first,queues=2"], &[]);
    let driver = Driver::connect(place.connect("first"), 2);
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(2 * SECTORS));
    // Few sectors again and again, so that most are where they belong in the end.
    let sector = |number| if number < 2 * SECTORS { sector_of(number) } else { number % 32 * 90 };
    let mut driver = thread::scope(|scope| {
        let (is_over, written) = (&is_over, &written);
        let writer = scope.spawn(move || {
            let mut driver = driver;
            while !is_over.load(Ordering::Acquire) {
                let number = written.load(Ordering::Relaxed);
                let place = sector(number) * 8;
                assert_eq!(driver.write((number % 2) as usize, place, &pattern(number)), OK);
                written.store(number + 1, Ordering::Release);
            }
            driver
        });
        let said = place.ask(&["defragment", "first", "--rate=1G", "--json"]);
        is_over.store(true, Ordering::Release);
        let done = json(said.unwrap().as_bytes());
        assert!(done["moved"].as_u64().unwrap() > SECTORS / 3, "{done}");
        writer.join().unwrap()
    });
    for (sector, number) in (0..).zip(newest(written.into_inner(), sector)) {
        assert!(driver.read(0, sector * 8, 4096) == pattern(number), "{sector}");
    }
    drop(driver);
    assert!(daemon.terminate().0.success());
    let after = out_of_order(&place);
    assert!(after < before / 4, "{after} of {before}");
    nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), "first"]);
}

#[test]
fn a_disk_that_is_not_served_is_put_in_order() {
    let place = aged();
    let path = place.file.to_str().unwrap();
    let daemon = place.serve(&["first"], &[]);
    let refused = nvdimmctl(&["defragment", path, "first"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("busy"), "the daemon has it");
    assert!(daemon.terminate().0.success());
    let said = String::from_utf8(nvdimmctl_ok(&["defragment", path, "first"])).unwrap();
    assert!(said.contains("were moved"), "{said}");
    let after = out_of_order(&place);
    assert!(after < 30, "{after}");
    nvdimmctl_ok(&["check-namespace", path, "first"]);
    let again = json(&nvdimmctl_ok(&["defragment", path, "first", "--json"]));
    assert!(again["moved"].as_u64().unwrap() < 300, "{again}");

    let daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for (sector, number) in (0..).zip(newest(2 * SECTORS, sector_of)) {
        assert!(driver.read(0, sector * 8, 4096) == pattern(number), "{sector}");
    }
    drop(driver);
    assert!(daemon.terminate().0.success());
}

#[test]
fn what_must_not_be_moved_is_left_alone() {
    let place = Place::new("128M", &["first", "second"]);
    let _daemon = place.serve(&["first", "second,read-only"], &[]);
    place.ask(&["quiesce", "first"]).unwrap();
    for (arguments, complaint) in [
        (&["defragment", "first"][..], "quiesced"),
        (&["defragment", "second"], "no disk whose sectors can be moved"),
        (&["defragment", "third"], "serves no device"),
        (&["defragment", "first", "--namespace=first"], "the device is all"),
        (&["defragment", "first", "--rate=0"], "never end"),
    ] {
        let error = place.ask(arguments).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
    place.ask(&["resume", "first"]).unwrap();
    let said = place.ask(&["defragment", "first"]).unwrap();
    assert!(said.contains("0 were moved"), "{said}");
}
