//! Windows of a file in which other guests have namespaces: a frontend gets a descriptor of all of it.

use crate::common::daemon::{Daemon, nvdimmctl_ok};
use crate::setup::{Place, text};

/// A place with a second namespace of sectors, `other`.
fn shared_place() -> Place {
    let place = Place::new();
    nvdimmctl_ok(&["create-namespace", text(&place.file), "-n", "other", "-s", "16M"]);
    place
}

fn disk(place: &Place, namespace: &str) -> String {
    format!("--disk=socket={},namespace={namespace}", place.socket(namespace).display())
}

/// Starts a daemon that refuses to; returns what it says.
fn refusal(place: &Place, arguments: &[String]) -> String {
    let mut daemon = place.begin("disk", arguments);
    assert!(!daemon.logs_or_ends("serving"), "{}", daemon.log());
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    daemon.log()
}

fn serves(place: &Place, arguments: &[String]) -> Daemon {
    let mut daemon = place.begin("disk", arguments);
    daemon.wait_for_log("serving");
    daemon
}

#[test]
fn a_window_of_a_file_with_another_guests_disk_has_to_be_allowed() {
    let place = shared_place();
    let disks = [disk(&place, "disk"), disk(&place, "other")];
    for window in ["data,disk=disk", "data,disk=disk,read-only"] {
        let arguments = [&disks[..], &[format!("--window={window}")]].concat();
        let log = refusal(&place, &arguments);
        let other = place.socket("other");
        assert!(
            log.contains(&format!("\"other\", which is served at {}", other.display())),
            "{log}"
        );
        assert!(log.contains("expose-file"), "{log}");
        drop(serves(&place, &[&disks[..], &[format!("--window={window},expose-file")]].concat()));
    }
}

#[test]
fn persistent_memory_of_a_file_with_a_served_disk_has_to_be_allowed() {
    let place = shared_place();
    let pmem = format!("--pmem=socket={},device=data", place.socket("data").display());
    let log = refusal(&place, &[pmem.clone(), disk(&place, "disk")]);
    assert!(log.contains("\"disk\", which is served at"), "{log}");
    drop(serves(&place, &[pmem.clone() + ",expose-file", disk(&place, "disk")]));

    // The disk may as well be served by another process.
    let server = serves(&place, &[disk(&place, "other")]);
    let log = refusal(&place, std::slice::from_ref(&pmem));
    let holder = format!("\"other\", which is held by vhost-user-btt (pid {})", server.pid());
    assert!(log.contains(&holder), "{log}");
    drop(server);
    // What nobody serves is not in use by a guest.
    drop(serves(&place, &[pmem]));
}

#[test]
fn devices_of_one_region_go_to_several_guests_with_a_warning() {
    let place = Place::new();
    let pmem = |name| format!("--pmem=socket={},device={name}", place.socket(name).display());
    let mut daemon = place.begin("data", &[pmem("data"), pmem("log")]);
    daemon.wait_for_log("\"log\": its frontend gets a descriptor of the whole file");
}
