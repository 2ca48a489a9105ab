//! Frontends that begin and do not go on.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::common::raw::*;
use crate::setup::House;

#[test]
fn half_a_message_ends_the_connection() {
    let house = House::new();
    for length in [1, 11, 12, 19] {
        let raw = Raw::connect(&house.victim());
        raw.negotiate();
        let message = [halves(&[SET_FEATURES, VERSION, 8]), words(&[0])].concat();
        assert!(raw.send_bytes(&message[..length], &[]));
        raw.wait_until_closed();
    }
    house.stands();
}

#[test]
fn a_frontend_that_waits_is_told_of_and_served_after_a_silent_one() {
    let mut house = House::new();
    let silent = UnixStream::connect(house.victim()).unwrap();
    let waiting = Raw::connect(&house.victim());
    house.daemon.wait_for_log("another frontend waits");
    assert!(waiting.ask_number(GET_FEATURES) != 0);
    drop((silent, waiting));
    house.stands();
}

/// Connects without waiting for a place in the queue of the socket.
fn connect_at_once(path: &Path) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
    let socket = socket.unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn a_crowd_that_connects_at_once_is_not_turned_away() {
    let house = House::new();
    let pid = nix::unistd::Pid::from_raw(house.daemon.pid().cast_signed());
    // The daemon accepts nobody meanwhile.
    kill(pid, Signal::SIGSTOP).unwrap();
    let crowd = |name| {
        let socket = house.socket(name);
        std::iter::repeat_with(move || connect_at_once(&socket)).take(300)
    };
    let crowd: Vec<OwnedFd> = crowd("control").chain(crowd("victim")).collect();
    kill(pid, Signal::SIGCONT).unwrap();
    house.control_answers();
    drop(crowd);
    house.stands();
}

#[test]
fn the_request_that_accepts_answers_is_answered_itself() {
    let house = House::new();
    let raw = Raw::connect(&house.victim());
    raw.send(SET_OWNER, VERSION, &[], &[]);
    let features = raw.ask_number(GET_PROTOCOL_FEATURES);
    assert!(raw.call(SET_PROTOCOL_FEATURES, &words(&[features]), &[]));
    drop(raw);
    house.stands();
}

#[test]
fn bytes_that_are_no_message_end_the_connection() {
    let house = House::new();
    for header in [[1, 0, 0], [1, 2, 8], [1, VERSION, 5000], [1, VERSION, u32::MAX]] {
        let raw = Raw::connect(&house.victim());
        assert!(raw.send_bytes(&halves(&header), &[]));
        raw.wait_until_closed();
    }
    house.stands();
}

#[test]
fn a_frontend_that_reads_no_answers_ends_its_connection() {
    let house = House::new();
    let raw = Raw::connect(&house.victim());
    while raw.send(GET_FEATURES, VERSION, &[], &[]) {}
    house.stands();
}

#[test]
fn a_flood_of_refused_requests_does_not_flood_the_log() {
    let house = House::new();
    for _ in 0..20 {
        let raw = Raw::connect(&house.victim());
        raw.negotiate();
        for request in 0..200 {
            raw.send(if request % 2 == 0 { 9999 } else { SET_VRING_NUM }, VERSION, &[0; 8], &[]);
        }
        assert!(raw.ask_number(GET_QUEUE_NUM) > 0);
    }
    let lines = house.daemon.log().lines().count();
    assert!(lines < 150, "{lines} lines: {}", house.daemon.log());
    house.stands();
}
