//! Everything at once: guests that write and reconnect, disks that grow, stand still, are limited, come and go. Quick by
//! default; `SOAK_SECONDS` says how long it takes otherwise, and what the daemon holds is printed.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vhost_user_btt::vhost_user::control::{
    self, Answer, Handed, NewDisk, QUIESCE_SECONDS, RateReport, Request,
};

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{Driver, OK, T_FLUSH};
use crate::common::patience::PATIENCE;
use crate::common::usage::Usage;
use crate::setup::Place;

const DISKS: [&str; 3] = ["first", "second", "third"];
/// How they are served: two of them share rate limits.
const SERVED: [&str; 3] = ["first,rate-group=pair", "second,rate-group=pair", "third"];
const GROUP: &str = "pair";
/// Sectors that each guest uses.
const SECTORS: u64 = 64;

/// The disk that comes and goes.
const VISITOR: &str = "visitor";

/// Rounds of the quick run.
const ROUNDS: u64 = 12;
/// Rounds after which the daemon holds what it is going to hold: of the quick run, and when the last disk has grown to
/// its end.
const WARM_UP: [u64; 2] = [8, 128];
/// How much more anonymous memory it may have at the end, in KiB: far less than a round's worth of anything, times the
/// rounds of an hour.
const MOST_GROWTH_KIB: usize = 8192;

/// Returns whether to go on after so many rounds.
fn goes_on(round: u64, begun: Instant) -> bool {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    match seconds {
        Some(seconds) => begun.elapsed() < Duration::from_secs(seconds) || round < ROUNDS,
        None => round < ROUNDS,
    }
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

/// A disk comes, with what it held when it went, and goes.
fn visit(place: &Place, round: u64) {
    let socket = place.socket(VISITOR);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let file = File::options().read(true).write(true).open(&place.file).unwrap();
    let disk = NewDisk {
        nvdimm: place.file.clone(),
        socket: socket.clone(),
        descriptors: vec![Handed::Nvdimm, Handed::Socket],
        namespace: Some(VISITOR.into()),
        queues: Some(1 + (round % 4) as u16),
        ..NewDisk::default()
    };
    let request = Request::Add(Box::new(disk));
    let descriptors = [file.as_fd(), listener.as_fd()];
    let answer = control::request_with(&place.control(), &request, &descriptors).unwrap();
    assert_eq!(answer, Answer::Added { name: VISITOR.into() });
    drop((file, listener));
    let mut driver = Driver::connect(place.connect(VISITOR), 1);
    if round > 0 {
        assert!(driver.read(0, 0, 4096) == contents(0, round - 1), "round {round}");
    }
    assert_eq!(driver.write(0, 0, &contents(0, round)), OK);
    // Sometimes the guest loses it.
    let force = round.is_multiple_of(2);
    if !force {
        drop(driver);
        wait_until_free(place);
    }
    let answer = place.request(&Request::Remove { device: VISITOR.into(), force });
    assert_eq!(answer, Answer::Done);
}

/// Waits until no frontend is connected to the disk that comes and goes.
fn wait_until_free(place: &Place) {
    let deadline = Instant::now() + PATIENCE;
    while !place.stat(VISITOR)["frontend"].is_null() {
        assert!(Instant::now() < deadline);
    }
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
    let of_group = RateReport { ops_size: if round % 3 == 1 { 80 } else { 0 }, ..limit };
    done(Request::Rate { device: None, group: Some(GROUP.into()), limit: of_group });
    done(Request::Quiesce { device: disk.clone(), time_limit: QUIESCE_SECONDS });
    done(Request::Resume { device: disk.clone() });
    done(Request::Drain { device: disk.clone() });
    let answer = place.request(&Request::Stat { device: None });
    assert!(matches!(&answer, Answer::Stat { devices } if devices.len() == DISKS.len()));
    visit(place, round);
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
    let place = Place::new("560M", &[VISITOR, DISKS[0], DISKS[1], DISKS[2]]);
    let group = format!("--rate-limit=group={GROUP},ops_size=100,ops_refill_time=50");
    let daemon = place.serve(&SERVED, &[&group]);
    let is_over = AtomicBool::new(false);
    // The threads that flush are there from the first flush on.
    for disk in DISKS {
        let mut driver = Driver::connect(place.connect(disk), 1);
        assert_eq!(driver.write(0, SECTORS * 8, &contents(0, 0)), OK);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
    }
    let (before, begun) = (Usage::of(daemon.pid()), Instant::now());
    let versions = thread::scope(|scope| {
        let (place, is_over) = (&place, &is_over);
        let guests = DISKS.map(|disk| scope.spawn(move || run_guest(place, disk, is_over)));
        let (mut round, mut warm) = (0, before);
        while goes_on(round, begun) {
            administer(place, round);
            round += 1;
            if WARM_UP.contains(&round) {
                warm = Usage::of(daemon.pid());
            }
            assert!(guests.iter().all(|guest| !guest.is_finished()), "a guest has failed");
        }
        let now = Usage::of(daemon.pid());
        println!(
            "{round} rounds in {} s: {warm:?} after the warm-up, {now:?}",
            begun.elapsed().as_secs()
        );
        assert!(now.anonymous_kib < warm.anonymous_kib + MOST_GROWTH_KIB, "{warm:?}, {now:?}");
        let limit = RateReport::default();
        for disk in DISKS {
            place.request(&Request::Rate { device: Some(disk.into()), group: None, limit });
        }
        place.request(&Request::Rate { device: None, group: Some(GROUP.into()), limit });
        is_over.store(true, Ordering::Release);
        guests.map(|guest| guest.join().unwrap())
    });
    let writes: u64 = versions.iter().flatten().sum();
    println!("{writes} writes, all there");
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
    for disk in DISKS.into_iter().chain([VISITOR]) {
        nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), disk]);
    }
}
