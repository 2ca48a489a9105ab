//! A region that grows, and the next process after a tool that was killed while it did.

use super::*;
use crate::dax::check::check;
use crate::pmem::simulated::{
    Contents, CrashModel, Effort, Event, Random, Recorder, trace_of_another,
};

/// A region of `pages` pages with a device that has all of them, on a medium with room for `room` more.
fn full(pages: u64, room: u64) -> Contents {
    let small = medium(pages);
    open(&small).create_device(&device("full", pages)).unwrap();
    small.snapshot().grown(room * PAGE)
}

#[test]
fn a_region_has_the_pages_that_its_namespace_got_and_keeps_its_devices() {
    let medium = Arc::new(Simulated::of(full(8, 24)));
    let before = open(&medium).devices();
    let growth = Growth { old_size: 10 * PAGE, new_size: 34 * PAGE };
    assert_eq!(grow(&medium), Ok(growth));
    let region = open(&medium);
    assert_eq!(region.devices(), before);
    assert_eq!(region.info().free, 24 * PAGE);
    region.create_device(&device("new", 24)).unwrap();
    assert!(check(&medium).is_clean());
    assert_eq!(grow(&medium), Ok(Growth { old_size: 34 * PAGE, ..growth }));
}

#[test]
fn whichever_superblock_is_damaged_a_region_grows() {
    for damaged in [0, 4096] {
        let medium = Arc::new(Simulated::of(full(8, 24)));
        medium.store_u64(damaged + 64, 5).unwrap();
        assert_eq!(grow(&medium).unwrap().new_size, 34 * PAGE);
        assert!(check(&medium).is_clean());
    }
}

/// Kills a tool everywhere that makes the region grow; the next one opens the region, and gives a device what is free. `opening`
/// is what becomes of what the opening does to the medium. Returns in how many cases there was space.
fn kill_everywhere(opening: impl Fn(Vec<Event>) -> Vec<Event>) -> usize {
    let base = full(8, 24);
    let trace = trace_of_another(&base, |medium| assert!(grow(&medium).is_ok()));
    let effort = Effort { most: 100, random: 4, lines: 64 };
    let (mut random, mut grown) = (Random::new(1), 0);
    for killed in 0..=trace.len() {
        let mut left = CrashModel::after(&base, &trace[..killed]);
        let recorder = Arc::new(Recorder::new(Simulated::of(left.seen())));
        let region = Region::open(Arc::clone(&recorder), false).unwrap();
        let mut events = opening(recorder.take_trace());
        let has_grown = region.create_device(&device("new", 24)).is_ok();
        grown += usize::from(has_grown);
        events.extend(recorder.take_trace());
        left.replay(&events);
        left.images(&effort, &mut random, &mut |image| {
            let medium = Arc::new(Simulated::of(image));
            let reopened = Region::open(Arc::clone(&medium), false);
            let devices = reopened.map(|region| region.devices());
            assert_eq!(devices, Ok(region.devices()), "killed after event {killed}");
            let is_superblock = |finding: &check::Finding| finding.offset < 2 * PAGE;
            assert!(
                check(&medium).findings.iter().all(is_superblock),
                "killed after event {killed}"
            );
        });
    }
    grown
}

#[test]
fn a_region_that_has_grown_as_it_seems_has_after_a_power_failure() {
    // From the first store to the superblock on: as long as it is torn, the backup counts, which has grown.
    assert_eq!(kill_everywhere(|events| events), 5);
}

#[test]
#[should_panic(expected = "killed after event")]
fn whoever_trusts_a_superblock_that_a_killed_tool_has_stored_is_noticed() {
    // All but the first fence, and what is flushed before it.
    kill_everywhere(|mut events| {
        let fence = events.iter().position(|event| matches!(event, Event::Fence { .. }));
        events.split_off(fence.map_or(0, |fence| fence + 1))
    });
}
