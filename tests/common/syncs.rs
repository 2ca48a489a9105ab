//! A daemon whose calls of fdatasync and msync are counted, and fail when told so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::shim;

/// The preloaded library, built once for each test program.
static SHIM: LazyLock<PathBuf> = LazyLock::new(|| shim::build("fdatasync"));

/// Size of the file that the library maps, and where it has the outcomes of calls.
const PAGE: usize = 4096;
const LEFT: u64 = 8;
const OUTCOMES: u64 = 16;
/// Where it has whether calls are held up, and how many are.
const HELD: u64 = 510 * 8;
const WAITING: u64 = 511 * 8;

/// What happens to the syncs of the daemons that serve one file.
pub struct Syncs {
    path: PathBuf,
    state: File,
}

impl Syncs {
    /// Of the daemons that will serve `file`.
    pub fn of(file: &Path) -> Syncs {
        let path = file.with_extension("syncs");
        std::fs::write(&path, [0; PAGE]).unwrap();
        let state = File::options().read(true).write(true).open(&path).unwrap();
        Syncs { path, state }
    }

    /// Lets `command` run with the library.
    pub fn preload(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &*SHIM).env("SYNCS_STATE", &self.path);
    }

    /// Number of calls so far.
    pub fn count(&self) -> u64 {
        let mut count = [0; 8];
        self.state.read_exact_at(&mut count, 0).unwrap();
        u64::from_ne_bytes(count)
    }

    /// Number of calls while `work` is done.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (u64, T) {
        let before = self.count();
        let result = work();
        (self.count() - before, result)
    }

    /// Holds calls up, until they are not held up any more.
    pub fn hold(&self, is_held: bool) {
        self.state.write_all_at(&u64::from(is_held).to_ne_bytes(), HELD).unwrap();
    }

    /// Waits until a call is held up.
    pub fn wait_for_held(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut waiting = [0; 8];
        while u64::from_ne_bytes(waiting) == 0 {
            assert!(Instant::now() < deadline, "no sync");
            std::thread::sleep(Duration::from_millis(1));
            self.state.read_exact_at(&mut waiting, WAITING).unwrap();
        }
    }

    /// Lets the next `calls` fail with `errno`.
    pub fn fail(&self, calls: usize, errno: nix::errno::Errno) {
        self.fail_after(0, calls, errno);
    }

    /// Lets `calls` fail with `errno`, after so many `before` that succeed.
    pub fn fail_after(&self, before: usize, calls: usize, errno: nix::errno::Errno) {
        let outcomes = [vec![errno as u8; calls], vec![0; before]].concat();
        assert!(outcomes.len() <= (HELD - OUTCOMES) as usize);
        self.state.write_all_at(&0u64.to_ne_bytes(), LEFT).unwrap();
        self.state.write_all_at(&outcomes, OUTCOMES).unwrap();
        self.state.write_all_at(&(outcomes.len() as u64).to_ne_bytes(), LEFT).unwrap();
    }
}
