//! The back end dies under a running guest, and comes back.

use crate::harness::{Daemon, Guest, Tool, scratch};

/// Every round writes the same 16 MiB anew by four writers at once, so that the disk always has requests in
/// flight, and says so when it is in the middle of them.
pub const WRITE_IN_ROUNDS: &str = r#"
writes() { awk '{ print $5 }' /sys/block/vda/stat; }
for round in 1 2 3 4 5; do
    random 16m >/tmp/source
    before=$(writes)
    writers=
    for part in 0 1 2 3; do
        dd if=/tmp/source of=/dev/vda bs=4k count=1024 skip=$((1024 * part)) seek=$((1024 * part)) \
            oflag=direct conv=notrunc 2>/dev/null &
        writers="$writers $!"
    done
    set +x
    while [ "$(writes)" -lt $((before + 200)) ]; do :; done
    set -x
    say writing "$round"
    for writer in $writers; do wait "$writer"; done
    dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | cmp - /tmp/source
    say written "$round"
done
no_disk_errors
read_sectors /dev/vda | say_sha256 disk
"#;

fn a_killed_back_end_is_replaced_without_an_error(sector_size: u32, queues: u32) {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", sector_size);
    let mut daemon = Daemon::start(&file, queues);

    let mut guest = Guest::machine(scratch.path()).cpus(queues).disk(&daemon).boot(WRITE_IN_ROUNDS);
    for round in 1..=5 {
        assert_eq!(guest.wait_for("writing"), round.to_string());
        daemon = daemon.kill_and_restart();
        assert_eq!(guest.wait_for("written"), round.to_string());
    }
    let seen_by_guest = guest.wait_for("disk");
    guest.finish();
    daemon.stop();

    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), seen_by_guest);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_killed_back_end_is_replaced_without_an_error_512() {
    a_killed_back_end_is_replaced_without_an_error(512, 1);
}

#[test]
fn a_killed_back_end_is_replaced_without_an_error_4096_two_queues() {
    a_killed_back_end_is_replaced_without_an_error(4096, 2);
}
