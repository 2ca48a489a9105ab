//! What a guest can do with a disk besides reading and writing it.

use crate::harness::{Daemon, Guest, Tool, scratch};

#[test]
fn discarded_and_zeroed_sectors_read_as_zeroes() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let daemon = Daemon::start(&file, 1);

    let script = r#"
        [ "$(cat /sys/block/vda/queue/discard_max_bytes)" -gt 0 ]
        [ "$(cat /sys/block/vda/queue/write_zeroes_max_bytes)" -gt 0 ]
        random 16m >/tmp/expected
        dd if=/tmp/expected of=/dev/vda bs=64k oflag=direct conv=notrunc

        blkdiscard=/usr/bin/blkdiscard          # by its path, or sh would take busybox's, which knows no -z
        # MiB 2 to 4 discarded, 8 to 12 zeroed, one sector of each by itself; the neighbours must not change.
        $blkdiscard -o 2097152 -l 2097152 /dev/vda
        $blkdiscard -o 4096 -l 4096 /dev/vda
        $blkdiscard -z -o 8388608 -l 4194304 /dev/vda
        $blkdiscard -z -o 12288 -l 4096 /dev/vda
        zeroes() { dd if=/dev/zero of=/tmp/expected bs=4k conv=notrunc seek="$1" count="$2" 2>/dev/null; }
        zeroes 512 512
        zeroes 1 1
        zeroes 2048 1024
        zeroes 3 1
        dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | cmp - /tmp/expected

        # A zeroed sector can be written again.
        random 1m | dd of=/tmp/expected bs=4k seek=512 conv=notrunc iflag=fullblock
        dd if=/tmp/expected of=/dev/vda bs=4k skip=512 seek=512 count=256 oflag=direct conv=notrunc
        dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | cmp - /tmp/expected
        no_disk_errors
        read_sectors /dev/vda | say_sha256 disk
    "#;
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(script);
    let seen_by_guest = guest.wait_for("disk");
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), seen_by_guest);
}

#[test]
fn fstrim_leaves_the_file_system_whole() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("64M", 4096);
    let daemon = Daemon::start(&file, 1);

    let script = r#"
        mkfs.ext4 -q -E nodiscard /dev/vda
        mount -t ext4 /dev/vda /mnt
        random 8m >/mnt/kept
        random 8m >/mnt/removed
        sha256sum /mnt/kept >/tmp/checksum
        sync
        rm /mnt/removed
        sync
        trimmed=$(fstrim -v /mnt | sed 's/.*: \([0-9]*\) .*/\1/')
        [ "$trimmed" -ge 8388608 ]
        umount /mnt
        e2fsck -f -n /dev/vda
        mount -t ext4 /dev/vda /mnt
        sha256sum -c /tmp/checksum
        umount /mnt
        no_disk_errors
    "#;
    Guest::machine(scratch.path()).disk(&daemon).boot(script).finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
}

#[test]
fn two_queues_serve_two_cpus() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let daemon = Daemon::start(&file, 2);

    // Each CPU has a queue of its own, with an interrupt of its own.
    let script = r#"
        [ "$(ls /sys/block/vda/mq | wc -l)" -eq 2 ]
        random 16m >/tmp/source
        taskset 1 dd if=/tmp/source of=/dev/vda bs=4k count=2048 oflag=direct conv=notrunc &
        first=$!
        taskset 2 dd if=/tmp/source of=/dev/vda bs=4k count=2048 skip=2048 seek=2048 oflag=direct conv=notrunc
        wait "$first"
        dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | cmp - /tmp/source
        requests() { awk -v queue="virtio0-req.$1" '$NF == queue { print $2 + $3 }' /proc/interrupts; }
        [ "$(requests 0)" -ge 100 ]
        [ "$(requests 1)" -ge 100 ]
        no_disk_errors
    "#;
    Guest::machine(scratch.path()).cpus(2).disk(&daemon).boot(script).finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let before = Tool::on(&file).sha256_of_export();
    let daemon = Daemon::start_with(&file, 1, &["--read-only"]);

    let script = r#"
        [ "$(blockdev --getro /dev/vda)" -eq 1 ]
        if random 1m | dd of=/dev/vda bs=4k oflag=direct conv=notrunc; then
            exit 1
        fi
        read_sectors /dev/vda | say_sha256 disk
    "#;
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(script);
    assert_eq!(guest.wait_for("disk"), before);
    guest.finish();
    daemon.stop();
    assert_eq!(Tool::on(&file).sha256_of_export(), before);
}

#[test]
fn the_guest_sees_the_serial_number() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let daemon = Daemon::start_with(&file, 1, &["--serial", "atomic-0001"]);

    let script = "say serial \"$(cat /sys/block/vda/serial)\"";
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(script);
    assert_eq!(guest.wait_for("serial"), "atomic-0001");
    guest.finish();
    daemon.stop();
}
