//! What is mapped, when, and what becomes of it.

use std::process::Output;
use std::time::Duration;

use vhost::vhost_user::VhostUserFrontend;

use crate::common::frontend::{
    BUFFERS, Driver, F_EVENT_IDX, OK, linked, new_memory, readable, writable,
};
use crate::common::shmem::{Manner, Regions, region_sizes};
use crate::setup::{Guest, M, Place, send};

/// The feature of a persistent memory device whose memory is a shared memory region.
const PMEM_F_SHMEM_REGION: u64 = 1;

#[test]
fn persistent_memory_is_a_region_of_all_extents_that_flushes() {
    let place = Place::new();
    let daemon = place.pmem("data", "");
    let mut guest = Guest::start(&daemon);
    assert_eq!(guest.sizes, [8 * M]);
    assert_eq!(guest.driver.features & PMEM_F_SHMEM_REGION, PMEM_F_SHMEM_REGION);
    let config = guest.driver.config(0, 16);
    assert_eq!((&config[..8], &config[8..]), (&[0; 8][..], &(8 * M).to_le_bytes()[..]));
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    for (offset, byte) in [(0, 1), (4 * M - 4096, 2), (4 * M, 3), (8 * M - 4096, 4)] {
        guest.regions.write(0, offset, &[byte; 4096]);
        assert_eq!(send(&mut guest.driver, 0), (0, 4));
        assert_eq!(place.in_file("data", offset, 4096), [byte; 4096], "{offset}");
    }
    // Something else is an error, and the device goes on.
    assert_eq!(send(&mut guest.driver, 7), (1, 4));
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    drop(guest);
    // A second guest finds what the first has left.
    let guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    assert_eq!(guest.regions.read(0, 4 * M, 4096), [3; 4096]);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn flushes_fail_while_a_part_of_the_memory_is_not_mapped() {
    let place = Place::new();
    let mut daemon = place.pmem("data", "");
    let mut guest = Guest::connect(&daemon, Manner::RefusesMaps);
    guest.driver.start_queue(0);
    daemon.wait_for_log("the frontend refuses");
    assert_eq!(send(&mut guest.driver, 0), (1, 4));
    daemon.wait_for_log("is not mapped, and what it stores there is lost");
    // The next start may fare better.
    guest.driver.stop_queue(0);
    guest.driver.clear_queue(0);
    guest.regions.set_manner(Manner::Obliging);
    guest.driver.start_queue(0);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    drop(guest);
    // A frontend that knows no regions has no memory for its guest at all.
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(send(&mut driver, 0), (1, 4));
}

#[test]
fn flushes_interrupt_a_guest_that_wants_it() {
    let place = Place::new();
    let daemon = place.pmem("data", "");
    for features in [0, F_EVENT_IDX] {
        let mut driver = Driver::connect_with(daemon.connect(), 1, features);
        for wanted in [true, false, true] {
            driver.want_interrupts(0, wanted || features == F_EVENT_IDX);
            let event = driver.used_index(0).wrapping_add(if wanted { 0 } else { 100 });
            driver.set_used_event(0, event);
            send(&mut driver, 0);
            let time = Duration::from_millis(if wanted { 10_000 } else { 30 });
            assert_eq!(driver.interrupted(0, time), wanted, "{features:#x}");
        }
    }
}

#[test]
fn what_a_frontend_left_unanswered_is_not_held_against_the_next() {
    let place = Place::new();
    let mut daemon = place.pmem("data", "");
    let mut silent = Guest::connect(&daemon, Manner::Silent);
    silent.driver.start_queue(0);
    silent.regions.wait_for_request(0);
    // Its connection ends, and the socket on which it was asked stays open.
    let Guest { driver, regions, .. } = silent;
    drop(driver);
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    regions.close();
    daemon.wait_for_log("the frontend does not answer");
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
}

#[test]
fn requests_that_are_none_leave_the_flush_queue_alive() {
    let place = Place::new();
    let daemon = place.pmem("data", "");
    let mut driver = Guest::start(&daemon).driver;
    let nowhere = 1 << 40;
    for chain in [
        vec![readable(BUFFERS, 4)],
        vec![writable(BUFFERS + 64, 4)],
        vec![readable(BUFFERS, 2), writable(BUFFERS + 64, 4)],
        vec![readable(BUFFERS, 4), writable(BUFFERS + 64, 2)],
        vec![readable(nowhere, 4), writable(BUFFERS + 64, 4)],
        vec![readable(BUFFERS, 4), writable(nowhere, 4)],
        vec![writable(BUFFERS + 64, 4), readable(BUFFERS, 4)],
    ] {
        driver.put(BUFFERS, &[0; 4]);
        assert!(driver.run_chain(0, &linked(0, chain)) <= 4);
    }
    // Many at once share a sync, and each is answered.
    driver.put(BUFFERS, &[0; 4]);
    driver.put(BUFFERS + 64, &[0xee; 4 * 32]);
    for index in 0..32 {
        let head = 2 * index;
        let answer = BUFFERS + 64 + 4 * u64::from(index);
        driver.put_chain(0, head, &linked(head, vec![readable(BUFFERS, 4), writable(answer, 4)]));
        driver.offer(0, head);
    }
    driver.kick(0);
    for index in 0..32 {
        assert_eq!(driver.wait_used(0), (2 * index, 4));
    }
    assert_eq!(driver.get(BUFFERS + 64, 4 * 32), [0; 4 * 32]);
    assert_eq!(send(&mut driver, 0), (0, 4));
}

#[test]
fn nothing_is_mapped_before_the_device_starts_and_all_again_when_it_starts_again() {
    let place = Place::new();
    let daemon = place.pmem("data", "");
    let mut guest = Guest::connect(&daemon, Manner::Obliging);
    // A message that is answered: whatever was to come before is there.
    guest.driver.config(0, 16);
    assert_eq!(guest.regions.requests(), 0);
    let all = [(0, 4 * M), (4 * M, 4 * M)];
    for _ in 0..3 {
        guest.driver.start_queue(0);
        guest.regions.wait_for(0, &all);
        guest.driver.stop_queue(0);
        guest.regions.reset();
        guest.driver.clear_queue(0);
    }
    // A pause keeps the mappings, and asking for them again does no harm.
    guest.driver.start_queue(0);
    guest.regions.wait_for(0, &all);
    guest.driver.stop_queue(0);
    let before = guest.regions.requests();
    guest.driver.start_queue(0);
    guest.regions.wait_for_request(before);
    guest.regions.wait_for(0, &all);
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    assert!(!daemon.log().contains("refuses"), "{}", daemon.log());
}

#[test]
fn a_disk_has_its_windows_beside_its_sectors() {
    let place = Place::new();
    let daemon = place.disk(&["data,reserve=32M", "log,read-only"], &[]);
    let mut guest = Guest::start(&daemon);
    // The third fills up to a power of two, as QEMU needs it, and stays empty.
    assert_eq!(guest.sizes, [32 * M, 2 * M, 30 * M]);
    guest.regions.wait_for(2, &[]);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    guest.regions.wait_for(1, &[(0, 2 * M)]);
    guest.regions.write(0, 6 * M, b"from the guest");
    assert_eq!(place.in_file("data", 6 * M, 14), b"from the guest");
    assert!(guest.regions.is_writable(0) && !guest.regions.is_writable(1));
    assert_eq!(guest.regions.read(1, 0, 4096), [0; 4096]);
    assert_eq!(guest.driver.write(0, 8, &[9; 4096]), OK);
    assert_eq!(guest.driver.read(0, 8, 4096), [9; 4096]);
}

#[test]
fn a_disk_goes_on_without_its_windows_and_says_why() {
    let place = Place::new();
    let mut daemon = place.disk(&["data"], &[]);
    let works = |driver: &mut Driver, byte: u8| {
        assert_eq!(driver.write(0, 0, &[byte; 4096]), OK);
        assert_eq!(driver.read(0, 0, 4096), [byte; 4096]);
    };
    // It knows no shared memory regions.
    works(&mut Driver::connect(daemon.connect(), 1), 1);
    daemon.wait_for_log("has handed over no socket for requests");
    // It asks, and hands over no socket.
    let stream = daemon.connect();
    let aside = stream.try_clone().unwrap();
    let mut driver = Driver::negotiate(stream, 1, u64::MAX, new_memory());
    assert_eq!(region_sizes(&aside), [8 * M]);
    driver.start_queue(0);
    works(&mut driver, 2);
    drop((driver, aside));
    // It hands one over, and does not ask.
    let mut driver = Driver::negotiate(daemon.connect(), 1, u64::MAX, new_memory());
    driver.frontend.set_backend_request_fd(&Regions::default().serve()).unwrap();
    driver.start_queue(0);
    works(&mut driver, 3);
    daemon.wait_for_log("does not know shared memory regions");
    drop(driver);
    for (manner, line) in [
        (
            Manner::RefusesMaps,
            "window 0, \"data\": the frontend refuses, at 4194304 bytes at offset 0x0",
        ),
        (Manner::Closes, "window 0, \"data\": the frontend does not answer"),
        (Manner::Silent, "a frontend has connected"),
    ] {
        let mut guest = Guest::connect(&daemon, manner);
        guest.driver.start_queue(0);
        guest.regions.wait_for_request(0);
        daemon.wait_for_log(line);
        works(&mut guest.driver, 4);
    }
    // One that left a request unanswered is no hindrance to the next.
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    works(&mut guest.driver, 5);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_frontend_that_read_only_memory_is_lent_to_cannot_write_it() {
    let place = Place::new();
    let first = place.pmem("data", ",read-only");
    // Several may read.
    let socket = place.socket("second");
    let second = place
        .serve("second", &[format!("--pmem=socket={},device=data,read-only", socket.display())]);
    for daemon in [&first, &second] {
        let guest = Guest::start(daemon);
        guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
        assert!(!guest.regions.is_writable(0));
    }
    let socket = place.socket("third");
    let third = format!("--pmem=socket={},device=data", socket.display());
    let Output { status, stderr, .. } = place.command(&[third]).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && said.contains("busy: held by vhost-user-btt"), "{said}");
}

#[test]
fn what_cannot_be_a_window_is_refused_at_the_start() {
    let place = Place::new();
    let socket = place.socket("x").display().to_string();
    for (arguments, complaint) in [
        (vec![format!("--pmem=socket={socket},device=nobody")], "unknown device \"nobody\""),
        (
            vec![format!("--pmem=socket={socket},device=data,namespace=disk")],
            "is in sector mode, not in dax mode",
        ),
        (
            vec![
                format!("--socket-path={socket}"),
                "-ndisk".into(),
                "--window=data,reserve=6M".into(),
            ],
            "a window of 6291456 bytes is not possible",
        ),
        (
            vec![
                format!("--socket-path={socket}"),
                "-ndisk".into(),
                "--window=data,reserve=9M".into(),
            ],
            "has to be a multiple of 2 MiB",
        ),
    ] {
        let Output { status, stderr, .. } = place.command(&arguments).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(complaint), "{arguments:?}: {said}");
    }
    for (arguments, complaint) in [
        (vec!["--window=data".to_owned()], "say where to listen"),
        (
            vec![
                format!("--disk=socket={socket},namespace=disk"),
                format!("--disk=socket={socket}2,namespace=other"),
                "--window=data".into(),
            ],
            "--window=data: say which disk",
        ),
        (
            vec![
                format!("--disk=socket={socket},namespace=disk"),
                "--window=data,disk=nobody".into(),
            ],
            "has namespace=nobody",
        ),
    ] {
        let Output { status, stderr, .. } = place.command(&arguments).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(complaint), "{arguments:?}: {said}");
    }
}
