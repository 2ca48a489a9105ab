//! Devices that change their size while guests have them.

use std::fs::File;

use std::os::fd::AsRawFd;

use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend;
use vhost_user_btt::vhost_user::control::Answer;

use crate::common::daemon::{nvdimmctl, nvdimmctl_ok};
use crate::common::frontend::{
    BUFFERS, Driver, IOERR, OK, T_IN, linked, readable, request_header, writable,
};
use crate::common::shmem::Manner;
use crate::setup::{Guest, M, Place, control_option, resize, send, text};

#[test]
fn a_window_grows_under_its_guest_and_shrinks_when_the_guest_has_let_go() {
    let place = Place::new();
    let daemon = place.disk(&["data,reserve=32M"], &[control_option(&place)]);
    let guest = Guest::start(&daemon);
    let before = [(0, 4 * M), (4 * M, 4 * M)];
    guest.regions.wait_for(0, &before);
    guest.regions.write(0, 7 * M, b"stays");
    // Growth: what was mapped remains, the rest is mapped beside it.
    let answer = resize(&place, "data", 12 * M, false);
    assert_eq!(answer, Ok(Answer::Resized { before: 8 * M, size: 12 * M, windows: 1 }));
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M), (8 * M, 4 * M)]);
    assert_eq!(guest.regions.read(0, 8 * M, 4096), [0; 4096]);
    guest.regions.write(0, 12 * M - 5, b"fresh");
    assert_eq!(place.in_file("data", 12 * M - 5, 5), b"fresh");
    // What holds data is not given up without a word.
    let refused = resize(&place, "data", 10 * M, false).unwrap_err();
    assert!(refused.contains("holds data after byte 10485760"), "{refused}");
    // A frontend that does not let go keeps it, all of it, and what it has can be mapped again.
    guest.regions.set_manner(Manner::RefusesUnmaps);
    let refused = resize(&place, "data", 6 * M, true).unwrap_err();
    assert!(refused.contains("did not let go"), "{refused}");
    assert_eq!(place.size_of("data"), 12 * M);
    guest.regions.set_manner(Manner::Obliging);
    // Down into the second extent: what stays of it is mapped again.
    let answer = resize(&place, "data", 6 * M, true);
    assert_eq!(answer, Ok(Answer::Resized { before: 12 * M, size: 6 * M, windows: 1 }));
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 2 * M)]);
    assert_eq!(place.size_of("data"), 6 * M);
    // And up again, by nvdimmctl: what was freed has become zero.
    let (control, file) = (control_option(&place), text(&place.file));
    let said = nvdimmctl_ok(&[&control, "dax", "resize-device", file, "data", "--size", "8M"]);
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("resized data: 8 MiB"), "{said}");
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 2 * M), (6 * M, 2 * M)]);
    assert_eq!(guest.regions.read(0, 7 * M, 5), [0; 5]);
    // More than the guest has room for.
    let refused = resize(&place, "data", 64 * M, false).unwrap_err();
    assert!(refused.contains("a window of 33554432 bytes"), "{refused}");
    // More than there is.
    let refused = resize(&place, "data", 128 * M, true).unwrap_err();
    assert!(refused.contains("no space"), "{refused}");
    assert_eq!(place.size_of("data"), 8 * M);
    // Without the daemon's help it is busy; and nothing else is the daemon's to do.
    let resize = ["dax", "resize-device", file, "data", "--size", "10M"];
    let busy = String::from_utf8(nvdimmctl(&resize).stderr).unwrap();
    assert!(busy.contains("busy: held by vhost-user-btt"), "{busy}");
    assert!(busy.contains("--control PATH dax resize-device"), "{busy}");
    assert_eq!(nvdimmctl(&[&control, "list", file]).status.code(), Some(2));
    let nobody = nvdimmctl(&[&["--control=/nowhere"], &resize[..]].concat());
    let nobody = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.contains("is a daemon running with --control=/nowhere?"), "{nobody}");
    drop(guest);
    let (status, log) = daemon.terminate();
    assert!(status.success() && !place.socket("control").exists(), "{log}");
}

#[test]
fn a_silent_frontend_keeps_its_window_and_nothing_else() {
    let place = Place::new();
    let daemon = place.disk(&["data,reserve=32M", "log"], &[control_option(&place)]);
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(1, &[(0, 2 * M)]);
    guest.regions.set_manner(Manner::Silent);
    let refused = resize(&place, "log", 0, false).unwrap_err();
    assert!(refused.contains("did not let go"), "{refused}");
    assert_eq!(place.size_of("log"), 2 * M);
    assert_eq!(guest.driver.write(0, 0, &[1; 4096]), OK);
    // When it is gone, nobody holds anything.
    drop(guest);
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    assert_eq!(guest.driver.read(0, 0, 4096), [1; 4096]);
    resize(&place, "data", 4 * M, false).unwrap();
    guest.regions.wait_for(0, &[(0, 4 * M)]);
}

