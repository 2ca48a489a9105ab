//! The example for CI runs as it is, and leaves reports.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::scratch;
use crate::powercut::{boot_command, guest_options, packages, run_unpacked};

/// A folder with `powercut` and mkfs.ext4, as a runner of CI has them in its path.
fn programs_in(folder: &Path) {
    fs::create_dir(folder).expect("a folder");
    symlink(env!("CARGO_BIN_EXE_powercut"), folder.join("powercut")).expect("a link");
    let (mkfs, packages) = (folder.join("mkfs.ext4"), packages());
    let script = format!(
        "#!/bin/sh\nMKE2FS_CONFIG={0}/etc/mke2fs.conf exec {1} {0} /usr/sbin/mke2fs -t ext4 \"$@\"\n",
        packages.display(),
        run_unpacked().display()
    );
    fs::write(&mkfs, script).expect("a script");
    fs::set_permissions(mkfs, PermissionsExt::from_mode(0o755)).expect("an executable");
}

#[test]
fn the_example_for_ci_runs_and_leaves_reports_of_powercut() {
    let scratch = scratch();
    let bin = scratch.path().join("bin");
    programs_in(&bin);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci/run");
    let path = std::env::var("PATH").expect("a path");
    let output = boot_command(&example)
        .current_dir(scratch.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("GUEST_OPTIONS", guest_options().join(" "))
        .envs([("MODELS", "drop-1"), ("BUDGET", "20"), ("EXHAUSTIVE", "0")])
        .output()
        .expect("the example");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{complained}", output.status);
    assert!(said.contains("drop-1: 20 states checked, 0 failed"), "{said}");
    let results = scratch.path().join("results");
    let report = fs::read_to_string(results.join("drop-1.xml")).expect("a report");
    assert!(report.contains(r#"tests="20" failures="0" errors="0""#), "{report}");
    let control = fs::read_to_string(results.join("control.txt")).expect("what the control said");
    assert!(control.contains("makes the check fail"), "{control}");
}
