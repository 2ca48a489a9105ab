//! `SQLite` on ext4 in a guest, recorded by `powercut`: with `synchronous=OFF`, what was committed is lost; with
//! `FULL`, nothing is.

use std::path::Path;
use std::process::Command;

use crate::harness::{Daemon, Guest, scratch};
use crate::powercut::{assert_found, assert_right_but_for_the_control, make_image};

/// What was committed is in the database, which is whole.
const CHECK: &str = r#"
run() { "$RUN" "$PACKAGES" "$@" 2>/dev/null; }
run /usr/sbin/e2fsck -p "$1" >/dev/null
[ $? -le 1 ] || exit 10
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
for file in db db-journal; do
    if run /usr/sbin/debugfs -R "stat /$file" "$1" | grep -q Inode; then
        run /usr/sbin/debugfs -R "dump /$file $folder/$file" "$1"
    fi
done
committed=$(sed -n 's/^committed-//p' "$2" | tail -n 1)
[ -n "$committed" ] || exit 0
[ "$(run /usr/bin/sqlite3 "$folder/db" 'PRAGMA integrity_check')" = ok ] || exit 20
[ "$(run /usr/bin/sqlite3 "$folder/db" 'SELECT count(*) FROM t')" -ge "$committed" ] || exit 21
"#;

/// Records three transactions. The journal is truncated and not removed: `FULL` does not sync a folder in which a
/// journal was removed, and says that it does not.
fn record(folder: &Path, synchronous: &str) {
    let archive = folder.join("sqlite.cpio");
    let packed = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/pack-program"))
        .arg(&archive)
        .arg("/usr/bin/sqlite3")
        .status();
    assert!(packed.expect("pack-program").success());
    let daemon = Daemon::start_recording(&make_image(folder), &folder.join("log"));
    let guest = Guest::machine(folder).disk(&daemon).initramfs(&archive).boot(&format!(
        "mount -t ext4 /dev/vda /mnt
        sql() {{
            sqlite3 -batch /mnt/db \"PRAGMA synchronous={synchronous}; PRAGMA journal_mode=TRUNCATE; $1\" >/dev/null
        }}
        sql 'CREATE TABLE t(n INTEGER PRIMARY KEY, v BLOB);'
        sync
        for n in $(seq 3); do
            sql \"INSERT INTO t VALUES($n, randomblob(3000));\"
            printf '%-512s' committed-$n | dd of=/dev/vdb bs=512 oflag=direct
        done
        umount /mnt
        no_disk_errors"
    ));
    guest.finish();
    daemon.stop();
}

#[test]
fn sqlite_that_does_not_sync_is_found_by_powercut() {
    let scratch = scratch();
    record(scratch.path(), "OFF");
    assert_found(scratch.path(), CHECK);
}

#[test]
fn sqlite_that_syncs_is_right_in_the_states_that_powercut_tries() {
    let scratch = scratch();
    record(scratch.path(), "FULL");
    assert_right_but_for_the_control(scratch.path(), CHECK);
}
