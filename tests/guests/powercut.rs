//! Programs on ext4 in a guest, recorded by `powercut`: one that renames a file that it has not synced, which is
//! found, and the same with the sync, in which nothing is found.

use std::ffi::OsStr;
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

/// Checks one state after another on /dev/vda, and tells the disk of marks, /dev/vdb.
const LOOP: &str = r#"
set +ex
echo 0 >/sys/block/vda/queue/read_ahead_kb
tell() { printf '%-512s' "$1" | dd of=/dev/vdb bs=512 oflag=direct 2>/dev/null; }
check() {
    synced=$(dd if=/dev/vdb bs=4096 count=1 iflag=direct 2>/dev/null | tr -d '\000' | sed -n 's/^synced-//p' | tail -n 1)
    mount -t ext4 -o noinit_itable /dev/vda /mnt || { echo mount; return 1; }
    for version in $(seq 9); do
        if [ -e /mnt/f$version ]; then
            [ "$(wc -c </mnt/f$version)" = 3000 ] || echo "f$version has another size"
        else
            [ "$version" -gt "${synced:-0}" ] || echo "f$version is lost"
        fi
    done
    umount /mnt || echo umount
}
while blockdev --flushbufs /dev/vda && tell NEXT; do
    wrong=$(check 2>/dev/null)
    [ -z "$wrong" ] && tell PASS || tell "FAIL $wrong"
done
"#;

pub fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/packages")
}

pub fn run_unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/run-unpacked")
}

/// An image with an ext4, and a copy of it.
pub fn make_image(folder: &Path) -> PathBuf {
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
    record_mounted(folder, "commit=1", sync, after);
}

