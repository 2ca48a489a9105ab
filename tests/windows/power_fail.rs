//! The power fails while a guest flushes its persistent memory, and while that grows.

use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, PATIENCE, nvdimmctl_ok};
use crate::common::frontend::{BUFFERS, linked, readable, writable};
use crate::setup::{Guest, M, Place, control_option, resize, text};

/// More fences than opening, a flush and a growth take.
const MOST_FENCES: u64 = 200;

/// How far a daemon came before the power failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reached {
    Opening,
    Serving,
    /// The guest's flush has been answered.
    Flushed,
    /// The growth has been answered.
    Grown,
}

/// Lets the power fail after so many fences: what was flushed is there, and the device has its old size or its new one.
fn fail_after(fences: u64) -> Reached {
    let place = Place::new();
    let reached = serve_until_failure(&place, fences);
    let size = place.size_of("data");
    match reached {
        Reached::Opening | Reached::Serving => assert_eq!(size, 8 * M),
        Reached::Flushed => assert!([8 * M, 12 * M].contains(&size), "{size}"),
        Reached::Grown => assert_eq!(size, 12 * M),
    }
    nvdimmctl_ok(&["dax", "check", text(&place.file)]);
    if reached >= Reached::Flushed {
        assert_eq!(place.in_file("data", 8 * M - 4096, 4096), [0x5a; 4096]);
    }
    reached
}

fn serve_until_failure(place: &Place, fences: u64) -> Reached {
    let socket = format!("--pmem=socket={},device=data", place.socket("data").display());
    let failure = format!("after-fences={fences},seed={fences}");
    let mut daemon = place.begin_failing("data", &failure, &[socket, control_option(place)]);
    if !daemon.logs_or_ends("serving") || !daemon.logs_or_ends("listening for administrators") {
        return Reached::Opening;
    }
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    guest.regions.write(0, 8 * M - 4096, &[0x5a; 4096]);
    if !flushes_or_ends(&mut guest, &mut daemon) {
        return Reached::Serving;
    }
    if resize(place, "data", 12 * M, true).is_err() {
        // Nothing but the power failure may refuse it.
        daemon.wait();
        return Reached::Flushed;
    }
    Reached::Grown
}

/// Has the guest flush; whether that was answered before the power failed.
fn flushes_or_ends(guest: &mut Guest, daemon: &mut Daemon) -> bool {
    let flush = linked(0, vec![readable(BUFFERS, 4), writable(BUFFERS + 64, 4)]);
    guest.driver.put(BUFFERS, &0u32.to_le_bytes());
    guest.driver.put(BUFFERS + 64, &[0xee; 4]);
    guest.driver.put_chain(0, 0, &flush);
    guest.driver.offer(0, 0);
    guest.driver.kick(0);
    let deadline = Instant::now() + PATIENCE;
    while guest.driver.used_index(0) == 0 {
        if daemon.has_ended() {
            return false;
        }
        assert!(Instant::now() < deadline, "no answer to a flush: {}", daemon.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(guest.driver.get(BUFFERS + 64, 4), [0; 4]);
    true
}

#[test]
fn growth_that_is_cut_off_is_done_or_not_done_and_what_was_flushed_is_there() {
    let mut reached = Vec::new();
    while reached.last() != Some(&Reached::Grown) {
        assert!((reached.len() as u64) < MOST_FENCES, "no growth: {reached:?}");
        reached.push(fail_after(reached.len() as u64));
    }
    // It failed everywhere: while the namespace was opened, in the flush, and in the growth's journal entry.
    assert!(reached.is_sorted(), "{reached:?}");
    for step in [Reached::Opening, Reached::Serving, Reached::Flushed] {
        assert!(reached.contains(&step), "{step:?} in {reached:?}");
    }
}
