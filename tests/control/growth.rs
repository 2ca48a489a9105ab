//! Disks that grow while their frontend is connected.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vhost::vhost_user::VhostUserFrontend;

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{Driver, IOERR, OK, T_FLUSH};
use crate::common::patience::PATIENCE;
use crate::setup::{Place, pattern};

/// Sectors of 4096 bytes that a frontend is told of.
fn sectors(driver: &mut Driver) -> u64 {
    u64::from_le_bytes(driver.config(0, 8).try_into().unwrap()) / 8
}

/// The next message of the device to its frontend.
fn message(channel: &mut UnixStream) -> [u32; 3] {
    let mut header = [0; 12];
    channel.set_read_timeout(Some(PATIENCE)).unwrap();
    channel.read_exact(&mut header).unwrap();
    [0, 4, 8].map(|at| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap()))
}

#[test]
fn a_frontend_that_is_connected_sees_the_disk_grow_and_hears_of_it() {
    let place = Place::new("256M", &["first"]);
    let daemon = place.serve(&["first,queues=2"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 2);
    let (mut channel, theirs) = UnixStream::pair().unwrap();
    driver.frontend.set_backend_request_fd(&theirs).unwrap();
    drop(theirs);
    let before = sectors(&mut driver);
    assert_eq!(driver.write(0, (before - 1) * 8, &pattern(7)), OK);
    assert_eq!(driver.write(1, before * 8, &pattern(8)), IOERR);
    assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);

    let said = place.ask(&["resize", "first", "--size=64M"]).unwrap();
    assert!(said.contains("its frontend was told"), "{said}");
    // CONFIG_CHANGE_MSG, without a wish for an answer.
    assert_eq!(message(&mut channel), [2, 1, 0]);
    let after = sectors(&mut driver);
    assert!(after > before + 7000, "{before} {after}");
    // On both queues, without a new connection.
    assert!(driver.read(1, (before - 1) * 8, 4096) == pattern(7));
    for (queue, sector) in [(0, before), (1, after - 1)] {
        assert!(driver.read(queue, sector * 8, 4096).iter().all(|byte| *byte == 0));
        assert_eq!(driver.write(queue, sector * 8, &pattern(sector)), OK);
    }
    assert_eq!(driver.write(0, after * 8, &pattern(8)), IOERR);
    // And again, as far as there is room.
    place.ask(&["resize", "first"]).unwrap();
    assert_eq!(message(&mut channel), [2, 1, 0]);
    assert!(sectors(&mut driver) > after + 30000);
    assert!(driver.read(0, (after - 1) * 8, 4096) == pattern(after - 1));
    drop(driver);
    assert!(daemon.terminate().0.success());
    nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), "first"]);
}

#[test]
fn a_frontend_without_the_channel_sees_the_size_when_it_looks() {
    let place = Place::new("256M", &["first"]);
    let _daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    let before = sectors(&mut driver);
    // The namespace first, by the tool that works on files.
    let path = place.file.to_str().unwrap();
    nvdimmctl_ok(&["grow-namespace", path, "--namespace=first", "--size=64M"]);
    assert_eq!(sectors(&mut driver), before);
    let said = place.ask(&["resize", "first", "--size=64M"]).unwrap();
    assert!(!said.contains("told"), "{said}");
    assert!(sectors(&mut driver) > before + 7000);
    assert_eq!(driver.write(0, before * 8, &pattern(1)), OK);
}

#[test]
fn nothing_is_lost_that_is_written_while_the_disk_grows() {
    let place = Place::new("512M", &["first"]);
    let daemon = place.serve(&["first,queues=2"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 2);
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut driver = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0.. {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                let sector = number % 4000 * 8;
                assert_eq!(driver.write((number % 2) as usize, sector, &pattern(number)), OK);
                written.store(number + 1, Ordering::Release);
            }
            driver
        });
        for size in ["64M", "128M", "192M", "256M"] {
            let so_far = written.load(Ordering::Acquire);
            place.ask(&["resize", "first", "--size", size]).unwrap();
            while written.load(Ordering::Acquire) < so_far + 50 && !writer.is_finished() {
                thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Release);
        writer.join().unwrap()
    });
    let written = written.into_inner();
    for number in written.saturating_sub(4000)..written {
        assert!(driver.read(0, number % 4000 * 8, 4096) == pattern(number), "{number}");
    }
    drop(driver);
    assert!(daemon.terminate().0.success());
    nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), "first"]);
}

#[test]
fn what_cannot_grow_stays_as_it_is() {
    let place = Place::new("256M", &["first", "second"]);
    let _daemon = place.serve(&["first", "second,read-only"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    let before = sectors(&mut driver);
    for (arguments, complaint) in [
        (&["resize", "first", "--size=64M"][..], "can grow to 32M at most"),
        (&["resize", "second", "--size=64M"], "no disk that can grow"),
        (&["resize", "third"], "serves no device"),
    ] {
        let error = place.ask(arguments).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
    assert_eq!(sectors(&mut driver), before);
    assert_eq!(driver.write(0, 0, &pattern(1)), OK);
}

#[test]
fn a_file_without_labels_grows_with_its_disk() {
    let place = Place::without_labels();
    let _daemon = place.serve(&["namespace0.0"], &[]);
    let mut driver = Driver::connect(place.connect("namespace0.0"), 1);
    let before = sectors(&mut driver);
    place.ask(&["resize", "namespace0.0", "--size=96M"]).unwrap();
    assert_eq!(std::fs::metadata(&place.file).unwrap().len(), 96 << 20);
    let after = sectors(&mut driver);
    assert!(after > 2 * before, "{before} {after}");
    assert_eq!(driver.write(0, (after - 1) * 8, &pattern(1)), OK);
}
