//! The power fails while a guest flushes its persistent memory, and while that grows.

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{BUFFERS, linked, readable, writable};
use crate::setup::{Guest, M, Place, control_option, resize, send, text};

/// More fences than a flush and a growth take.
const MOST_FENCES: u64 = 200;

/// Lets the power fail after so many fences, of which the first is the guest's flush: what was flushed is there,
/// and the device has its old size or its new one. Whether all was done before.
fn all_is_done_within(fences: u64) -> bool {
    let place = Place::new();
    let socket = format!("--pmem=socket={},device=data", place.socket("data").display());
    let failure = format!("--power-fail=after-fences={fences},seed={fences}");
    let mut daemon = place.serve("data", &[socket, failure, control_option(&place)]);
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    guest.regions.write(0, 8 * M - 4096, &[0x5a; 4096]);
    if fences == 0 {
        let flush = linked(0, vec![readable(BUFFERS, 4), writable(BUFFERS + 64, 4)]);
        guest.driver.put_chain(0, 0, &flush);
        guest.driver.offer(0, 0);
        guest.driver.kick(0);
    } else {
        assert_eq!(send(&mut guest.driver, 0), (0, 4));
    }
    let grown = fences > 0 && resize(&place, "data", 12 * M, true).is_ok();
    if !grown {
        daemon.wait();
    }
    drop(daemon);
    let size = place.size_of("data");
    assert!(if grown { size == 12 * M } else { [8 * M, 12 * M].contains(&size) }, "{size}");
    nvdimmctl_ok(&["dax", "check", text(&place.file)]);
    if fences > 0 {
        assert_eq!(place.in_file("data", 8 * M - 4096, 4096), [0x5a; 4096]);
    }
    grown
}

#[test]
fn growth_that_is_cut_off_is_done_or_not_done_and_what_was_flushed_is_there() {
    let needed = (0..MOST_FENCES).find(|fences| all_is_done_within(*fences));
    let needed = needed.expect("a growth within so many fences");
    // The flush, the journal entry and what it says at the least.
    assert!(needed > 3, "{needed} fences");
}
