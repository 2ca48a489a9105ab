//! A disk image that is laid out as Debian's cloud images are (`qemu/cloud-image`), on sectors of 4096 bytes, under
//! firmware: partition table, GRUB, kernel and root are all found in blocks of 512 bytes.

use std::path::Path;
use std::process::Command;

use crate::harness::{Daemon, Guest, Tool, scratch};

/// Where the root of the image is, in bytes: `qemu/cloud-image`.
const ROOT: u64 = 36864 * 512;

const USE_DISK: &str = r#"
    [ "$(cat /sys/block/vda/queue/logical_block_size)" -eq 512 ]
    [ "$(cat /sys/block/vda/queue/physical_block_size)" -eq 4096 ]
    grep -q '^/dev/vda1 / ext4 rw' /proc/mounts
    [ -b /dev/vda1 ] && [ -b /dev/vda14 ] && [ -b /dev/vda15 ]

    # The file system writes whole sectors of 4096 bytes; behind the partition table there is room for parts of them.
    random 16k >/tmp/around
    dd if=/tmp/around of=/dev/vda bs=4k seek=16 oflag=direct
    random 1536 >/tmp/part
    dd if=/tmp/part of=/dev/vda bs=512 seek=133 oflag=direct
    dd if=/tmp/part of=/tmp/around bs=512 seek=5 conv=notrunc
    dd if=/dev/vda bs=4k skip=16 count=4 iflag=direct | cmp - /tmp/around

    random 8m >/kept
    sync
    echo 3 >/proc/sys/vm/drop_caches
    say_sha256 kept </kept
    mount -o remount,ro /
    no_disk_errors
"#;

/// The SHA-256 of a file in the root of an exported image, which has to be free of errors.
fn sha256_in(image: &Path, file: &str) -> String {
    let run = |program: &str, arguments: &[&str]| {
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/packages");
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/run-unpacked");
        let place = format!("{}?offset={ROOT}", image.display());
        let mut command = Command::new(starter);
        command.arg(guest).arg(program).args(arguments).arg(place);
        let output = command.output().expect("a program of the guest's");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {complaint}");
    };
    run("/usr/sbin/e2fsck", &["-f", "-n"]);
    let copy = image.with_extension("copy");
    run("/usr/sbin/debugfs", &["-R", &format!("dump {file} {}", copy.display())]);
    crate::harness::sha256_of_file(&copy)
}

/// Boots the image by the firmware `name`, and has it run `script` beside what all do.
fn boot(name: &str, script: &str) {
    let cloud = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/cloud.raw");
    assert!(cloud.exists(), "no {}: run qemu/cloud-image", cloud.display());
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("128M", 4096);
    Tool::on(&file).import_unfit(&cloud);
    let daemon = Daemon::start_with(&file, 1, &["--logical-block-size=512"]);
    let script = format!("{script}\n{USE_DISK}");
    let mut guest = Guest::machine(scratch.path()).firmware(name).disk(&daemon).boot(&script);
    let kept = guest.wait_for("kept");
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
    let exported = scratch.path().join("exported");
    Tool::on(&file).export_to(&exported);
    assert_eq!(sha256_in(&exported, "/kept"), kept);
}

#[test]
fn a_cloud_image_on_larger_sectors_boots_under_seabios() {
    boot("seabios", "[ ! -d /sys/firmware/efi ]");
}

#[test]
fn a_cloud_image_on_larger_sectors_boots_under_ovmf() {
    boot("ovmf", "[ -d /sys/firmware/efi ]");
}