/// As `record`, with these options of mount.
fn record_mounted(folder: &Path, options: &str, sync: &str, after: &str) {
    let daemon = Daemon::start_recording(&make_image(folder), &folder.join("log"));
    let guest = Guest::machine(folder).disk(&daemon).boot(&format!(
        "mount -t ext4 -o {options} /dev/vda /mnt
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
    states_by(folder, CHECK, &["--model", model, "--budget", "120"])
}

/// As `states`, with another check.
pub fn states_by(folder: &Path, check: &str, options: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_powercut"))
        .arg("states")
        .arg(folder.join("log"))
        .arg("--base")
        .arg(folder.join("base.raw"))
        .args(["--copy", "--timeout", "400"])
        .args(options)
        .args(["--", "sh", "-c", check, "check", "{image}", "{marks}"])
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
    assert_eq!(reproducer(&said), 0, "losing no write: {said}");
}

/// The check fails in a state in which no write is lost: the order of the writes alone is wrong.
pub fn assert_found(folder: &Path, check: &str) {
    let (code, said) = states_by(folder, check, &["--model", "prefix", "--most-failures", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(reproducer(&said), 0, "losing no write: {said}");
}

/// The check passes in all states that are tried, and fails in the control, a disk that ignores flushes.
pub fn assert_right_but_for_the_control(folder: &Path, check: &str) {
    for model in ["prefix", "drop-1", "random:1"] {
        let (code, said) = states_by(folder, check, &["--model", model, "--budget", "40"]);
        println!("{said}");
        assert_eq!(code, Some(0), "{said}");
    }
    let control = ["--model", "ignore-flush", "--most-failures", "1"];
    let (code, said) = states_by(folder, check, &control);
    assert_eq!(code, Some(1), "{said}");
}

/// The sectors of the first reproducer: three at most.
pub fn reproducer(said: &str) -> usize {
    println!("{said}");
    assert!(said.contains("makes the check fail"), "{said}");
    let (_, state) = said.split_once("--state '").expect("a reproducer");
    let state = state.split('\'').next().unwrap_or_default();
    let sectors = state.matches('@').count();
    assert!(sectors <= 3, "{sectors} sectors: {said}");
    sectors
}

#[test]
fn a_file_that_is_appended_to_without_a_sync_is_found_on_ext4_by_powercut() {
    let scratch = scratch();
    record(
        scratch.path(),
        "",
        "printf '%-512s' synced-$version | dd of=/dev/vdb bs=512 oflag=direct",
    );
    assert_found(scratch.path(), CHECK);
}

#[test]
fn ext4_without_barriers_is_found_by_powercut() {
    let scratch = scratch();
    let mark = "printf '%-512s' synced-$version | dd of=/dev/vdb bs=512 oflag=direct";
    record_mounted(scratch.path(), "barrier=0", "conv=fsync", &format!("sync; {mark}"));
    let options = ["--model", "drop-1", "--from", "synced-1", "--most-failures", "1"];
    let (code, said) = states_by(scratch.path(), CHECK, &options);
    assert_eq!(code, Some(1), "{said}");
    // No flush came: of all that was written, it takes one sector that is not there yet.
    assert_eq!(reproducer(&said), 1, "{said}");
}

/// A file is written, and then another one that names it. Data of the kind `a` are not synced before, those of `b` are.
const TWO_FILES: &str = r"
mount -t ext4 -o commit=1 /dev/vda /mnt
for version in 1 2 3; do
    for kind in a b; do
        (yes $version || true) | head -c 3000 >/mnt/data-$kind-$version
        [ $kind = a ] || sync /mnt/data-$kind-$version
        echo $version | dd of=/mnt/commit-$kind conv=fsync
    done
done
umount /mnt
no_disk_errors
";

/// The file that is named is whole.
const NAMED_IS_WHOLE: &str = r#"
run() { "$RUN" "$PACKAGES" "$@" 2>/dev/null; }
run /usr/sbin/e2fsck -p "$1" >/dev/null
[ $? -le 1 ] || exit 10
version=$(run /usr/sbin/debugfs -R "cat /commit-KIND" "$1")
[ -n "$version" ] || exit 0
[ "$(run /usr/sbin/debugfs -R "cat /data-KIND-$version" "$1" | wc -c)" = 3000 ]
"#;

#[test]
fn two_files_without_a_sync_between_them_are_found_by_powercut() {
    let scratch = scratch();
    let daemon = Daemon::start_recording(&make_image(scratch.path()), &scratch.path().join("log"));
    Guest::machine(scratch.path()).disk(&daemon).boot(TWO_FILES).finish();
    daemon.stop();
    let check = |kind: &str| NAMED_IS_WHOLE.replace("KIND", kind);
    assert_found(scratch.path(), &check("a"));
    let (code, said) =
        states_by(scratch.path(), &check("b"), &["--model", "drop-1", "--budget", "40"]);
    assert_eq!(code, Some(0), "{said}");
}

/// Covers all states of the recording between two marks, with a guest that checks one after another.
fn explore(folder: &Path, from: &str, to: &str) -> (Option<i32>, String) {
    let script = folder.join("loop.sh");
    fs::write(&script, LOOP).expect("a script");
    let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/boot");
    let output = Command::new(env!("CARGO_BIN_EXE_powercut"))
        .arg("explore")
        .arg(folder.join("log"))
        .arg("--base")
        .arg(folder.join("base.raw"))
        .args(["--with-marks", "--from", from, "--to", to, "--timeout", "400", "--"])
        .arg(boot)
        .arg("--script")
        .arg(script)
        .args(["--disk", "{disk}", "--disk", "{marks}"])
        .output()
        .expect("powercut");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn all_states_of_a_journal_commit_of_ext4_are_covered_by_powercut() {
    let scratch = scratch();
    let mark = "printf '%-512s' synced-$version | dd of=/dev/vdb bs=512 oflag=direct";
    record(scratch.path(), "conv=fsync", &format!("sync; {mark}"));
    let (code, said) = explore(scratch.path(), "synced-1", "synced-2");
    println!("{said}");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(" 0 failed\n"), "{said}");
    // Each moment says whether it is covered, and there are some in which there is a choice.
    assert!(said.lines().filter(|line| line.contains("all are covered")).count() > 1, "{said}");
    assert!(!said.contains("not deterministic"), "{said}");
    assert!(said.contains("sectors are uncertain"), "{said}");
}

/// A guest made by `powercut guest` of the rig's kernel, with `modules` of it and `programs` of this host, which runs
/// `script`.
pub fn make_guest<P: AsRef<OsStr>>(
    out: &Path,
    modules: &[&str],
    programs: &[P],
    script: &str,
) -> PathBuf {
    let file = out.with_extension("script");
    fs::write(&file, script).expect("a script");
    let mut command = Command::new(env!("CARGO_BIN_EXE_powercut"));
    command.arg("guest").arg(out).arg("--script").arg(file);
    command.args(guest_options());
    for module in modules {
        command.arg("--module").arg(module);
    }
    for program in programs {
        command.arg("--with").arg(program);
    }
    let output = command.output().expect("powercut");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out.join("boot")
}

/// Options of `powercut guest` for the kernel and the busybox of the rig.
pub fn guest_options() -> Vec<String> {
    let kernels = fs::read_dir(packages().join("usr/lib/modules")).expect("kernels");
    let modules = kernels.map(|kernel| kernel.expect("a kernel").path()).next();
    let files = [
        ("--kernel", packages().with_file_name("vmlinuz")),
        ("--modules", modules.expect("one kernel")),
        ("--busybox", packages().join("usr/bin/busybox")),
    ];
    files.iter().map(|(option, file)| format!("{option}={}", file.display())).collect()
}

/// Runs `program` with the QEMU of the rig for guests that it boots.
pub fn boot_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("QEMU", packages().with_file_name("qemu-system-x86_64"));
    // Where there is KVM, it need not work.
    let accelerator = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu/accelerator");
    let found = Command::new(accelerator).output().expect("qemu/accelerator");
    if !found.stdout.starts_with(b"kvm") {
        command.env("ACCEL", "tcg,thread=single");
    }
    command
}

#[test]
fn a_guest_made_by_powercut_has_the_disks_and_the_programs_of_the_host() {
    let scratch = scratch();
    let folder = scratch.path();
    let boot = make_guest(
        &folder.join("guest"),
        &[],
        &["getconf"],
        "set -e
        getconf PAGESIZE >/tmp/size
        mount -t ext4 /dev/disk/by-id/virtio-powercut /mnt
        cp /tmp/size /mnt/size
        umount /mnt
        printf '%-512s' written | dd of=/dev/disk/by-id/virtio-marks bs=512 oflag=direct",
    );
    let daemon = Daemon::start_recording(&make_image(folder), &folder.join("log"));
    let output = boot_command(&boot).args(daemon.sockets()).output().expect("the guest");
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(
        console.contains("@@guest-exit 0"),
        "{console}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    daemon.stop();
    let mut show = Command::new(env!("CARGO_BIN_EXE_powercut"));
    let shown = show.arg("show").arg(folder.join("log")).output().expect("powercut");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("written"), "{shown:?}");
    let mut cat = Command::new(run_unpacked());
    cat.arg(packages()).args(["/usr/sbin/debugfs", "-R", "cat /size"]).arg(folder.join("disk.raw"));
    assert_eq!(cat.output().expect("debugfs").stdout, b"4096\n");
}
