//! Everything at once: guests that write and reconnect, disks that grow, stand still and are limited. Quick by
//! default; `SOAK_ROUNDS` says how many rounds there are otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vhost_user_btt::vhost_user::control::{Answer, QUIESCE_SECONDS, RateReport, Request};

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{Driver, OK, T_FLUSH};
use crate::common::usage::Usage;
use crate::setup::Place;

const DISKS: [&str; 3] = ["first", "second", "third"];
/// Sectors that each guest uses.
const SECTORS: u64 = 64;

fn rounds() -> u64 {
    std::env::var("SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// What a sector holds after its `version`th write.
fn contents(sector: u64, version: u64) -> Vec<u8> {
    [sector, version].map(u64::to_le_bytes).concat().repeat(256)
}

/// A guest that writes and reads back, and reconnects now and then, until told to end.
fn run_guest(place: &Place, disk: &str, is_over: &AtomicBool) -> Vec<u64> {
    let mut versions = vec![0; SECTORS as usize];
    while !is_over.load(Ordering::Acquire) {
        let mut driver = Driver::connect(place.connect(disk), 1);
        for turn in 0..200 {
            if is_over.load(Ordering::Acquire) {
                break;
            }
            let sector = (turn * 7) % SECTORS;
            let version = &mut versions[sector as usize];
            if *version > 0 {
                assert!(driver.read(0, sector * 8, 4096) == contents(sector, *version), "{disk}");
            }
            *version += 1;
            assert_eq!(driver.write(0, sector * 8, &contents(sector, *version)), OK);
            if turn % 50 == 0 {
                assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
            }
        }
    }
    versions
}

/// What an administrator does in round `round`.
fn administer(place: &Place, round: u64) {
    let disk = DISKS[(round % 3) as usize].to_owned();
    let ops_size = if round.is_multiple_of(2) { 50 + round % 100 } else { 0 };
    let limit = RateReport { ops_size, ops_refill_time: 50, ..RateReport::default() };
    let done = |request: Request| {
        let answer = place.request(&request);
        assert_eq!(answer, Answer::Done, "{request:?}");
    };
    done(Request::Rate { device: Some(disk.clone()), group: None, limit });
    done(Request::Quiesce { device: disk.clone(), time_limit: QUIESCE_SECONDS });
    done(Request::Resume { device: disk.clone() });
    done(Request::Drain { device: disk.clone() });
    let answer = place.request(&Request::Stat { device: None });
    assert!(matches!(&answer, Answer::Stat { devices } if devices.len() == DISKS.len()));
    // The last one has room behind it.
    if round.is_multiple_of(4) {
        let size = Some((32 << 20) + (round / 4 + 1).min(24) * (16 << 20));
        let device = "third".to_owned();
        let answer = place.request(&Request::Resize { device, size, force: false });
        assert!(matches!(answer, Answer::Grown { .. }), "{answer:?}");
    }
}

#[test]
fn all_at_once() {
    let place = Place::new("512M", &DISKS);
    let daemon = place.serve(&DISKS, &[]);
    let is_over = AtomicBool::new(false);
    // The threads that flush are there from the first flush on.
    for disk in DISKS {
        let mut driver = Driver::connect(place.connect(disk), 1);
        assert_eq!(driver.write(0, SECTORS * 8, &contents(0, 0)), OK);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
    }
    let before = Usage::of(daemon.pid());
    let versions = thread::scope(|scope| {
        let (place, is_over) = (&place, &is_over);
        let guests = DISKS.map(|disk| scope.spawn(move || run_guest(place, disk, is_over)));
        for round in 0..rounds() {
            administer(place, round);
            assert!(guests.iter().all(|guest| !guest.is_finished()), "a guest has failed");
        }
        for disk in DISKS {
            let limit = RateReport::default();
            place.request(&Request::Rate { device: Some(disk.into()), group: None, limit });
        }
        is_over.store(true, Ordering::Release);
        guests.map(|guest| guest.join().unwrap())
    });
    for (disk, versions) in DISKS.into_iter().zip(versions) {
        let mut driver = Driver::connect(place.connect(disk), 1);
        for (sector, version) in versions.into_iter().enumerate().filter(|(_, one)| *one > 0) {
            let read = driver.read(0, sector as u64 * 8, 4096);
            assert!(read == contents(sector as u64, version), "{disk}: sector {sector}");
        }
    }
    before.wait_until_no_more(daemon.pid());
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    for disk in DISKS {
        nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), disk]);
    }
}
