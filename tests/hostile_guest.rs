//! A guest that does what no driver does: it hurts its own requests, and nothing else.

mod common;

use common::daemon::{Daemon, make_namespace};
use common::frontend::*;
use std::time::Duration;
use tempfile::TempDir;

fn disk() -> (TempDir, Daemon, Driver) {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&file, &["--num-queues", "2"]);
    let driver = Driver::connect(daemon.connect(), 2);
    (folder, daemon, driver)
}

/// The queue lives on: it writes and reads.
fn assert_alive(driver: &mut Driver, queue: usize) {
    let data = vec![0x5a; 4096];
    assert_eq!(driver.write(queue, 8, &data), OK);
    assert!(driver.read(queue, 8, 4096) == data);
}

#[test]
fn sectors_out_of_range_are_refused() {
    let (_folder, mut daemon, mut driver) = disk();
    let end = u64::from_le_bytes(driver.config(0, 8).try_into().unwrap());
    for (sector, length) in
        [(end, 512), (end - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 4096)]
    {
        assert_eq!(driver.write(0, sector, &vec![1; length]), IOERR);
        assert_eq!(driver.request(0, T_IN, sector, &[], length).0, IOERR);
    }
    assert_alive(&mut driver, 0);
    daemon.wait_for_log("beyond the end");
}

#[test]
fn data_that_are_not_whole_sectors_are_refused() {
    let (_folder, _daemon, mut driver) = disk();
    for length in [1, 511, 513, 4097] {
        assert_eq!(driver.write(0, 0, &vec![1; length]), IOERR);
        assert_eq!(driver.request(0, T_IN, 0, &[], length).0, IOERR);
    }
    // Nothing at all is as good as a whole number.
    assert_eq!(driver.write(0, 0, &[]), OK);
    assert_alive(&mut driver, 0);
}

#[test]
fn buffers_outside_memory_are_refused() {
    let (_folder, _daemon, mut driver) = disk();
    let status = BUFFERS + 0x800;
    for address in [0x900_0000, 0x7f_f800, u64::MAX - 100, u64::MAX, 1 << 63] {
        for (kind, buffer) in [(T_OUT, readable(address, 4096)), (T_IN, writable(address, 4096))] {
            driver.put(BUFFERS, &request_header(kind, 0));
            driver.put(status, &[0xee]);
            let chain = linked(0, vec![readable(BUFFERS, 16), buffer, writable(status, 1)]);
            assert_eq!(driver.run_chain(0, &chain), 1);
            assert_eq!(driver.get(status, 1), [IOERR], "{address:#x} {kind}");
        }
    }
    // A header outside memory.
    let chain = linked(0, vec![readable(1 << 40, 16), writable(status, 1)]);
    driver.put(status, &[0xee]);
    assert_eq!(driver.run_chain(0, &chain), 1);
    assert_eq!(driver.get(status, 1), [IOERR]);
    // Nowhere to put the status byte.
    driver.put(BUFFERS, &request_header(T_FLUSH, 0));
    let chain = linked(0, vec![readable(BUFFERS, 16), writable(1 << 40, 1)]);
    assert_eq!(driver.run_chain(0, &chain), 0);
    assert_alive(&mut driver, 0);
}

#[test]
fn malformed_chains_are_completed_with_an_error() {
    let (_folder, _daemon, mut driver) = disk();
    let status = BUFFERS + 0x800;
    driver.put(BUFFERS, &request_header(T_FLUSH, 0));
    let cases = [
        ("no status", vec![readable(BUFFERS, 16)], None),
        ("status of no bytes", vec![readable(BUFFERS, 16), writable(status, 0)], None),
        ("no header", vec![writable(status, 1)], Some(IOERR)),
        ("short header", vec![readable(BUFFERS, 15), writable(status, 1)], Some(IOERR)),
        (
            "readable behind writable",
            vec![readable(BUFFERS, 16), writable(status, 1), readable(BUFFERS, 16)],
            Some(IOERR),
        ),
    ];
    for (name, chain, expected) in cases {
        driver.put(status, &[0xee]);
        let length = driver.run_chain(0, &linked(0, chain));
        assert_eq!(length, u32::from(expected.is_some()), "{name}");
        assert_eq!(driver.get(status, 1), [expected.unwrap_or(0xee)], "{name}");
        assert_alive(&mut driver, 0);
    }
}

