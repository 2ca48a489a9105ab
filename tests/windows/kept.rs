//! A keeper holds the connection of a frontend with windows while the process that maps them is replaced.

use nix::sys::signal::{Signal, kill};

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{OK, T_FLUSH};
use crate::common::shmem::Manner;
use crate::setup::{Guest, M, Place, control_option, resize, send, text};

const AGAIN: &str = "the frontend is served again";

#[test]
fn windows_are_as_before_when_the_process_was_killed_and_follow_what_comes_then() {
    let place = Place::new();
    let options = ["--keeper".to_owned(), control_option(&place)];
    let daemon = place.disk(&["data,reserve=32M", "log"], &options);
    let mut guest = Guest::start(&daemon);
    for round in 1..=3u8 {
        guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
        guest.regions.wait_for(1, &[(0, 2 * M)]);
        guest.regions.write(0, 5 * M, &[round; 100]);
        kill(daemon.serving_pid(round.into()), Signal::SIGKILL).unwrap();
        // What the guest has mapped stays mapped while nothing serves.
        assert_eq!(guest.regions.read(0, 5 * M, 100), [round; 100]);
        daemon.wait_for_count(AGAIN, round.into());
        assert_eq!(place.in_file("data", 5 * M, 100), [round; 100]);
        assert_eq!(guest.driver.write(0, 0, &[round; 4096]), OK);
        assert_eq!(guest.driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        assert_eq!(guest.driver.read(0, 0, 4096), [round; 4096]);
    }
    // A process that was killed early has not mapped anything.
    let last = format!("the serving process is {}", daemon.serving_pid(4));
    daemon.wait_for_log_after(&last, "listening for administrators");
    daemon.wait_for_log_after(&last, "window 1, \"log\": 2097152 bytes are mapped");
    let before = guest.regions.requests();
    resize(&place, "data", 10 * M, false).unwrap();
    guest.regions.wait_for_request(before);
    assert_eq!(place.size_of("data"), 10 * M);
    guest.regions.write(0, 9 * M, &[9; 100]);
    assert_eq!(place.in_file("data", 9 * M, 100), [9; 100]);
    // What was mapped one piece after another is mapped by the next process as it finds it.
    kill(daemon.serving_pid(4), Signal::SIGKILL).unwrap();
    daemon.wait_for_count(AGAIN, 4);
    assert!(!daemon.log().contains("the windows stay empty"), "{}", daemon.log());
    assert!(!daemon.log().contains("the guest has the window up to"), "{}", daemon.log());
    drop(guest);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    nvdimmctl_ok(&["dax", "check", text(&place.file), "-n", "pool"]);
}

#[test]
fn persistent_memory_can_be_flushed_after_the_process_was_killed() {
    let place = Place::new();
    let socket = place.socket("data");
    let device = format!("--pmem=socket={},device=data", socket.display());
    let daemon = place.serve("data", &["--keeper".to_owned(), device]);
    let mut guest = Guest::connect(&daemon, Manner::Obliging);
    guest.driver.start_queue(0);
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    kill(daemon.serving_pid(1), Signal::SIGKILL).unwrap();
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    guest.regions.write(0, 0, &[7; 10]);
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    assert_eq!(place.in_file("data", 0, 10), [7; 10]);
}
