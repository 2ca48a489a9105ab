//! A disk in a sparse file on a file system that is full: writes that need space fail, nothing else
//! does, and with space again all is as before.
//!
//! The file system is a small tmpfs in a mount namespace of the daemon's own.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::daemon::Daemon;
use common::frontend::*;
use tempfile::TempDir;

/// Sectors whose map entries share a page.
const SECTORS_PER_MAP_PAGE: u64 = 1024;

struct Setting {
    folder: TempDir,
    daemon: Daemon,
    /// The folder of the file system, as this process reaches it.
    mount: PathBuf,
}

impl Setting {
    /// Serves a new disk of 64 MiB in a file system of 4 MiB.
    fn new() -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let socket = folder.path().join("socket");
        let mut command = Command::new("unshare");
        command.args(if rustix::process::geteuid().is_root() { &["-m"][..] } else { &["-rm"] });
        command.args(["sh", "-ec", SERVE, "sh"]);
        command.args([env!("CARGO_BIN_EXE_nvdimmctl"), env!("CARGO_BIN_EXE_vhost-user-btt")]);
        command.args([&mount, &socket]);
        let mut daemon = Daemon::spawn(command, socket);
        daemon.wait_for_log("serving");
        let mount = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), mount.display()));
        Setting { folder, daemon, mount }
    }

    /// Takes all space of the file system.
    fn fill(&self) {
        let ballast = std::fs::File::create(self.mount.join("ballast")).unwrap();
        let filled = std::io::copy(&mut std::io::repeat(1), &mut &ballast);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.mount.join("ballast")).unwrap();
    }
}

/// Arguments: nvdimmctl, vhost-user-btt, folder of the file system, socket.
const SERVE: &str = r#"
    mount -t tmpfs -o size=4m tmpfs "$3"
    "$1" create "$3/nvdimm" --size 64M >/dev/null
    "$1" create-namespace "$3/nvdimm" --label-size none >/dev/null
    exec "$2" --socket-path "$4" --blk-file "$3/nvdimm" --label-size none
"#;

#[test]
fn a_full_file_system_fails_what_needs_space_and_leaves_no_mark() {
    let setting = Setting::new();
    let mut driver = Driver::connect(setting.daemon.connect(), 1);
    // Often enough for every lane to have a free block that has space.
    for generation in 0..600u32 {
        assert_eq!(driver.write(0, 0, &[generation as u8; 4096]), OK);
    }
    setting.fill();
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK, "needs none");
    // The map has a hole there.
    for sector in (1..15).map(|page| page * SECTORS_PER_MAP_PAGE) {
        assert_eq!(driver.write(0, sector * 8, &[2; 4096]), IOERR);
        assert_eq!(driver.write(0, sector * 8, &[2; 512]), IOERR);
        assert_eq!(driver.clear(T_WRITE_ZEROES, &[(sector * 8, 8, 0)]), IOERR);
        assert_eq!(driver.read(0, sector * 8, 4096), [0; 4096], "a hole can be read");
    }
    assert_eq!(driver.write(0, 8, &[3; 4096]), OK, "the disk is not read-only");
    assert_eq!(driver.read(0, 0, 4096), [1; 4096]);
    setting.make_room();
    for sector in (1..15).map(|page| page * SECTORS_PER_MAP_PAGE) {
        assert_eq!(driver.write(0, sector * 8, &[4; 4096]), OK);
        assert_eq!(driver.read(0, sector * 8, 4096), [4; 4096]);
    }
    drop(driver);
    let log = setting.daemon.log();
    assert!(!log.contains("read-only"), "{log}");
    drop(setting.folder);
}
