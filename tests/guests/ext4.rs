//! A file system on a disk of ours.

use crate::harness::{Daemon, Guest, Tool, scratch};

/// Makes a file system with files of many sizes, and a list of their checksums.
const WRITE: &str = r#"
mkfs.ext4 -q /dev/vda
mount -t ext4 /dev/vda /mnt
mkdir /mnt/files
for size in 1 511 512 513 4095 4096 4097 65536 1000000 5000000; do
    head -c "$size" /dev/urandom >"/mnt/files/$size"
done
cp -a /usr/bin /mnt/files/
rm -r /mnt/files/65536                # and something that is gone again
(cd /mnt && find files -type f | sort | xargs sha256sum) >/mnt/checksums
sync
say_sha256 checksums </mnt/checksums
"#;

/// Checks what [`WRITE`] has written.
const VERIFY: &str = r"
e2fsck -f -n /dev/vda
mount -t ext4 /dev/vda /mnt
(cd /mnt && sha256sum -c checksums >/tmp/verified) || { grep -v ': OK$' /tmp/verified; false; }
say_sha256 checksums </mnt/checksums
umount /mnt
no_disk_errors
";

fn files_survive_a_reboot(sector_size: u32) {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("128M", sector_size);
    let daemon = Daemon::start(&file, 1);

    let shut_down = format!("{WRITE}\n umount /mnt; no_disk_errors");
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(&shut_down);
    let written = guest.wait_for("checksums");
    guest.finish();

    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(VERIFY);
    assert_eq!(guest.wait_for("checksums"), written);
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn files_survive_a_reboot_512() {
    files_survive_a_reboot(512);
}

#[test]
fn files_survive_a_reboot_4096() {
    files_survive_a_reboot(4096);
}

/// Guest and back end die together, in the middle of other writes.
#[test]
fn synced_files_survive_a_crash_of_guest_and_back_end() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("128M", 4096);

    let daemon = Daemon::start(&file, 1);
    let never_done = format!(
        "{WRITE}
        while :; do random 8m >/mnt/unsynced; sync; rm /mnt/unsynced; say round; done"
    );
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(&never_done);
    let written = guest.wait_for("checksums");
    guest.wait_for("round");
    guest.kill();
    daemon.kill();

    let daemon = Daemon::start(&file, 1);
    // The journal is replayed first, as it would be by any system that starts.
    let verify = format!("e2fsck -p /dev/vda || [ $? -eq 1 ]\n {VERIFY}");
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(&verify);
    assert_eq!(guest.wait_for("checksums"), written);
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
}
