//! Programs on ext4 in a guest, recorded by `powercut`: one that renames a file that it has not synced, which is
//! found, and the same with the sync, in which nothing is found.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Daemon, Guest, scratch};

/// Versions that the guest writes.
const VERSIONS: u32 = 3;

/// The journal is replayed, by e2fsck, which finds nothing else; each file that is there is whole, and what was called
/// synced is there.
const CHECK: &str = r#"
run() { "$RUN" "$PACKAGES" "$@" 2>/dev/null; }
run /usr/sbin/e2fsck -p "$1" >/dev/null
[ $? -le 1 ] || exit 10
run /usr/sbin/e2fsck -fn "$1" >/dev/null || exit 11
synced=$(sed -n 's/^synced-//p' "$2" | tail -n 1)
for version in 1 2 3; do
    if run /usr/sbin/debugfs -R "stat /f$version" "$1" | grep -q Inode; then
        [ "$(run /usr/sbin/debugfs -R "cat /f$version" "$1" | wc -c)" = 3000 ] || exit 20
    else
        [ "$version" -gt "${synced:-0}" ] || exit 21
    fi
done
"#;

fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/packages")
}

fn run_unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/run-unpacked")
}

/// An image with an ext4, and a copy of it.
fn make_image(folder: &Path) -> PathBuf {
    let image = folder.join("disk.raw");
    File::create(&image).and_then(|file| file.set_len(24 << 20)).expect("a sparse file");
    let made = Command::new(run_unpacked())
        .arg(packages())
        .args(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096"])
        .arg(&image)
        .env("MKE2FS_CONFIG", packages().join("etc/mke2fs.conf"))
        .status();
    assert!(made.expect("mke2fs").success());
    fs::copy(&image, folder.join("base.raw")).expect("a copy");
    image
}

/// Records a guest that writes each file with the option `sync` of dd, renames it, and does what `after` says.
fn record(folder: &Path, sync: &str, after: &str) {
    let daemon = Daemon::start_recording(&make_image(folder), &folder.join("log"));
    let guest = Guest::machine(folder).disk(&daemon).boot(&format!(
        "mount -t ext4 -o commit=1 /dev/vda /mnt
        for version in $(seq {VERSIONS}); do
            (yes $version || true) | head -c 3000 | dd of=/mnt/new {sync}
            mv /mnt/new /mnt/f$version
            {after}
        done
        umount /mnt
        no_disk_errors"
    ));
    guest.finish();
    daemon.stop();
}

/// Checks states of the recording. Returns the exit status, and what was said.
fn states(folder: &Path, model: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_powercut"))
        .arg("states")
        .arg(folder.join("log"))
        .arg("--base")
        .arg(folder.join("base.raw"))
        .args(["--copy", "--model", model, "--budget", "120", "--timeout", "400"])
        .args(["--", "sh", "-c", CHECK, "check", "{image}", "{marks}"])
        .env("RUN", run_unpacked())
        .env("PACKAGES", packages())
        .output()
        .expect("powercut");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_rename_without_a_sync_is_found_on_ext4_by_powercut() {
    let scratch = scratch();
    // The journal is committed meanwhile, and the data are not written.
    record(scratch.path(), "", "sleep 2");
    let (code, said) = states(scratch.path(), "prefix");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("having all that was written"), "{said}");
}

#[test]
fn with_a_sync_nothing_is_found_on_ext4_by_powercut_but_in_the_control() {
    let scratch = scratch();
    let mark = "printf '%-512s' synced-$version | dd of=/dev/vdb bs=512 oflag=direct";
    record(scratch.path(), "conv=fsync", &format!("sync; {mark}"));
    for model in ["prefix", "drop-1", "drop-2", "random:1"] {
        let (code, said) = states(scratch.path(), model);
        println!("{said}");
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = states(scratch.path(), "ignore-flush");
    assert_eq!(code, Some(1), "{said}");
}
