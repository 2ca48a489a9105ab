//! A file with namespaces, a daemon that serves them, and its control socket.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use vhost_user_btt::vhost_user::control::{self, Answer, Request};

use crate::common::daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};

pub struct Place {
    folder: TempDir,
    pub file: PathBuf,
}

impl Place {
    /// A file of `size` with a namespace of 32 MiB for each of `names`.
    pub fn new(size: &str, names: &[&str]) -> Place {
        Place::in_folder(tempfile::tempdir().unwrap(), size, names)
    }

    /// The same in a folder of its own.
    pub fn in_folder(folder: TempDir, size: &str, names: &[&str]) -> Place {
        let file = folder.path().join("nvdimm");
        let path = file.to_str().unwrap();
        nvdimmctl_ok(&["create", path, "--size", size, "--label-size", "128K"]);
        for name in names {
            let options = ["--size", "32M", "--name", name, "--sector-size", "4096"];
            nvdimmctl_ok(&[&["create-namespace", path][..], &options].concat());
        }
        Place { folder, file }
    }

    /// A file that is one namespace, of 32 MiB.
    pub fn without_labels() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        Place { folder, file }
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    pub fn control(&self) -> PathBuf {
        self.socket("control")
    }

    /// A daemon with a disk for each of `disks`: a name, and what else there is to say.
    pub fn serve(&self, disks: &[&str], options: &[&str]) -> Daemon {
        self.serve_by(
            std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-btt")),
            disks,
            options,
        )
    }

    /// The same, by `command`.
    pub fn serve_by(
        &self,
        mut command: std::process::Command,
        disks: &[&str],
        options: &[&str],
    ) -> Daemon {
        command.arg("--nvdimm").arg(&self.file).arg("--control").arg(self.control());
        for disk in disks {
            let name = disk.split(',').next().unwrap();
            let socket = self.socket(name);
            command.arg(format!("--disk=socket={},namespace={disk}", socket.display()));
        }
        let mut daemon = Daemon::spawn(command_with(command, options), self.control());
        daemon.wait_for_log("listening for administrators");
        daemon
    }

    /// A daemon without a disk.
    pub fn serve_none(&self, options: &[&str]) -> Daemon {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg("--control").arg(self.control());
        let mut daemon = Daemon::spawn(command_with(command, options), self.control());
        daemon.wait_for_log("listening for administrators");
        daemon
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn connect(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.socket(name)).unwrap()
    }

    /// Runs nvdimmctl for the daemon.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let control = self.control();
        let asked = [&["--control", control.to_str().unwrap()][..], arguments].concat();
        let output = nvdimmctl(&asked);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What the daemon says of the device `name`.
    pub fn stat(&self, name: &str) -> Value {
        let all: Value =
            serde_json::from_str(&self.ask(&["stat", "--json", name]).unwrap()).unwrap();
        all[0].clone()
    }

    /// Has a request carried out, without another process.
    pub fn request(&self, request: &Request) -> Answer {
        request_at(&self.control(), request)
    }
}

pub fn request_at(control: &Path, request: &Request) -> Answer {
    control::request(control, request).unwrap()
}

fn command_with(mut command: std::process::Command, options: &[&str]) -> std::process::Command {
    command.args(options);
    command
}

/// What sector `number` of 4096 bytes holds.
pub fn pattern(number: u64) -> Vec<u8> {
    (number + 1).to_le_bytes().repeat(512)
}
