//! Clients of the control socket that are slow, silent, many, or talk nonsense.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::daemon::PATIENCE;
use crate::common::usage::Usage;
use crate::setup::{M, Place, control_option, resize};

#[test]
fn nonsense_on_the_control_socket_is_answered_and_leaves_the_daemon_alone() {
    let place = Place::new();
    let daemon = place.disk(&["data"], &[control_option(&place)]);
    let ask = |text: &[u8]| {
        let mut stream = UnixStream::connect(place.socket("control")).unwrap();
        // The daemon may have answered and closed the connection before it has read everything.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert_eq!(ask(b""), "");
    for text in [&b"\n"[..], b"{}\n", b"resize\n", &[0xff; 10], b"{\"command\":\"format\"}\n"] {
        let answer = ask(text);
        assert!(answer.contains("not a request"), "{answer}");
    }
    let endless = vec![b' '; 100_000];
    let answer = ask(&endless);
    // A reset connection may lose the answer.
    assert!(answer.is_empty() || answer.contains("longer than 65536 bytes"), "{answer}");
    resize(&place, "data", 4 * M, false).unwrap();
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_connection_carries_several_requests() {
    let place = Place::new();
    let _daemon = place.disk(&["data,reserve=32M"], &[control_option(&place)]);
    let mut stream = UnixStream::connect(place.socket("control")).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    for size in [4 * M, 8 * M] {
        let request =
            format!("{{\"command\":\"resize-device\",\"device\":\"data\",\"size\":{size}}}\n");
        stream.write_all(request.as_bytes()).unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert!(answer.contains(&format!("\"size\":{size}")), "{answer}");
    }
}

#[test]
fn slow_and_silent_clients_hold_up_neither_others_nor_the_end() {
    let place = Place::new();
    let daemon = place.disk(&["data,reserve=32M"], &[control_option(&place)]);
    let connect = || UnixStream::connect(place.socket("control")).unwrap();
    let mut slow = connect();
    slow.write_all(b"{\"command\"").unwrap();
    let silent: Vec<_> = (0..100).map(|_| connect()).collect();
    resize(&place, "data", 4 * M, false).unwrap();
    // The clients that were silent for the longest time have made room; their threads end soon.
    assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let usage = Usage::of(daemon.pid());
        if usage.threads < 50 {
            break;
        }
        assert!(Instant::now() < deadline, "{usage:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    assert!(!log.contains("not completed in time"), "{log}");
}

#[test]
fn a_line_that_does_not_come_to_its_end_is_refused() {
    let place = Place::new();
    let _daemon = place.disk(&["data"], &[control_option(&place)]);
    let mut stream = UnixStream::connect(place.socket("control")).unwrap();
    stream.write_all(b"{\"command\"").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("took longer than 5 seconds"), "{answer}");
}