#[test]
fn loops_of_descriptors_end() {
    let (_folder, mut daemon, mut driver) = disk();
    let status = BUFFERS + 0x800;
    driver.put(BUFFERS, &request_header(T_OUT, 0));
    let next = |mut descriptor: Descriptor, index| {
        descriptor.flags |= NEXT;
        descriptor.next = index;
        descriptor
    };
    // Onto itself, in a ring of three, and out of the table.
    driver.run_chain(0, &[next(readable(BUFFERS, 16), 0)]);
    driver.put(status, &[0xee]);
    let ring = [
        next(readable(BUFFERS, 16), 1),
        next(readable(BUFFERS, 512), 2),
        next(readable(BUFFERS, 512), 1),
    ];
    driver.run_chain(0, &ring);
    let with_status = [
        next(readable(BUFFERS, 16), 1),
        next(writable(status, 1), 2),
        next(writable(status, 1), 1),
    ];
    assert_eq!(driver.run_chain(0, &with_status), 1);
    assert_eq!(driver.get(status, 1), [IOERR]);
    driver.run_chain(0, &[next(readable(BUFFERS, 16), QUEUE_SIZE)]);
    driver.run_chain(0, &[next(readable(BUFFERS, 16), u16::MAX)]);
    assert_alive(&mut driver, 0);
    daemon.wait_for_log("does not end");
}

#[test]
fn indirect_tables_that_are_none_are_refused() {
    let (_folder, _daemon, mut driver) = disk();
    let table = BUFFERS + 0x20_0000;
    let indirect = |address, length| Descriptor { address, length, flags: INDIRECT, next: 0 };
    // No table, a part of one, one outside memory, and one inside another.
    driver.put_descriptor(table, 0, indirect(table, 64));
    for bad in [
        indirect(table, 0),
        indirect(table, 17),
        indirect(1 << 40, 64),
        indirect(u64::MAX - 8, 16),
        indirect(table, 64),
        indirect(table, 0xffff_fff0),
    ] {
        assert_eq!(driver.run_chain(0, &[bad]), 0, "{bad:?}");
    }
    assert_alive(&mut driver, 0);
}

#[test]
fn a_chain_of_more_than_4_gib_is_refused() {
    let (_folder, _daemon, mut driver) = disk();
    driver.put(BUFFERS, &request_header(T_OUT, 0));
    let mut chain = vec![readable(BUFFERS, 16)];
    chain.extend([readable(BUFFERS, u32::MAX); 3]);
    chain.push(writable(BUFFERS + 0x800, 1));
    driver.run_chain(0, &linked(0, chain));
    assert_alive(&mut driver, 0);
}

#[test]
fn heads_outside_the_table_are_passed_over() {
    let (_folder, _daemon, mut driver) = disk();
    for head in [QUEUE_SIZE, u16::MAX] {
        driver.offer(0, head);
        driver.kick(0);
    }
    assert_alive(&mut driver, 1);
    // The ring goes on with the next head that is one.
    assert_alive(&mut driver, 0);
}

#[test]
fn a_wild_available_index_stops_its_queue_until_it_is_set_up_again() {
    let (_folder, mut daemon, mut driver) = disk();
    assert_alive(&mut driver, 0);
    driver.set_avail_index(0, 0x8000);
    driver.kick(0);
    daemon.wait_for_log("ring:");
    assert_alive(&mut driver, 1);
    driver.stop_queue(0);
    driver.clear_queue(0);
    driver.start_queue(0);
    assert_alive(&mut driver, 0);
}

#[test]
fn a_flood_of_bad_requests_does_not_flood_the_log() {
    let (_folder, daemon, mut driver) = disk();
    for _ in 0..500 {
        assert_eq!(driver.write(0, u64::MAX, &[0; 512]), IOERR);
    }
    let lines = daemon.log().lines().count();
    assert!(lines < 40, "{lines} lines");
}

/// A driver that uses neither event indexes nor indirect descriptors, and one that uses all.
#[test]
fn interrupts_come_when_they_are_asked_for() {
    let (_folder, daemon, driver) = disk();
    drop(driver);
    for features in [0, F_EVENT_IDX] {
        let mut driver = Driver::connect_with(daemon.connect(), 1, features);
        let short = Duration::from_millis(30);
        for round in 0..5u16 {
            driver.set_used_event(0, driver.used_index(0));
            assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
            assert!(driver.interrupted(0, Duration::from_secs(10)), "round {round}");
        }
        if features & F_EVENT_IDX != 0 {
            // An interrupt that nobody waits for does not come.
            driver.set_used_event(0, driver.used_index(0).wrapping_add(100));
            assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
            assert!(!driver.interrupted(0, short));
            assert_eq!(driver.avail_event(0), 6, "kicks are wanted again after each round");
        } else {
            driver.want_interrupts(0, false);
            assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
            assert!(!driver.interrupted(0, short));
        }
    }
}