/// Reads the first 4096 bytes of a disk to a place in its guest's memory; returns the status byte.
fn read_to(driver: &mut Driver, address: u64) -> u8 {
    let (header, status) = (BUFFERS, BUFFERS + 0x800);
    driver.put(header, &request_header(T_IN, 0));
    driver.put(status, &[0xee]);
    let chain = vec![readable(header, 16), writable(address, 4096), writable(status, 1)];
    driver.run_chain(0, &linked(0, chain));
    driver.get(status, 1)[0]
}

/// A frontend shows its guest's windows to all devices of the guest as memory: so that a disk can read into
/// them.
#[test]
fn what_a_disk_can_still_store_to_is_not_given_to_another() {
    let place = Place::new();
    let (disk, data) = (place.socket("disk"), place.socket("data"));
    let at_disk = 1 << 40;
    let arguments = [
        format!("--disk=socket={},namespace=disk", disk.display()),
        format!("--pmem=socket={},device=data,expose-file", data.display()),
        control_option(&place),
    ];
    let mut daemon = place.serve("disk", &arguments);
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.write(0, 0, &[7; 4096]), OK);
    // The second extent of the device.
    let file = File::options().read(true).write(true).open(&place.file).unwrap();
    let window = VhostUserMemoryRegionInfo {
        guest_phys_addr: at_disk,
        memory_size: 4 * M,
        userspace_addr: at_disk,
        mmap_offset: place.place_of("data", 4 * M),
        mmap_handle: file.as_raw_fd(),
    };
    driver.frontend.add_mem_region(&window).unwrap();
    let mut guest = Guest::connect_to(&data, Manner::Obliging);
    guest.driver.start_queue(0);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    assert_eq!(read_to(&mut driver, at_disk + 8192), OK);
    assert_eq!(guest.regions.read(0, 4 * M + 8192, 4096), [7; 4096]);
    // It has unmapped, and has not taken it from the memory that the disk works on.
    let refused = resize(&place, "data", 4 * M, true).unwrap_err();
    assert!(refused.contains("did not let go"), "{refused}");
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    // The same when nobody has the window any more.
    drop(guest);
    daemon.wait_for_log("the frontend has disconnected");
    let refused = resize(&place, "data", 4 * M, true).unwrap_err();
    assert!(refused.contains("in the memory of a guest"), "{refused}");
    resize(&place, "data", 12 * M, false).unwrap();
    resize(&place, "data", 8 * M, false).unwrap();
    driver.frontend.remove_mem_region(&window).unwrap();
    resize(&place, "data", 4 * M, true).unwrap();
    assert_eq!(read_to(&mut driver, at_disk + 8192), IOERR);
    assert_eq!(driver.read(0, 0, 4096), [7; 4096]);
}

#[test]
fn persistent_memory_keeps_its_size_under_its_guest_unless_forced() {
    let place = Place::new();
    let socket = place.socket("data");
    let pmem = format!("--pmem=socket={},device=data", socket.display());
    let daemon = place.serve("data", &[pmem, control_option(&place)]);
    // Without a guest, anything goes.
    resize(&place, "data", 10 * M, false).unwrap();
    let mut guest = Guest::start(&daemon);
    assert_eq!(guest.sizes, [10 * M, 6 * M]);
    for size in [8 * M, 12 * M] {
        let refused = resize(&place, "data", size, false).unwrap_err();
        assert!(refused.contains("busy") && refused.contains("--force"), "{refused}");
    }
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 6 * M)]);
    resize(&place, "data", 12 * M, true).unwrap();
    assert_eq!(send(&mut guest.driver, 0), (0, 4));
    resize(&place, "data", 4 * M, true).unwrap();
    guest.regions.wait_for(0, &[(0, 4 * M)]);
    // What the guest stores behind that is lost: no flush says otherwise.
    assert_eq!(send(&mut guest.driver, 0), (1, 4));
    let refused = resize(&place, "nobody", 4 * M, false).unwrap_err();
    assert!(refused.contains("no DAX device \"nobody\""), "{refused}");
    drop(guest);
    let guest = Guest::start(&daemon);
    assert_eq!(guest.sizes, [4 * M]);
}

#[test]
fn a_paused_guest_keeps_what_it_has_mapped() {
    let place = Place::new();
    let daemon = place.disk(&["data"], &[control_option(&place)]);
    let mut guest = Guest::start(&daemon);
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
    guest.driver.stop_queue(0);
    let refused = resize(&place, "data", 4 * M, false).unwrap_err();
    assert!(refused.contains("did not let go"), "{refused}");
    guest.driver.start_queue(0);
    guest.driver.write(0, 0, &[1; 4096]);
    resize(&place, "data", 4 * M, false).unwrap();
    guest.regions.wait_for(0, &[(0, 4 * M)]);
}
