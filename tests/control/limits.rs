//! Rate limits over the real daemon. Operations are counted against a bucket that is not refilled before the test
//! is over; how exactly a rate is kept over time is measured by `a_rate_is_kept`, which is not run by default.

use std::time::{Duration, Instant};

use crate::common::frontend::{
    BUFFERS, Driver, OK, T_FLUSH, T_OUT, linked, readable, request_header, writable,
};
use crate::setup::{Place, pattern};

/// Offers `count` writes of a sector each on queue 0.
fn offer_writes(driver: &mut Driver, count: u16) {
    offer_writes_from(driver, count, BUFFERS);
}

/// The same, with buffers at `at`.
fn offer_writes_from(driver: &mut Driver, count: u16, at: u64) {
    let (header, data, status) = (at, at + 0x1000, at + 0x800);
    driver.put(header, &request_header(T_OUT, 0));
    driver.put(data, &pattern(1));
    for number in 0..count {
        let head = number * 3;
        let chain = vec![readable(header, 16), readable(data, 4096), writable(status, 1)];
        driver.put_chain(0, head, &linked(head, chain));
        driver.offer(0, head);
    }
    driver.kick(0);
}

/// Waits for `count` completions.
fn wait_for(driver: &mut Driver, count: u16) {
    for _ in 0..count {
        driver.wait_used(0);
    }
}

fn writes(place: &Place, name: &str) -> u64 {
    place.stat(name)["queues"][0]["requests"]["write"]["count"].as_u64().unwrap()
}

const HOUR: &str = "3600000";

#[test]
fn a_disk_takes_what_its_bucket_holds_and_goes_on_when_the_limit_is_lifted() {
    let place = Place::new("128M", &["first", "second"]);
    let limit = format!("--rate-limit=ops_size=5,ops_refill_time={HOUR}");
    let _daemon = place.serve(&["first", "second"], &[&limit]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    offer_writes(&mut driver, 12);
    wait_for(&mut driver, 5);
    // Its neighbour has a bucket of its own.
    let mut neighbour = Driver::connect(place.connect("second"), 1);
    for number in 0..5 {
        assert_eq!(neighbour.write(0, number * 8, &pattern(number)), OK);
    }
    assert_eq!((writes(&place, "first"), writes(&place, "second")), (5, 5));
    // A limit on bytes lets one more be taken than it has tokens for.
    let limit = format!("bw_size=6K,bw_refill_time={HOUR}");
    place.ask(&["rate", "first", "--limit", &limit]).unwrap();
    wait_for(&mut driver, 2);
    assert_eq!(writes(&place, "first"), 7);
    assert_eq!(place.stat("first")["limits"]["own"]["bw_size"], 6144);
    place.ask(&["rate", "first"]).unwrap();
    wait_for(&mut driver, 5);
    let stat = place.stat("first");
    assert!(stat["queues"][0]["throttles"].as_u64().unwrap() >= 1, "{stat}");
    assert!(stat["queues"][0]["throttled"].as_u64().unwrap() > 0, "{stat}");
    assert_eq!(stat["limits"], serde_json::Value::Null);
}

#[test]
fn disks_of_a_group_share_a_bucket() {
    let place = Place::new("128M", &["first", "second"]);
    let limit = format!("--rate-limit=group=guests,ops_size=6,ops_refill_time={HOUR}");
    let disks = ["first,rate-group=guests", "second,rate-group=guests"];
    let _daemon = place.serve(&disks, &[&limit]);
    let mut first = Driver::connect(place.connect("first"), 1);
    let mut second = Driver::connect(place.connect("second"), 1);
    for number in 0..4 {
        assert_eq!(first.write(0, number * 8, &pattern(number)), OK);
    }
    offer_writes(&mut second, 4);
    wait_for(&mut second, 2);
    assert_eq!((writes(&place, "first"), writes(&place, "second")), (4, 2));
    assert_eq!(place.stat("second")["limits"]["group-name"], "guests");
    let limit = format!("group=guests,ops_size=100,ops_refill_time={HOUR}");
    place.ask(&["rate", "--limit", &limit]).unwrap();
    wait_for(&mut second, 2);
    let error = place.ask(&["rate", "--limit=group=others"]).unwrap_err();
    assert!(error.contains("no group"), "{error}");
}

#[test]
fn flushes_get_through_beside_a_queue_that_takes_all_of_a_limit() {
    let place = Place::new("64M", &["first"]);
    let limit = "--rate-limit=ops_size=1,ops_refill_time=500";
    let _daemon = place.serve(&["first,queues=2"], &[limit]);
    let mut driver = Driver::connect(place.connect("first"), 2);
    // They take half a minute with the limit.
    offer_writes_from(&mut driver, 60, BUFFERS + 0x10_0000);
    for _ in 0..3 {
        assert_eq!(driver.request(1, T_FLUSH, 0, &[], 0).0, OK);
    }
    let done = writes(&place, "first");
    assert!(done < 60, "the flushes have waited for all writes");
    // A limit on bytes does not lend its debt to flushes for ever either.
    place.ask(&["rate", "first", "--limit=bw_size=1K,bw_refill_time=500"]).unwrap();
    assert_eq!(driver.request(1, T_FLUSH, 0, &[], 0).0, OK);
    assert!(writes(&place, "first") < 60, "the flush has waited for all writes");
    place.ask(&["rate", "first"]).unwrap();
    wait_for(&mut driver, 60);
}

#[test]
fn a_limited_ring_can_be_stopped_and_the_daemon_ends() {
    let place = Place::new("128M", &["first"]);
    let limit = format!("--rate-limit=ops_size=1,ops_refill_time={HOUR}");
    let daemon = place.serve(&["first"], &[&limit]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    offer_writes(&mut driver, 3);
    driver.wait_used(0);
    // What was not taken is still in the ring.
    assert_eq!(driver.stop_queue(0), 1);
    driver.start_queue(0);
    assert!(daemon.terminate().0.success());
}

/// Prints how far the rate that a guest gets over ten seconds is from its limit.
#[test]
#[ignore = "measures for twenty seconds"]
fn a_rate_is_kept() {
    let place = Place::new("128M", &["first"]);
    let _daemon = place.serve(&["first"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 1);
    for (limit, rate) in [
        ("ops_size=200,ops_refill_time=100", 2000.0),
        ("bw_size=1M,bw_refill_time=100", 10.0 * 256.0),
    ] {
        place.ask(&["rate", "first", "--limit", limit]).unwrap();
        // What the bucket holds at first.
        let begun = Instant::now();
        let mut done = 0;
        let mut counted_from = None;
        while begun.elapsed() < Duration::from_secs(11) {
            offer_writes(&mut driver, 64);
            wait_for(&mut driver, 64);
            done += 64;
            if counted_from.is_none() && begun.elapsed() > Duration::from_secs(1) {
                counted_from = Some((Instant::now(), done));
            }
        }
        let (since, before) = counted_from.unwrap();
        let measured = f64::from(done - before) / since.elapsed().as_secs_f64();
        let deviation = (measured / rate - 1.0) * 100.0;
        println!("{limit}: {measured:.1} of {rate} requests/s, {deviation:+.2} %");
        assert!(deviation.abs() < 5.0);
    }
}
