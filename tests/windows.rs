//! DAX devices as shared memory regions: persistent memory devices, and windows of a disk, with a frontend
//! that maps what it is told to.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::daemon::{Daemon, nvdimmctl, nvdimmctl_ok};
use common::frontend::{BUFFERS, Driver, OK, linked, new_memory, readable, writable};
use common::shmem::{Manner, Regions, region_sizes};
use tempfile::TempDir;
use uuid::Uuid;
use vhost::vhost_user::VhostUserFrontend;
use vhost_user_btt::dax::{DeviceOptions, Held, NamespaceOptions};
use vhost_user_btt::nvdimm::{ClaimKind, LabelSize, Selection};
use vhost_user_btt::pmem::DurabilityRequest;
use vhost_user_btt::vhost_user::control::{self, Answer, Request};

const M: u64 = 1 << 20;

/// The feature of a persistent memory device whose memory is a shared memory region.
const PMEM_F_SHMEM_REGION: u64 = 1;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file with a disk, and with a device `data` of two extents of 4 MiB, and `log` of 2 MiB.
struct Place {
    folder: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nvdimm");
        nvdimmctl_ok(&["create", text(&file), "--size", "128M", "--label-size", "128K"]);
        nvdimmctl_ok(&["create-namespace", text(&file), "-n", "disk", "-s", "16M"]);
        nvdimmctl_ok(&["create-namespace", text(&file), "-n", "pool", "-m", "dax", "-s", "96M"]);
        let (_claim, region) = pool(&file).open(ClaimKind::Exclusive).unwrap();
        let device = |name: &str, size| DeviceOptions {
            name: name.into(),
            uuid: Uuid::new_v4(),
            label: String::new(),
            size,
            align: None,
            contiguous: false,
        };
        region.create_device(&device("data", 4 * M)).unwrap();
        region.create_device(&device("log", 2 * M)).unwrap();
        region.resize_device("data", 8 * M, Held::Refuse).unwrap();
        assert_eq!(region.device("data").unwrap().extents.len(), 2);
        Place { folder, file }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon with `arguments` that listens on the socket `name`, among others.
    fn serve(&self, name: &str, arguments: &[String]) -> Daemon {
        let mut daemon = Daemon::spawn(self.command(arguments), self.socket(name));
        daemon.wait_for_log("serving");
        daemon
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg("--nvdimm").arg(&self.file).args(arguments);
        command
    }

    /// A persistent memory device; `more` follows its name.
    fn pmem(&self, name: &str, more: &str) -> Daemon {
        let socket = self.socket(name);
        self.serve(name, &[format!("--pmem=socket={},device={name}{more}", socket.display())])
    }

    /// A disk with windows.
    fn disk(&self, windows: &[&str], more: &[String]) -> Daemon {
        let socket = format!("--socket-path={}", self.socket("disk").display());
        let mut arguments = vec![socket, "--namespace=disk".to_owned()];
        arguments.extend(windows.iter().map(|window| format!("--window={window}")));
        arguments.extend_from_slice(more);
        self.serve("disk", &arguments)
    }

    /// Bytes of the file, where byte `offset` of a device is.
    fn in_file(&self, device: &str, offset: u64, length: usize) -> Vec<u8> {
        let (namespace, region) = pool(&self.file).look().unwrap();
        let place = namespace.range.start + region.resolve(device, offset).unwrap().start;
        let mut bytes = vec![0; length];
        File::open(&self.file).unwrap().read_exact_at(&mut bytes, place).unwrap();
        bytes
    }

    fn size_of(&self, device: &str) -> u64 {
        pool(&self.file).look().unwrap().1.device(device).unwrap().size
    }
}

fn pool(file: &Path) -> NamespaceOptions {
    NamespaceOptions {
        path: file.into(),
        selection: Selection::Named("pool".into()),
        label_size: LabelSize::Detect,
        durability: DurabilityRequest::Auto,
    }
}

