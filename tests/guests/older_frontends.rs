//! DAX devices under frontends that know no shared memory regions of vhost-user devices: the disk is there without
//! its windows, and QEMU maps an exported device by itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vhost_user_btt::pmem::simulated::Random;

use crate::harness::{Daemon, Guest, Tool, scratch};
use crate::windows::{exported_arguments, make, place, sha256_of_data};

const USE_DISK: &str = "dd if=/dev/zero of=/dev/vda oflag=direct bs=64k count=4
no_disk_errors";

/// A disk with a window, of `file`.
fn serve_window(file: &Path) -> Daemon {
    let socket = file.with_extension("disk");
    let disk = format!("--disk=socket={},namespace=disk", socket.display());
    Daemon::start_devices(file, &[disk, "--window=data".into()], vec![socket])
}

fn assert_refused(daemon: &mut Daemon) {
    let line = daemon.wait_for_line("the windows stay empty");
    assert!(line.contains("WARN") && line.contains("nvdimmctl dax export"), "{line}");
}

/// The QEMU of the other scenarios: the system's, or that of its release.
#[test]
fn a_frontend_without_shared_memory_regions_gets_the_disk_and_says_so() {
    let scratch = scratch();
    let file = make(scratch.path());
    let mut daemon = serve_window(&file);
    let guest = Guest::machine(scratch.path()).disk(&daemon).boot(USE_DISK);
    assert_refused(&mut daemon);
    guest.finish();
    daemon.stop();
    Tool::on(&file).namespace("disk").assert_clean();
}

/// The last QEMU but those that know them: a disk with a window of one file, and a device of another that QEMU maps
/// as it was told to by `dax export`.
#[test]
fn qemu_10_has_the_disk_without_its_windows_and_maps_a_device_itself() {
    let (scratch, other) = (scratch(), scratch());
    let (file, exported) = (make(scratch.path()), make(other.path()));
    let open = File::options().read(true).write(true).open(&exported).expect("the file");
    let mut random = Random::new(10);
    // On both sides of the border between the extents, and at the ends.
    for offset in [0, (16 << 20) - 8, 16 << 20, (60 << 20) - 8] {
        let bytes = random.any().to_le_bytes();
        open.write_all_at(&bytes, place(&exported, offset)).expect("written bytes");
    }
    let before = sha256_of_data(&exported);
    let mut daemon = serve_window(&file);
    let mut guest = Guest::machine_of(scratch.path(), "trixie")
        .disk(&daemon)
        .arguments(&exported_arguments(&exported))
        .boot(&format!(
            "{USE_DISK}
            device() {{ cat /dev/pmem0 /dev/pmem1; }}
            device | say_sha256 before
            random 4k | dd of=/dev/pmem1 bs=4k seek=5 conv=fsync
            device | say_sha256 after"
        ));
    assert_refused(&mut daemon);
    assert_eq!(guest.wait_for("before"), before);
    let after = guest.wait_for("after");
    guest.finish();
    daemon.stop();
    assert_ne!(after, before);
    assert_eq!(sha256_of_data(&exported), after);
    Tool::on(&exported).dax("check", &[]);
    Tool::on(&file).namespace("disk").assert_clean();
}
