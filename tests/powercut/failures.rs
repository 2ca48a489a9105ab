//! The power of an image fails: what was flushed is there, and of the rest a part.

use std::collections::HashSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::daemon::Daemon;
use crate::common::frontend::{
    BUFFERS, T_FLUSH, T_OUT, linked, readable, request_header, writable,
};
use crate::setup::{Guest, Place, text};

/// Exit status after a power failure.
const FAILED: i32 = 3;

/// Writes ones, flushes them, and writes twos over them and beside them.
fn work(guest: &mut Guest) {
    guest.write(0, &[1; 8 * 512]);
    guest.flush();
    guest.write(4, &[2; 8 * 512]);
}

/// Sends a request in which the power fails.
fn send_last(guest: &mut Guest, daemon: &mut Daemon, kind: u32) {
    guest.driver.put(BUFFERS, &request_header(kind, 0));
    let chain = linked(
        0,
        vec![readable(BUFFERS, 16), readable(BUFFERS + 512, 512), writable(BUFFERS + 64, 1)],
    );
    let chain = if kind == T_FLUSH {
        linked(0, vec![readable(BUFFERS, 16), writable(BUFFERS + 64, 1)])
    } else {
        chain
    };
    guest.driver.put_chain(0, 0, &chain);
    guest.driver.offer(0, 0);
    guest.driver.kick(0);
    assert_eq!(daemon.wait().code(), Some(FAILED), "{}", daemon.log());
    assert!(daemon.log().contains("power failure: after-writes="), "{}", daemon.log());
}

fn assert_legal(disk: &[u8]) {
    let sectors: Vec<&[u8]> = disk.chunks(512).collect();
    for (number, sector) in sectors.iter().enumerate() {
        let allowed: &[u8] = match number {
            0..4 => &[1],
            4..8 => &[1, 2],
            8..12 => &[0, 2],
            _ => &[0],
        };
        assert!(allowed.contains(&sector[0]), "sector {number} has {}", sector[0]);
        assert!(sector.iter().all(|byte| *byte == sector[0]), "sector {number} is torn");
    }
}

fn fail_on_signal(seed: u64, more: &str) -> Vec<u8> {
    let place = Place::new();
    let (mut daemon, mut guest) = place.serve(&["--fail", &format!("seed={seed}{more}")]);
    work(&mut guest);
    // What the guest reads is what it wrote.
    assert_eq!(guest.driver.read(0, 4, 512), [2; 512]);
    kill(Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGUSR1).unwrap();
    assert_eq!(daemon.wait().code(), Some(FAILED), "{}", daemon.log());
    place.disk()
}

#[test]
fn what_was_flushed_survives_and_of_the_rest_the_seed_says_what() {
    let disks: HashSet<Vec<u8>> = (0..24).map(|seed| fail_on_signal(seed, "")).collect();
    for disk in &disks {
        assert_legal(disk);
    }
    assert!(disks.len() > 6, "{} different disks", disks.len());
    assert_eq!(fail_on_signal(5, ""), fail_on_signal(5, ""));
}

#[test]
fn a_model_says_what_is_left() {
    let sector =
        |model: &str, number: usize| fail_on_signal(7, &format!(",model={model}"))[number * 512];
    assert_eq!((sector("prefix", 4), sector("prefix", 11)), (2, 2));
    assert_eq!((sector("keep-0", 4), sector("keep-0", 11)), (1, 0));
    assert_eq!((sector("drop-1", 4), sector("drop-1", 11)), (1, 0));
    assert_eq!((sector("keep-1", 4), sector("keep-1", 11)), (2, 2));
}

#[test]
fn what_was_flushed_is_lost_where_flushes_are() {
    let is_lost = |seed| fail_on_signal(seed, ",lose-flushes")[0] == 0;
    assert!((0..16).any(is_lost), "no flushed sector was lost");
}

#[test]
fn the_power_fails_after_writes_after_flushes_and_at_a_mark() {
    for (moment, kind) in [("after-writes=2", T_OUT), ("after-flushes=1", T_FLUSH)] {
        let place = Place::new();
        let (mut daemon, mut guest) = place.serve(&["--fail", &format!("{moment},seed=1")]);
        guest.write(0, &[1; 512]);
        guest.flush();
        guest.write(1, &[2; 512]);
        send_last(&mut guest, &mut daemon, kind);
        assert_eq!(place.disk()[511], if kind == T_FLUSH { 1 } else { place.disk()[0] });
    }
    let place = Place::new();
    let control = place.path("control");
    let arguments = ["--fail", "at-mark=now,seed=1", "--control", text(&control)];
    let (mut daemon, mut guest) = place.serve(&arguments);
    work(&mut guest);
    place.mark("not yet");
    let mut command = crate::setup::powercut();
    command.args(["mark", "--control", text(&control), "now"]);
    assert!(!command.output().unwrap().status.success(), "nobody answers any more");
    assert_eq!(daemon.wait().code(), Some(FAILED));
    assert_legal(&place.disk());
}

#[test]
fn nothing_is_lost_without_a_write_cache_or_in_an_orderly_end() {
    for cache in ["none", "volatile"] {
        let place = Place::new();
        let (mut daemon, mut guest) = place.serve(&["--write-cache", cache, "--fail", "seed=3"]);
        guest.write(3, &[7; 1024]);
        drop(guest);
        if cache == "none" {
            kill(Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGUSR1).unwrap();
            assert_eq!(daemon.wait().code(), Some(FAILED));
        } else {
            assert!(daemon.terminate().0.success());
        }
        assert!(place.disk()[3 * 512..5 * 512].iter().all(|byte| *byte == 7), "{cache}");
    }
}
