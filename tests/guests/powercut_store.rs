//! redb, a key-value store, on ext4 in a guest, recorded by `powercut`: without syncs, what was committed is lost; with
//! them, nothing is. The program is tests/guests/store, built by
//! `qemu/pack-programs --store`.

use std::path::Path;

use crate::harness::{Daemon, Guest, programs, scratch};
use crate::powercut::{assert_found, assert_right_but_for_the_control, make_image, packages};

/// Numbers whose values the store keeps.
const NUMBERS: u32 = 3;

/// What was committed is in the store, which is whole.
const CHECK: &str = r#"
run() { "$RUN" "$PACKAGES" "$@" 2>/dev/null; }
run /usr/sbin/e2fsck -p "$1" >/dev/null
[ $? -le 1 ] || exit 10
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
if run /usr/sbin/debugfs -R "stat /store" "$1" | grep -q Inode; then
    run /usr/sbin/debugfs -R "dump /store $folder/store" "$1"
fi
committed=$(sed -n 's/^committed-//p' "$2" | tail -n 1)
[ -n "$committed" ] || exit 0
"$PACKAGES/../bin/guest-store" check "$folder/store" "$committed"
"#;

/// Records commits, each of which is marked. The first one is synced, so that the file is there.
fn record(folder: &Path, how: &str) {
    assert!(
        packages().with_file_name("bin").join("guest-store").exists(),
        "qemu/pack-programs --store"
    );
    let daemon = Daemon::start_recording(&make_image(folder), &folder.join("log"));
    let mark = r#"printf "%-512s" committed-$1 | dd of=/dev/vdb bs=512 oflag=direct 2>/dev/null"#;
    let guest = Guest::machine(folder).disk(&daemon).initramfs(&programs()).boot(&format!(
        "mount -t ext4 /dev/vda /mnt
        /opt/guest-store put /mnt/store sync 0 true
        sync
        /opt/guest-store put /mnt/store {how} {NUMBERS} '{mark}'
        umount /mnt
        no_disk_errors"
    ));
    guest.finish();
    daemon.stop();
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_store_that_does_not_sync_is_found_by_powercut() {
    let scratch = scratch();
    record(scratch.path(), "nosync");
    assert_found(scratch.path(), CHECK);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_store_that_syncs_is_right_in_the_states_that_powercut_tries() {
    let scratch = scratch();
    record(scratch.path(), "sync");
    assert_right_but_for_the_control(scratch.path(), CHECK);
}
