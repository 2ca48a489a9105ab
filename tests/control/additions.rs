//! Disks that come while others are served.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use vhost_user_btt::vhost_user::control::{
    self, Answer, ClientError, Handed, NewDisk, RateReport, Request,
};

use crate::common::daemon::{Daemon, nvdimmctl_ok};
use crate::common::frontend::{Driver, OK, T_FLUSH};
use crate::common::usage::Usage;
use crate::setup::{Place, pattern};

/// Adds the disk `name` of the file of `place`, as the tool does by default.
fn add(place: &Place, name: &str, options: &[&str]) -> Result<String, String> {
    let (file, socket) = (place.file.to_str().unwrap(), place.socket(name));
    let arguments = ["add", file, "--socket-path", socket.to_str().unwrap(), "--namespace", name];
    place.ask(&[&arguments[..], options].concat())
}

fn check(driver: &mut Driver, number: u64) {
    assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
    assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
    assert!(driver.read(0, number * 8, 4096) == pattern(number));
}

#[test]
fn a_disk_is_added_to_a_daemon_that_can_open_no_other_file() {
    let place = Place::new("128M", &["first", "second"]);
    let other = Place::new("64M", &["third"]);
    let mut daemon = place.serve(&["first"], &[]);
    daemon.wait_for_log("in the sandbox: files restricted");
    daemon.wait_for_log("system calls filtered");
    let mut first = Driver::connect(place.connect("first"), 1);
    // Of the daemon's own file, and of one in a folder that is closed to it.
    let said = add(&place, "second", &[]).unwrap();
    assert!(said.starts_with("second: served at"), "{said}");
    let (file, socket) = (other.file.to_str().unwrap(), other.socket("third"));
    let socket = socket.to_str().unwrap();
    place.ask(&["add", file, "--socket-path", socket, "--num-queues=2"]).unwrap();
    let mut second = Driver::connect(place.connect("second"), 1);
    let mut third = Driver::connect(other.connect("third"), 2);
    for driver in [&mut first, &mut second, &mut third] {
        check(driver, 3);
    }
    let report = place.stat("third");
    assert_eq!(
        (&report["handed-over"], &report["queues"].as_array().unwrap().len()),
        (&true.into(), &2)
    );
    // The frontend may leave and come again, and the disk may go and come again.
    drop(third);
    let mut third = Driver::connect(other.connect("third"), 1);
    assert!(third.read(0, 24, 4096) == pattern(3));
    drop((second, third));
    for (place_of, name) in [(&place, "second"), (&other, "third")] {
        place.ask(&["remove", name]).unwrap();
        assert!(!place_of.socket(name).exists(), "{name}");
        let file = place_of.file.to_str().unwrap();
        nvdimmctl_ok(&["check-namespace", file, name]);
    }
    place.ask(&["add", file, "--socket-path", socket]).unwrap();
    assert!(Driver::connect(other.connect("third"), 1).read(0, 24, 4096) == pattern(3));
    check(&mut first, 5);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_disk_is_added_by_path_where_the_daemon_was_started_with_its_folder() {
    let place = Place::new("64M", &["first"]);
    let (inside, outside) = (Place::new("64M", &["second"]), Place::new("64M", &["third"]));
    let allowed = format!("--allow-path={}", inside.folder().display());
    let options = [&allowed, "--socket-mode=666", "--durability=strict"];
    let mut daemon = place.serve(&["first"], &options);
    daemon.wait_for_log("in the sandbox: files restricted");
    let by_path = |other: &Place, name: &str| {
        let (file, socket) = (other.file.to_str().unwrap(), other.socket(name));
        place.ask(&["add", file, "--socket-path", socket.to_str().unwrap(), "--by-path"])
    };
    by_path(&inside, "second").unwrap();
    let mode = inside.socket("second").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    let mut driver = Driver::connect(inside.connect("second"), 1);
    check(&mut driver, 1);
    let report = place.stat("second");
    assert_eq!(report["disk"]["durability"], "strict", "{report}");
    let error = by_path(&outside, "third").unwrap_err();
    assert!(error.contains("--allow-path=FOLDER") && error.contains("denied"), "{error}");
    assert!(!outside.socket("third").exists());
    drop(driver);
    place.ask(&["remove", "second"]).unwrap();
    assert!(!inside.socket("second").exists());
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_disk_that_is_added_is_as_the_request_says_and_else_as_the_daemon_was_told() {
    let place = Place::new("128M", &["first", "second"]);
    let groups = ["--rate-limit=group=guests,ops_size=900,ops_refill_time=100", "--num-queues=3"];
    let _daemon = place.serve(&["first"], &groups);
    let limit = "--rate-limit=bw_size=50M,bw_refill_time=100";
    let own = ["--read-only", "--serial=MINE", "--rate-group=guests", limit, "--queue-size=1024"];
    add(&place, "second", &own).unwrap();
    let report = place.stat("second");
    assert_eq!(report["disk"]["read-only"], true);
    assert_eq!(report["claim"], "shared");
    assert_eq!(report["limits"]["own"]["bw_size"], 50 << 20);
    assert_eq!(report["limits"]["group"]["ops_size"], 900);
    assert_eq!(report["queues"].as_array().unwrap().len(), 3);
    // The group has a member now.
    let limit = RateReport { ops_size: 7, ops_refill_time: 100, ..RateReport::default() };
    let group = Some("guests".to_owned());
    assert_eq!(place.request(&Request::Rate { device: None, group, limit }), Answer::Done);
    assert_eq!(place.stat("second")["limits"]["group"]["ops_size"], 7);
    let mut driver = Driver::connect(place.connect("second"), 1);
    assert_ne!(driver.write(0, 0, &pattern(1)), OK);
}

#[test]
fn a_daemon_without_disks_waits_for_them() {
    let place = Place::new("64M", &["first"]);
    let daemon = place.serve_none(&[]);
    for _ in 0..20 {
        add(&place, "first", &[]).unwrap();
        check(&mut Driver::connect(place.connect("first"), 1), 1);
        // The daemon may not have noticed yet that the frontend has left.
        place.ask(&["remove", "first"]).unwrap();
    }
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_disk_that_was_handed_over_grows_by_the_tool_which_hands_its_file_over_again() {
    let place = Place::new("128M", &["first"]);
    let daemon = place.serve_none(&[]);
    add(&place, "first", &[]).unwrap();
    let mut driver = Driver::connect(place.connect("first"), 1);
    check(&mut driver, 2);
    let request = Request::Resize { device: "first".into(), size: None, force: false };
    let resize =
        |files: &[BorrowedFd<'_>]| control::request_with(&place.control(), &request, files);
    let refused = |error: ClientError| error.to_string();
    assert!(refused(resize(&[]).unwrap_err()).contains("opened again"));
    let other = File::open("/dev/null").unwrap();
    assert!(refused(resize(&[other.as_fd()]).unwrap_err()).contains("not that of the disk's file"));
    let said = place.ask(&["resize", "first", "--size=64M"]).unwrap();
    assert!(said.contains("the disk has"), "{said}");
    assert!(driver.read(0, 16, 4096) == pattern(2));
    let size = place.stat("first")["disk"]["size"].as_u64().unwrap();
    assert!(size > 60 << 20, "{size}");
    let last = size / 512 - 8;
    assert_eq!(driver.write(0, last, &pattern(9)), OK);
    drop(driver);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    nvdimmctl_ok(&["check-namespace", place.file.to_str().unwrap(), "first"]);
}

/// A request of the tool's kind, with descriptors of the test's choice.
fn request_with(
    place: &Place,
    change: impl FnOnce(&mut NewDisk),
    descriptors: &[BorrowedFd<'_>],
) -> Result<Answer, ClientError> {
    let mut disk = NewDisk {
        nvdimm: place.file.clone(),
        socket: place.socket("second"),
        descriptors: vec![Handed::Nvdimm, Handed::Socket],
        namespace: Some("second".into()),
        ..NewDisk::default()
    };
    change(&mut disk);
    control::request_with(&place.control(), &Request::Add(Box::new(disk)), descriptors)
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn an_addition_that_fails_leaves_nothing() {
    let place = Place::new("128M", &["first", "second"]);
    let daemon = place.serve(&["first"], &[]);
    let mut first = Driver::connect(place.connect("first"), 1);
    check(&mut first, 0);
    place.stat("first");
    let before = Usage::of(daemon.pid());
    let tool = |name: &str, options: &[&str], said: &str| {
        let error = add(&place, name, options).unwrap_err();
        assert!(error.contains(said), "{name} {options:?}: {error}");
    };
    for _ in 0..3 {
        let other = ["--socket-path", "/tmp", "--namespace", "second"];
        let error = place.ask(&[&["add", "/dev/null"][..], &other].concat()).unwrap_err();
        assert!(error.contains("not a socket"), "{error}");
        tool("none", &[], "none");
        assert!(!place.socket("none").exists());
        tool("second", &["--rate-group=nobody"], "no group \"nobody\"");
        tool(
            "second",
            &["--logical-block-size=4096", "--atomic=256K", "--num-queues=64"],
            "all or nothing",
        );
        // It is served already, and its socket is in use.
        tool("first", &[], "another process is listening");
        assert!(place.socket("first").exists());
        let claimed =
            ["add", place.file.to_str().unwrap(), "--namespace", "first", "--socket-path"];
        let socket = place.socket("second");
        let error = place.ask(&[&claimed[..], &[socket.to_str().unwrap()]].concat()).unwrap_err();
        assert!(error.contains("held by"), "{error}");
        assert!(!socket.exists());
        refuse_descriptors(&place);
    }
    before.wait_until_no_more(daemon.pid());
    check(&mut first, 1);
    add(&place, "second", &[]).unwrap();
    check(&mut Driver::connect(place.connect("second"), 1), 1);
    first_is_listed_once(&daemon, &place);
}

type Change = fn(&mut NewDisk);

/// What a client may send that is not what the tool sends.
fn refuse_descriptors(place: &Place) {
    let (file, reading) = (open(&place.file), File::open(&place.file).unwrap());
    let socket = place.socket("second");
    let listener = UnixListener::bind(&socket).unwrap();
    let both = [file.as_fd(), listener.as_fd()];
    let cases: [(Change, &[BorrowedFd<'_>], &str); 7] = [
        (|_| (), &[file.as_fd()], "2 descriptors are, and 1"),
        (|_| (), &[listener.as_fd(), file.as_fd()], "neither a regular file"),
        (|_| (), &[reading.as_fd(), listener.as_fd()], "for reading only"),
        (|disk| disk.descriptors = vec![Handed::Socket; 2], &both, "two descriptors of one kind"),
        (|disk| disk.queues = Some(65), &both, "queues: not a number"),
        (|disk| disk.serial = Some(String::new()), &both, "serial: not"),
        (|disk| disk.atomic = Some(3000), &both, "atomic: neither"),
    ];
    for (change, descriptors, said) in cases {
        let error = request_with(place, change, descriptors).unwrap_err().to_string();
        assert!(error.contains(said), "{said:?}: {error}");
    }
    let relative: Change = |disk| {
        disk.descriptors = vec![Handed::Socket];
        disk.nvdimm = "nvdimm".into();
    };
    let error = request_with(place, relative, &[listener.as_fd()]).unwrap_err().to_string();
    assert!(error.contains("absolute"), "{error}");
    // Other requests take none.
    let stat = Request::Stat { device: None };
    let error = control::request_with(&place.control(), &stat, &[file.as_fd()]).unwrap_err();
    assert!(error.to_string().contains("takes 0 at most"), "{error}");
    std::fs::remove_file(socket).unwrap();
}

fn first_is_listed_once(daemon: &Daemon, place: &Place) {
    let Answer::Stat { devices } = place.request(&Request::Stat { device: None }) else { panic!() };
    let names: Vec<_> = devices.iter().map(|device| device.identity.name.as_str()).collect();
    assert_eq!(names, ["first", "second"], "{}", daemon.log());
}

/// The locks of one opening of a file do not exclude one another.
#[test]
fn one_opening_of_a_file_is_no_way_to_serve_a_namespace_twice() {
    let place = Place::new("128M", &["first", "second"]);
    let _daemon = place.serve(&["first"], &[]);
    let file = open(&place.file);
    let sockets = ["a", "b"].map(|name| place.socket(name));
    let listeners = sockets.each_ref().map(|path| UnixListener::bind(path).unwrap());
    let ask = |number: usize| {
        let socket = sockets[number].clone();
        let change = |disk: &mut NewDisk| disk.socket = socket;
        request_with(&place, change, &[file.as_fd(), listeners[number].as_fd()])
    };
    ask(0).unwrap();
    let error = ask(1).unwrap_err().to_string();
    assert!(error.contains("open the file once for each disk"), "{error}");
    let request = Request::Resize { device: "second".into(), size: None, force: false };
    let error = control::request_with(&place.control(), &request, &[file.as_fd()]).unwrap_err();
    assert!(error.to_string().contains("opened again"), "{error}");
}

#[test]
fn a_disk_is_not_added_to_a_file_that_another_guest_can_open() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::in_folder(folder, "256M", &["first", "second"]);
    let file = place.file.to_str().unwrap();
    let pool = ["--mode", "dax", "--size", "64M", "--name", "pool"];
    nvdimmctl_ok(&[&["create-namespace", file][..], &pool].concat());
    let device = ["dax", "create-device", file, "data", "--size", "4M"];
    nvdimmctl_ok(&[&device[..], &["--namespace", "pool"]].concat());
    let _daemon = place.serve(&["first"], &["--window=data"]);
    let error = add(&place, "second", &[]).unwrap_err();
    assert!(error.contains("descriptor of the whole file"), "{error}");
    assert!(!place.socket("second").exists());
}
