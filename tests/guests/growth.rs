//! A disk grows under a running guest, which goes on with what it has; the next one has all of it.

use crate::harness::{Daemon, Guest, Labels, Tool, scratch};

/// Writes the same 4 MiB anew, round after round, and looks whether they are there.
const ROUNDS: &str = r#"
say bytes "$(blockdev --getsize64 /dev/vda)"
for round in 1 2 3 4; do
    random 4m >/tmp/source
    dd if=/tmp/source of=/dev/vda bs=4k oflag=direct conv=notrunc
    say written "$round"
    dd if=/dev/vda bs=64k count=64 iflag=direct 2>/dev/null | cmp - /tmp/source
done
say bytes "$(blockdev --getsize64 /dev/vda)"
say_sha256 sum </tmp/source
no_disk_errors
"#;

/// Looks for the 4 MiB, and writes the last MiB.
const AFTERWARDS: &str = r#"
bytes=$(blockdev --getsize64 /dev/vda)
say bytes "$bytes"
dd if=/dev/vda bs=64k count=64 iflag=direct 2>/dev/null | say_sha256 sum
random 1m | dd of=/dev/vda bs=4k seek=$((bytes / 4096 - 256)) oflag=direct conv=notrunc iflag=fullblock
no_disk_errors
read_sectors /dev/vda | say_sha256 disk
"#;

#[test]
fn a_disk_grows_under_a_guest_and_is_larger_for_the_next_one() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    let tool = Tool::on(&file);
    tool.create_labelled("128M", Labels::Last128KiB.bytes());
    tool.create_namespace(&["--size", "32M"]);
    let mut daemon = Daemon::start(&file, 1);

    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(ROUNDS);
    let small = guest.wait_for("bytes");
    guest.wait_for("written");
    tool.grow("64M");
    guest.wait_for("written");
    // The one that comes after it grows the disk, when QEMU connects again.
    daemon = daemon.kill_and_restart();
    guest.wait_for("written");
    tool.grow("96M");
    assert_eq!(guest.wait_for("bytes"), small, "QEMU asks for the size once");
    let sum = guest.wait_for("sum");
    guest.finish();

    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(AFTERWARDS);
    let bytes: u64 = guest.wait_for("bytes").parse().expect("a number");
    assert!(bytes > 90 << 20, "{bytes}");
    assert_eq!(guest.wait_for("sum"), sum);
    let seen_by_guest = guest.wait_for("disk");
    guest.finish();
    daemon.stop();
    tool.assert_clean();
    assert_eq!(tool.sha256_of_export(), seen_by_guest);
}
