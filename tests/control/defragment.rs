//! Sectors that are moved to where they belong, while their disk is served and while it is not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;

use crate::common::daemon::{nvdimmctl, nvdimmctl_ok};
use crate::common::frontend::{Driver, OK};
use crate::setup::{Place, pattern};

/// Sectors that are written in an order that jumps.
const SECTORS: u64 = 4001;

/// The sector that write `number` is of.
fn sector_of(number: u64) -> u64 {
    number * 1237 % SECTORS
}

fn age(driver: &mut Driver) {
    for number in 0..SECTORS {
        assert_eq!(driver.write(0, sector_of(number) * 8, &pattern(number)), OK);
    }
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

#[test]
fn a_disk_is_put_in_order_while_its_guest_writes() {
    let place = Place::new("64M", &["first"]);
    let daemon = place.serve(&["first,queues=2"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 2);
    age(&mut driver);
    let before = out_of_order(&place);
    assert!(before > SECTORS / 2, "{before}");
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(SECTORS));
    let mut driver = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // Few sectors again and again, so that most are where they belong in the end.
            while !is_over.load(Ordering::Acquire) {
                let number = written.load(Ordering::Relaxed);
                let sector = sector_of(number % 64);
                assert_eq!(driver.write((number % 2) as usize, sector * 8, &pattern(number)), OK);
                written.store(number + 1, Ordering::Release);
            }
            driver
        });
        let said = place.ask(&["defragment", "first", "--rate=1G", "--json"]);
        is_over.store(true, Ordering::Release);
        let done = json(said.unwrap().as_bytes());
        assert!(done["moved"].as_u64().unwrap() > SECTORS / 2, "{done}");
        writer.join().unwrap()
    });
    let written = written.into_inner();
    let newest = |sector| {
        let of_sector = |number: &u64| {
            let of = if *number < SECTORS { *number } else { *number % 64 };
            sector_of(of) == sector
        };
        (0..written).rev().find(of_sector).unwrap()
    };
    for sector in 0..SECTORS {
        assert!(driver.read(0, sector * 8, 4096) == pattern(newest(sector)), "{sector}");
    }
    drop(driver);
    let after = out_of_order(&place);
    assert!(after < before / 5, "{after} of {before}");
    assert!(daemon.terminate().0.success());
    nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), "first"]);
}

#[test]
fn a_disk_that_is_not_served_is_put_in_order() {
    let place = Place::new("64M", &["first"]);
    let daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    age(&mut driver);
    let path = place.file.to_str().unwrap();
    let refused = nvdimmctl(&["defragment", path, "first"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("busy"), "the daemon has it");
    drop(driver);
    assert!(daemon.terminate().0.success());
    let said = String::from_utf8(nvdimmctl_ok(&["defragment", path, "first"])).unwrap();
    assert!(said.contains("were moved"), "{said}");
    assert!(out_of_order(&place) < 10);
    nvdimmctl_ok(&["check-namespace", path, "first"]);
    let again = json(&nvdimmctl_ok(&["defragment", path, "first", "--json"]));
    assert!(again["moved"].as_u64().unwrap() < 300, "{again}");

    let daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for number in 0..SECTORS {
        let read = driver.read(0, sector_of(number) * 8, 4096);
        assert!(read == pattern(number), "{number}");
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
