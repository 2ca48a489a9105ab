//! Starts and watches the three kinds of process that a scenario is made of: guest, back end, tool.
//!
//! Nothing here sleeps and hopes: every wait is for something in particular and has a limit. What goes wrong
//! panics, and every process that is dropped by a panic prints the tail of what it said.

mod daemon;
mod guest;
mod process;
mod qmp;
mod tool;

pub use daemon::Daemon;
pub use guest::{Guest, Labels, Machine, Nvdimm, Said};
pub use qmp::Qmp;
pub use tool::Tool;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder for one scenario, on disk and not in memory: NVDIMM files are large, if mostly holes.
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("vhost-user-btt-guest.").tempdir().expect("a temporary folder")
}

/// Our programs, and `guest-load`, for the guest's root: in /opt. Written by `qemu/pack-programs`.
pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/programs.cpio")
}

/// The SHA-256 of what a file holds, in the notation of `sha256sum`.
pub fn sha256_of_file(path: &Path) -> String {
    let file =
        std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    sha256(file)
}

fn sha256(mut bytes: impl std::io::Read) -> String {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match bytes.read(&mut piece).expect("bytes to hash") {
            0 => break,
            length => hasher.update(&piece[..length]),
        }
    }
    hasher.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
