//! A disk grows while its file system is mounted: the guest is told, and goes on with a larger one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Daemon, Guest, Labels, Tool, scratch};

/// Fills a file system, waits until its disk is larger, and fills it further.
const SCRIPT: &str = r#"
size() { blockdev --getsize64 /dev/vda; }
mkfs.ext4 -q /dev/vda
mount -t ext4 /dev/vda /mnt
random 2m >/mnt/before
before=$(size)
say mounted "$before"
until [ "$(size)" -gt "$before" ]; do sleep 0.1; done
say grown "$(size)"
resize2fs /dev/vda
say blocks "$(stat -f -c %b /mnt) of $(stat -f -c %S /mnt)"
# More than there was room for.
random 28m >/mnt/after
sync
sha256sum /mnt/before /mnt/after >/tmp/sums
umount /mnt
e2fsck -f -n /dev/vda
mount -t ext4 /dev/vda /mnt
sha256sum -c /tmp/sums
umount /mnt
no_disk_errors
"#;

/// An archive with resize2fs, for the guest's root.
fn resize2fs(folder: &Path) -> PathBuf {
    let archive = folder.join("resize2fs.cpio");
    let packed = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/pack-program"))
        .arg(&archive)
        .arg("/usr/sbin/resize2fs")
        .status();
    assert!(packed.expect("pack-program").success());
    archive
}

#[test]
fn a_mounted_file_system_is_resized_after_its_disk_has_grown() {
    let scratch = scratch();
    let (file, control) = (scratch.path().join("disk.nvdimm"), scratch.path().join("control"));
    let tool = Tool::on(&file);
    tool.create_labelled("128M", Labels::Last128KiB.bytes());
    tool.create_namespace(&["--size", "32M", "--name", "root"]);
    let option = format!("--control={}", control.display());
    let daemon = Daemon::start_with(&file, 1, &[&option]);

    let archive = resize2fs(scratch.path());
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).initramfs(&archive).boot(SCRIPT);
    let small: u64 = guest.wait_for("mounted").parse().expect("a number");
    let resized = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
        .arg("--control")
        .arg(&control)
        .args(["resize", "root", "--size=64M"])
        .output()
        .expect("nvdimmctl");
    let said = String::from_utf8_lossy(&resized.stdout);
    assert!(resized.status.success() && said.contains("its frontend was told"), "{resized:?}");
    let large: u64 = guest.wait_for("grown").parse().expect("a number");
    assert!(small < 32 << 20 && large > 60 << 20, "{small} {large}");
    let blocks = guest.wait_for("blocks");
    let (count, size) = blocks.split_once(" of ").expect("two numbers");
    let bytes = count.parse::<u64>().expect("a number") * size.parse::<u64>().expect("a number");
    assert!(bytes > 50 << 20, "{blocks}");
    guest.finish();
    daemon.stop();
    tool.assert_clean();
}
