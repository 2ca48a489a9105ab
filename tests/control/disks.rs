//! Devices that stand still, go on, and go.

use std::process::Command;
use std::time::Instant;

use vhost_user_btt::vhost_user::control::{self, Answer, Request, VERSION};

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{
    BUFFERS, Driver, OK, T_OUT, linked, readable, request_header, writable,
};
use crate::common::patience::PATIENCE;
use crate::common::syncs::Syncs;
use crate::setup::{Place, pattern};

#[test]
fn a_quiesced_disk_can_be_copied_and_goes_on_afterwards() {
    let place = Place::new("64M", &["first"]);
    let _daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for number in 0..10 {
        assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
    }
    place.ask(&["quiesce", "first"]).unwrap();
    let error = place.ask(&["quiesce", "first"]).unwrap_err();
    assert!(error.contains("quiesced already"), "{error}");
    let error = place.ask(&["resize", "first"]).unwrap_err();
    assert!(error.contains("resume it first"), "{error}");
    // A request waits in the ring meanwhile.
    let (header, data, status) = (BUFFERS, BUFFERS + 0x1000, BUFFERS + 0x800);
    driver.put(header, &request_header(T_OUT, 0));
    driver.put(data, &pattern(77));
    let chain = vec![readable(header, 16), readable(data, 4096), writable(status, 1)];
    driver.put_chain(0, 0, &linked(0, chain));
    driver.offer(0, 0);
    driver.kick(0);
    let copy = place.socket("copy");
    std::fs::copy(&place.file, &copy).unwrap();
    assert!(place.ask(&["disks"]).unwrap().contains("quiesced"));
    assert_eq!(driver.next_avail(0).wrapping_sub(driver.used_index(0)), 1);
    place.ask(&["resume", "first"]).unwrap();
    driver.wait_used(0);
    assert!(driver.read(0, 0, 4096) == pattern(77));
    let error = place.ask(&["resume", "first"]).unwrap_err();
    assert!(error.contains("not quiesced"), "{error}");
    // The copy is of the moment at which the disk stood still.
    let copy = copy.to_str().unwrap();
    nvdimmctl_ok(&["check-namespace", copy, "first"]);
    let image = nvdimmctl_ok(&["export", copy, "--namespace=first"]);
    for number in 0..10 {
        let at = number as usize * 4096;
        assert!(image[at..at + 4096] == pattern(number), "sector {number}");
    }
}

