//! What is installed beside the programs: units, manual pages, the description for management software; and
//! the daemon under the restrictions of its unit.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon::{Daemon, make_namespace};
use common::frontend::{Driver, OK};
use vhost_user_btt::sandbox::{ThreadKind, allowed};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// Runs systemd-analyze, which `scripts/test` installs.
fn analyze(arguments: &[&str]) -> String {
    let output = Command::new("systemd-analyze").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout)
}

/// The units, for a guest `a`, of a program that exists on this machine.
fn units(folder: &Path) -> [String; 2] {
    ["vhost-user-btt@.service", "vhost-user-btt@.socket"].map(|name| {
        let text = fs::read_to_string(packaging("systemd").join(name)).unwrap();
        let text = text.replace("/usr/bin/vhost-user-btt", env!("CARGO_BIN_EXE_vhost-user-btt"));
        fs::write(folder.join(name), &text).unwrap();
        let path = folder.join(name.replace('@', "@a"));
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn the_units_are_right_and_give_the_daemon_next_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [service, socket] = units(folder.path());
    analyze(&["verify", "--man=no", &service, &socket]);
    let report = analyze(&["security", "--offline=true", "--no-pager", &service]);
    let line = report.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    let level = line.split_whitespace().find_map(|word| word.parse::<f32>().ok()).unwrap();
    assert!(level < 1.0, "{line}");
}

/// The system calls of a group of systemd's.
fn group(name: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    let text = analyze(&["syscall-filter", name]);
    for entry in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if entry.starts_with('@') && entry != name {
            calls.extend(group(entry));
        } else if !entry.starts_with('@') {
            calls.insert(entry.to_owned());
        }
    }
    calls
}

#[test]
fn the_unit_allows_the_system_calls_that_serving_takes() {
    let text = fs::read_to_string(packaging("systemd/vhost-user-btt@.service")).unwrap();
    let mut unit = BTreeSet::new();
    for words in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let is_denied = words.starts_with('~');
        for word in words.trim_start_matches('~').split_whitespace() {
            let calls =
                if word.starts_with('@') { group(word) } else { BTreeSet::from([word.to_owned()]) };
            for call in calls {
                if is_denied {
                    unit.remove(&call)
                } else {
                    unit.insert(call)
                };
            }
        }
    }
    let missing: Vec<_> =
        allowed(ThreadKind::Process).into_iter().filter(|call| !unit.contains(*call)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The script of a shell that makes everything read-only but the folder `$1`, hides what is not of a process
/// from /proc, and becomes a user without privileges.
const CONFINED: &str = "set -e
mount --make-rprivate /
mount --bind \"$1\" \"$1\"
mount -o remount,bind,ro /
mount -t proc -o subset=pid proc /proc
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\"";

#[test]
fn the_daemon_runs_as_its_unit_runs_it() {
    if !rustix::process::geteuid().is_root() {
        // Only root can take so much away.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    for path in [folder.path(), file.as_path()] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let program = folder.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_vhost-user-btt"), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let socket = folder.path().join("disk");
    // No network, no devices of other namespaces, a file system that is read-only, as nobody.
    let mut command = Command::new("unshare");
    command.args(["--net", "--ipc", "--uts", "--mount", "sh", "-c", CONFINED, "sh"]);
    command.arg(folder.path()).arg(&program).arg("--sandbox=on");
    command.arg("--nvdimm").arg(&file).arg("--socket-path").arg(&socket);
    let mut daemon = Daemon::spawn(command, socket.clone());
    daemon.wait_for_log("in the sandbox: files restricted, system calls filtered");
    for byte in 1..3 {
        let mut driver = Driver::connect(daemon.connect(), 1);
        assert_eq!(driver.write(0, 0, &[byte; 4096]), OK);
        assert_eq!(driver.read(0, 0, 4096), [byte; 4096]);
    }
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");
    assert!(!socket.exists());
}

/// A filter that kills for the calls that install Landlock and filters, as that of a service manager may.
fn foreign_filter() -> seccompiler::BpfProgram {
    let calls = [
        nix::libc::SYS_landlock_create_ruleset,
        nix::libc::SYS_landlock_add_rule,
        nix::libc::SYS_landlock_restrict_self,
        nix::libc::SYS_seccomp,
    ];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let (others, these) =
        (seccompiler::SeccompAction::Allow, seccompiler::SeccompAction::KillProcess);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = seccompiler::SeccompFilter::new(rules, others, these, architecture).unwrap();
    filter.try_into().unwrap()
}

#[test]
fn a_filter_of_the_service_manager_is_not_provoked() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let socket = folder.path().join("disk");
    let serve = |option: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg(option).arg("--nvdimm").arg(&file).arg("--socket-path").arg(&socket);
        let filter = foreign_filter();
        // SAFETY: the filter was built before; to install it takes system calls alone.
        unsafe {
            command.pre_exec(move || {
                seccompiler::apply_filter(&filter).map_err(|_| std::io::ErrorKind::Other.into())
            });
        }
        Daemon::spawn(command, socket.clone())
    };
    let mut daemon = serve("--sandbox=auto");
    daemon.wait_for_log("--sandbox=on installs them nevertheless");
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    drop(driver);
    assert!(daemon.terminate().0.success());
    // The filter does kill.
    assert!(!serve("--sandbox=on").wait().success());
}

#[test]
fn the_description_for_management_software_is_of_a_block_device() {
    let text = fs::read_to_string(packaging("50-vhost-user-btt.json")).unwrap();
    let description: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(description["type"], "block");
    assert_eq!(description["binary"], "/usr/bin/vhost-user-btt");
}
