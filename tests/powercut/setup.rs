//! What the scenarios have in common: an image, the program, and a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::daemon::Daemon;
use crate::common::frontend::{Driver, OK, T_FLUSH};

/// Bytes of the image.
pub const SIZE: u64 = 1 << 20;

pub fn powercut() -> Command {
    Command::new(env!("CARGO_BIN_EXE_powercut"))
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with an image of zeroes, and a copy of it.
pub struct Place {
    pub folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::write(place.path("disk.raw"), vec![0; SIZE as usize]).unwrap();
        fs::copy(place.path("disk.raw"), place.path("base.raw")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = powercut();
        command.arg("serve").arg("--image").arg(self.path("disk.raw"));
        command.arg("--socket-path").arg(self.path("disk.sock")).args(arguments);
        command
    }

    /// A served image, and its guest.
    pub fn serve(&self, arguments: &[&str]) -> (Daemon, Guest) {
        let mut daemon = Daemon::spawn(self.command(arguments), self.path("disk.sock"));
        daemon.wait_for_log("serving");
        let driver = Driver::connect(daemon.connect(), 1);
        (daemon, Guest { driver })
    }

    /// Records what `work` does.
    pub fn record(&self, work: impl FnOnce(&mut Guest, &dyn Fn(&str))) {
        let (log, control) = (self.path("log"), self.path("control"));
        let arguments = ["--record", text(&log), "--control", text(&control)];
        let (daemon, mut guest) = self.serve(&arguments);
        work(&mut guest, &|mark| self.mark(mark));
        drop(guest);
        let (status, log) = daemon.terminate();
        assert!(status.success(), "{log}");
    }

    pub fn mark(&self, mark: &str) {
        let mut command = powercut();
        command.args(["mark", "--control"]).arg(self.path("control")).arg(mark);
        assert!(command.status().unwrap().success());
    }

    /// `powercut states` on the recording, with a shell script as the check: `$1` is the image, `$2` the marks.
    pub fn states(&self, arguments: &[&str], check: &str) -> Found {
        let mut command = powercut();
        command.arg("states").arg(self.path("log")).arg("--base").arg(self.path("base.raw"));
        command.args(arguments).args(["--", "sh", "-c", check, "check", "{image}", "{marks}"]);
        Found::new(&command.output().unwrap())
    }

    /// `powercut explore` of the recording.
    pub fn explore(&self) -> Command {
        let mut command = powercut();
        command.arg("explore").arg(self.path("log")).arg("--base").arg(self.path("base.raw"));
        command
    }

    pub fn disk(&self) -> Vec<u8> {
        fs::read(self.path("disk.raw")).unwrap()
    }
}

/// What `powercut states` found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub code: i32,
    pub said: String,
    pub complained: String,
}

impl Found {
    pub fn new(output: &Output) -> Found {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("an end by itself");
        Found { code, said: text(&output.stdout), complained: text(&output.stderr) }
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.code, 0, "{}{}", self.said, self.complained);
        assert!(self.checked() > 0, "nothing was checked: {}", self.said);
    }

    #[track_caller]
    pub fn assert_failed(&self) {
        assert_eq!(self.code, 1, "{}{}", self.said, self.complained);
        assert!(self.said.contains("makes the check fail"), "{}", self.said);
    }

    /// States that were checked.
    pub fn checked(&self) -> usize {
        let (before, _) = self.said.split_once(" states checked").expect("a summary");
        before.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// The first state that was made small, as an option has it.
    pub fn reproducer(&self) -> String {
        let (_, after) = self.said.split_once("--state '").expect("a reproducer");
        after.split('\'').next().unwrap().to_owned()
    }
}

/// A guest that does one thing after another.
pub struct Guest {
    pub driver: Driver,
}

impl Guest {
    pub fn write(&mut self, sector: u64, bytes: &[u8]) {
        assert_eq!(self.driver.write(0, sector, bytes), OK);
    }

    pub fn flush(&mut self) {
        assert_eq!(self.driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
    }
}