/// A frontend that knows shared memory regions, and the regions that it was told of.
struct Guest {
    driver: Driver,
    regions: Regions,
    sizes: Vec<u64>,
}

impl Guest {
    fn connect(daemon: &Daemon, manner: Manner) -> Guest {
        let stream = UnixStream::connect(&daemon.socket).unwrap();
        let aside = stream.try_clone().unwrap();
        let mut driver = Driver::negotiate(stream, 1, u64::MAX, new_memory());
        let sizes = region_sizes(&aside);
        let regions = Regions::default();
        regions.set_manner(manner);
        driver.frontend.set_backend_request_fd(&regions.serve()).unwrap();
        Guest { driver, regions, sizes }
    }

    fn start(daemon: &Daemon) -> Guest {
        let mut guest = Guest::connect(daemon, Manner::Obliging);
        guest.driver.start_queue(0);
        guest
    }
}

/// Sends a request to the flush queue; returns the answer, and how much of it was filled.
fn send(driver: &mut Driver, kind: u32) -> (u32, u32) {
    driver.put(BUFFERS, &kind.to_le_bytes());
    driver.put(BUFFERS + 64, &[0xee; 4]);
    let chain = linked(0, vec![readable(BUFFERS, 4), writable(BUFFERS + 64, 4)]);
    let filled = driver.run_chain(0, &chain);
    let answer = driver.get(BUFFERS + 64, 4);
    (u32::from_le_bytes(answer.try_into().unwrap()), filled)
}

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
    assert_eq!(guest.sizes, [32 * M, 2 * M]);
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

/// Has the daemon resize a device, by its control socket.
fn resize(place: &Place, device: &str, size: u64, force: bool) -> Result<Answer, String> {
    let (file, namespace, device) = (None, Some("pool".into()), device.into());
    let request = Request::ResizeDevice { file, namespace, device, size, force };
    control::request(&place.socket("control"), &request).map_err(|error| error.to_string())
}

fn control_option(place: &Place) -> String {
    format!("--control={}", place.socket("control").display())
}

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
    assert!(refused.contains("holds data behind byte 10485760"), "{refused}");
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

#[test]
fn persistent_memory_keeps_its_size_under_its_guest_unless_forced() {
    let place = Place::new();
    let socket = place.socket("data");
    let pmem = format!("--pmem=socket={},device=data", socket.display());
    let daemon = place.serve("data", &[pmem, control_option(&place)]);
    // Without a guest, anything goes.
    resize(&place, "data", 10 * M, false).unwrap();
    let guest = Guest::start(&daemon);
    assert_eq!(guest.sizes, [10 * M]);
    for size in [8 * M, 12 * M] {
        let refused = resize(&place, "data", size, false).unwrap_err();
        assert!(refused.contains("busy") && refused.contains("--force"), "{refused}");
    }
    guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 6 * M)]);
    resize(&place, "data", 12 * M, true).unwrap();
    resize(&place, "data", 4 * M, true).unwrap();
    guest.regions.wait_for(0, &[(0, 4 * M)]);
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

#[test]
fn nonsense_on_the_control_socket_is_answered_and_leaves_the_daemon_alone() {
    use std::io::{Read, Write};
    let place = Place::new();
    let mut daemon = place.disk(&["data"], &[control_option(&place)]);
    daemon.wait_for_log("window 0");
    let ask = |text: &[u8]| {
        let mut stream = UnixStream::connect(place.socket("control")).unwrap();
        // It may have answered and gone before it has read all of it.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let endless = vec![b' '; 100_000];
    for text in [&b"\n"[..], b"", b"{}\n", b"resize\n", &[0xff; 10], &endless] {
        let answer = ask(text);
        assert!(answer.is_empty() || answer.contains("not a request"), "{answer}");
    }
    resize(&place, "data", 4 * M, false).unwrap();
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
}
