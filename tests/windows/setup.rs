//! What the scenarios have in common: a file, a daemon, and a frontend with its guest.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vhost::vhost_user::VhostUserFrontend;
use vhost_user_btt::namespace::NamespaceOptions;
use vhost_user_btt::nvdimm::{LabelSize, Selection};
use vhost_user_btt::vhost_user::control::{self, Answer, Request};

use crate::common::daemon::{Daemon, nvdimmctl_ok};
use crate::common::frontend::{BUFFERS, Driver, linked, new_memory, readable, writable};
use crate::common::shmem::{Manner, Regions, region_sizes};

pub const M: u64 = 1 << 20;

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file with a disk, and with a device `data` of two extents of 4 MiB, and `log` of 2 MiB.
pub struct Place {
    pub folder: TempDir,
    pub file: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nvdimm");
        nvdimmctl_ok(&["create", text(&file), "--size", "144M", "--label-size", "128K"]);
        nvdimmctl_ok(&["create-namespace", text(&file), "-n", "disk", "-s", "16M"]);
        nvdimmctl_ok(&["create-namespace", text(&file), "-n", "pool", "-m", "dax", "-s", "96M"]);
        // By processes of their own: a claim of this one could live on for a moment in a child that another
        // test has just forked.
        let dax = |verb: &str, device: &str, size: &str| {
            nvdimmctl_ok(&["dax", verb, text(&file), device, "-n", "pool", "-s", size]);
        };
        dax("create-device", "data", "4M");
        dax("create-device", "log", "2M");
        dax("resize-device", "data", "8M");
        let (_, region) = pool(&file).look_at_region().unwrap();
        assert_eq!(region.device("data").unwrap().extents.len(), 2);
        drop(region);
        Place { folder, file }
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon with `arguments` that listens on the socket `name`, among others.
    pub fn serve(&self, name: &str, arguments: &[String]) -> Daemon {
        let mut daemon = self.begin(name, arguments);
        daemon.wait_for_log("serving");
        if arguments.iter().any(|argument| argument.starts_with("--control")) {
            daemon.wait_for_log("listening for administrators");
        }
        daemon
    }

    /// As `serve`, without waiting.
    pub fn begin(&self, name: &str, arguments: &[String]) -> Daemon {
        Daemon::spawn(self.command(arguments), self.socket(name))
    }

    pub fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg("--nvdimm").arg(&self.file).args(arguments);
        command
    }

    /// As `begin`, with a power that fails as `failure` says.
    pub fn begin_failing(&self, name: &str, failure: &str, arguments: &[String]) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_powercut"));
        command.args(["serve", "--fail", failure]).arg("--nvdimm").arg(&self.file).args(arguments);
        Daemon::spawn(command, self.socket(name))
    }

    /// A persistent memory device; `more` follows its name.
    pub fn pmem(&self, name: &str, more: &str) -> Daemon {
        let socket = self.socket(name);
        self.serve(name, &[format!("--pmem=socket={},device={name}{more}", socket.display())])
    }

    /// A disk with windows.
    pub fn disk(&self, windows: &[&str], more: &[String]) -> Daemon {
        let socket = format!("--socket-path={}", self.socket("disk").display());
        let mut arguments = vec![socket, "--namespace=disk".to_owned()];
        arguments.extend(windows.iter().map(|window| format!("--window={window}")));
        arguments.extend_from_slice(more);
        self.serve("disk", &arguments)
    }

    /// Where byte `offset` of a device is in the file.
    pub fn place_of(&self, device: &str, offset: u64) -> u64 {
        let (namespace, region) = pool(&self.file).look_at_region().unwrap();
        namespace.range.start + region.resolve(device, offset).unwrap().start
    }

    /// Bytes of the file, where byte `offset` of a device is.
    pub fn in_file(&self, device: &str, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = File::open(&self.file).unwrap();
        file.read_exact_at(&mut bytes, self.place_of(device, offset)).unwrap();
        bytes
    }

    pub fn size_of(&self, device: &str) -> u64 {
        pool(&self.file).look_at_region().unwrap().1.device(device).unwrap().size
    }
}

pub fn pool(file: &Path) -> NamespaceOptions {
    NamespaceOptions::new(file.into(), Selection::Named("pool".into()), LabelSize::Detect)
}

/// A frontend that knows shared memory regions, and the regions that it was told of.
pub struct Guest {
    pub driver: Driver,
    pub regions: Regions,
    pub sizes: Vec<u64>,
}

impl Guest {
    pub fn connect(daemon: &Daemon, manner: Manner) -> Guest {
        Guest::connect_to(&daemon.socket, manner)
    }

    /// As `connect`, to one of a daemon's sockets.
    pub fn connect_to(socket: &Path, manner: Manner) -> Guest {
        let stream = UnixStream::connect(socket).unwrap();
        let aside = stream.try_clone().unwrap();
        let mut driver = Driver::negotiate(stream, 1, u64::MAX, new_memory());
        let sizes = region_sizes(&aside);
        let regions = Regions::default();
        regions.set_manner(manner);
        driver.frontend.set_backend_request_fd(&regions.serve()).unwrap();
        Guest { driver, regions, sizes }
    }

    pub fn start(daemon: &Daemon) -> Guest {
        let mut guest = Guest::connect(daemon, Manner::Obliging);
        guest.driver.start_queue(0);
        guest
    }
}

/// Sends a request to the flush queue; returns the answer, and how much of it was filled.
pub fn send(driver: &mut Driver, kind: u32) -> (u32, u32) {
    driver.put(BUFFERS, &kind.to_le_bytes());
    driver.put(BUFFERS + 64, &[0xee; 4]);
    let chain = linked(0, vec![readable(BUFFERS, 4), writable(BUFFERS + 64, 4)]);
    let filled = driver.run_chain(0, &chain);
    let answer = driver.get(BUFFERS + 64, 4);
    (u32::from_le_bytes(answer.try_into().unwrap()), filled)
}

/// Has the daemon resize a device, by its control socket.
pub fn resize(place: &Place, device: &str, size: u64, force: bool) -> Result<Answer, String> {
    let (file, namespace, device) = (None, Some("pool".into()), device.into());
    let request = Request::ResizeDevice { file, namespace, device, size, force };
    control::request(&place.socket("control"), &request).map_err(|error| error.to_string())
}

pub fn control_option(place: &Place) -> String {
    format!("--control={}", place.socket("control").display())
}
