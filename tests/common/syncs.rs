//! A daemon whose calls of fdatasync are counted, and fail when told so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::shim;

/// The preloaded library, built once for each test program.
static SHIM: LazyLock<PathBuf> = LazyLock::new(|| shim::build("fdatasync"));

/// What happens to the syncs of the daemons that serve one file.
pub struct Syncs {
    log: PathBuf,
    failing: PathBuf,
}

impl Syncs {
    /// Of the daemons that will serve `file`.
    pub fn of(file: &Path) -> Syncs {
        let syncs =
            Syncs { log: file.with_extension("syncs"), failing: file.with_extension("failing") };
        std::fs::write(&syncs.log, "").unwrap();
        std::fs::write(&syncs.failing, "").unwrap();
        syncs
    }

    /// Lets `command` run with the library.
    pub fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &*SHIM)
            .env("SYNCS_LOG", &self.log)
            .env("SYNCS_FAIL", &self.failing);
    }

    /// Number of calls so far.
    pub fn count(&self) -> u64 {
        std::fs::metadata(&self.log).unwrap().len()
    }

    /// Number of calls while `work` is done.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (u64, T) {
        let before = self.count();
        let result = work();
        (self.count() - before, result)
    }

    /// Lets the next `calls` fail with `errno`.
    pub fn fail(&self, calls: usize, errno: nix::errno::Errno) {
        self.fail_after(0, calls, errno);
    }

    /// Lets `calls` fail with `errno`, after so many `before` that succeed.
    pub fn fail_after(&self, before: usize, calls: usize, errno: nix::errno::Errno) {
        let errnos = [vec![errno as u8; calls], vec![0; before]].concat();
        std::fs::write(&self.failing, errnos).unwrap();
    }
}