#[test]
fn a_disk_whose_syncs_are_slow_holds_up_nothing_but_its_own_quiesce() {
    let place = Place::new("128M", &["first", "second"]);
    let syncs = Syncs::of(&place.file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    syncs.preload(&mut command);
    let _daemon = place.serve_by(command, &["first", "second"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    assert_eq!(driver.write(0, 0, &pattern(1)), OK);
    syncs.hold(true);
    std::thread::scope(|scope| {
        let quiesce = scope.spawn(|| place.ask(&["quiesce", "first"]));
        syncs.wait_for_held();
        assert_eq!(place.stat("first")["quiesced"], true);
        assert_eq!(place.stat("second")["quiesced"], false);
        assert!(place.ask(&["disks"]).unwrap().contains("second"));
        let limit = "--limit=ops_size=100,ops_refill_time=100";
        place.ask(&["rate", "first", limit]).unwrap();
        for (command, said) in [("quiesce", "quiesced already"), ("resume", "being quiesced")] {
            let error = place.ask(&[command, "first"]).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(!quiesce.is_finished());
        syncs.hold(false);
        quiesce.join().unwrap().unwrap();
    });
    place.ask(&["resume", "first"]).unwrap();
    assert!(driver.read(0, 0, 4096) == pattern(1));
}

#[test]
fn a_disk_whose_sync_fails_is_not_quiesced() {
    let place = Place::new("64M", &["first"]);
    let syncs = Syncs::of(&place.file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    syncs.preload(&mut command);
    let _daemon = place.serve_by(command, &["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    assert_eq!(driver.write(0, 0, &pattern(1)), OK);
    syncs.fail(8, nix::errno::Errno::EIO);
    let error = place.ask(&["quiesce", "first"]).unwrap_err();
    assert!(error.contains("cannot be made durable"), "{error}");
    assert_eq!(place.stat("first")["quiesced"], false);
    assert!(driver.read(0, 0, 4096) == pattern(1));
}

#[test]
fn a_disk_goes_on_when_nobody_resumes_it_in_time() {
    let place = Place::new("64M", &["first"]);
    let mut daemon = place.serve(&["first"], &[]);
    for limit in ["0", "86401"] {
        let error = place.ask(&["quiesce", "first", "--time-limit", limit]).unwrap_err();
        assert!(error.contains("1..=86400"), "{error}");
        let time_limit = limit.parse().unwrap();
        let request = Request::Quiesce { device: "first".into(), time_limit };
        let error = control::request(&place.control(), &request).unwrap_err().to_string();
        assert!(error.contains("86400 seconds"), "{error}");
    }
    let mut driver = Driver::connect(place.connect("first"), 1);
    place.ask(&["quiesce", "first", "--time-limit=1"]).unwrap();
    // No client is connected when the time is over. The driver waits until the daemon carries the request out.
    assert_eq!(driver.write(0, 0, &pattern(1)), OK);
    daemon.wait_for_log("resumed, since no client has asked for that within 1 s");
    let error = place.ask(&["resume", "first"]).unwrap_err();
    assert!(error.contains("may not be whole"), "{error}");
    // A limit that is not over does not end another pause.
    place.ask(&["quiesce", "first"]).unwrap();
    assert_eq!(place.stat("first")["quiesced"], true);
    place.ask(&["resume", "first"]).unwrap();
}

#[test]
fn a_frontend_may_come_and_go_while_its_disk_is_quiesced() {
    let place = Place::new("64M", &["first"]);
    let daemon = place.serve(&["first"], &[]);
    place.ask(&["quiesce", "first"]).unwrap();
    let mut driver = Driver::connect(place.connect("first"), 1);
    driver.stop_queue(0);
    driver.start_queue(0);
    drop(driver);
    place.ask(&["resume", "first"]).unwrap();
    let mut driver = Driver::connect(place.connect("first"), 1);
    assert_eq!(driver.write(0, 0, &pattern(1)), OK);
    place.ask(&["drain", "first"]).unwrap();
    place.ask(&["quiesce", "first"]).unwrap();
    drop(driver);
    assert!(daemon.terminate().0.success());
}

#[test]
fn a_disk_is_removed_beside_others_that_are_served_on() {
    let place = Place::new("128M", &["first", "second"]);
    let daemon = place.serve(&["first", "second"], &[]);
    let mut first = Driver::connect(place.connect("first"), 1);
    let mut second = Driver::connect(place.connect("second"), 1);
    assert_eq!(first.write(0, 0, &pattern(1)), OK);
    let error = place.ask(&["remove", "first"]).unwrap_err();
    assert!(error.contains("busy"), "{error}");
    assert_eq!(first.write(0, 8, &pattern(2)), OK);
    place.ask(&["remove", "first", "--force"]).unwrap();
    assert!(!place.socket("first").exists());
    let disks = place.ask(&["disks"]).unwrap();
    assert!(!disks.contains("first") && disks.contains("second"), "{disks}");
    assert_eq!(second.write(0, 0, &pattern(3)), OK);
    // Its namespace is free, and holds what was written.
    let path = place.file.to_str().unwrap();
    nvdimmctl_ok(&["check-namespace", path, "first"]);
    let image = nvdimmctl_ok(&["export", path, "--namespace=first"]);
    assert!(image.starts_with(&[pattern(1), pattern(2)].concat()));
    drop(second);
    place.ask(&["remove", "second"]).unwrap();
    // Nothing is left to serve.
    let mut daemon = daemon;
    assert!(daemon.wait().success());
}

#[test]
fn the_log_level_can_be_changed() {
    let place = Place::new("64M", &["first"]);
    let daemon = place.serve(&["first"], &[]);
    let disconnections = || daemon.log().matches("has disconnected").count();
    let deadline = Instant::now() + PATIENCE;
    for (round, level, expected) in [(1, "info", 1), (2, "error", 1), (3, "info", 2)] {
        place.ask(&["log-level", level]).unwrap();
        drop(Driver::connect(place.connect("first"), 1));
        let has_left = || {
            let stat = place.stat("first");
            stat["connections"] == round && stat["frontend"].is_null()
        };
        while !has_left() || disconnections() < expected {
            assert!(Instant::now() < deadline, "{}", daemon.log());
        }
    }
    assert_eq!(disconnections(), 2, "{}", daemon.log());
    let answer = place.request(&Request::Version);
    let Answer::Version { protocol, program } = answer else { panic!("{answer:?}") };
    assert_eq!((protocol, program.as_str()), (VERSION, env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_command_for_a_daemon_says_when_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, error) = run(&["stat"]);
    assert_eq!(status, Some(2), "{error}");
    let nobody = folder.path().join("control");
    let (status, error) = run(&["stat", "--control", nobody.to_str().unwrap()]);
    assert!(status == Some(1) && error.contains("is a daemon running"), "{error}");
}
