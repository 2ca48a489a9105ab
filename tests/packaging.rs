//! What is installed beside the programs: units, manual pages, the description for management software; and
//! the daemon under the restrictions of its unit.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon::{Daemon, make_namespace};
use common::frontend::{Driver, OK, T_FLUSH};
use nix::libc;
use rustix::fs::{MemfdFlags, memfd_create};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
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

/// The system calls that the unit allows.
fn calls_of_the_unit() -> BTreeSet<String> {
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
    unit
}

#[test]
fn the_unit_allows_the_system_calls_that_serving_takes() {
    let unit = calls_of_the_unit();
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

/// The numbers of system calls, by name, as the C compiler knows them.
fn numbers_of_calls() -> BTreeMap<String, i64> {
    let arguments = ["-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"];
    let output = Command::new("cc").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let number = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

/// A filter that does `matching` for calls that one of `rules` fits, and `others` for all others, as a file.
fn filter_file(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    matching: SeccompAction,
) -> File {
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, others, matching, architecture).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    let bytes = program.iter().flat_map(|step| {
        let code = step.code.to_ne_bytes();
        [&code[..], &[step.jt, step.jf], &step.k.to_ne_bytes()].concat()
    });
    // Not closed by exec: the program that installs the filter reads it.
    let mut file = File::from(memfd_create("filter", MemfdFlags::empty()).unwrap());
    file.write_all(&bytes.collect::<Vec<_>>()).unwrap();
    file.rewind().unwrap();
    file
}

/// The rule that the bits `mask` of an argument are `value`.
fn argument(index: u8, mask: u64, value: u64) -> SeccompRule {
    let kind = SeccompCmpArgLen::Qword;
    let condition = SeccompCondition::new(index, kind, SeccompCmpOp::MaskedEq(mask), value);
    SeccompRule::new(vec![condition.unwrap()]).unwrap()
}

/// What systemd installs for `SystemCallFilter=`, `RestrictAddressFamilies=AF_UNIX`, `MemoryDenyWriteExecute=yes` and
/// `RestrictNamespaces=yes` (src/shared/seccomp-util.c).
fn filters_of_the_unit() -> [File; 3] {
    let numbers = numbers_of_calls();
    let refused = |errno: i32| SeccompAction::Errno(errno.cast_unsigned());
    let is_unix = argument(0, u64::MAX, libc::AF_UNIX as u64);
    let rules = |call: &String| match call.as_str() {
        "socket" => vec![is_unix.clone()],
        _ => Vec::new(),
    };
    let calls = calls_of_the_unit();
    let known = calls.iter().filter_map(|call| Some((*numbers.get(call)?, rules(call))));
    let bits = |flag: i32| u64::from(flag.cast_unsigned());
    let executable = bits(libc::PROT_EXEC);
    let both = executable | bits(libc::PROT_WRITE);
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let namespaces: Vec<_> =
        namespaces.iter().map(|flag| argument(0, bits(*flag), bits(*flag))).collect();
    let denied = [
        (numbers["mmap"], vec![argument(2, both, both)]),
        (numbers["mprotect"], vec![argument(2, executable, executable)]),
        (numbers["clone"], namespaces.clone()),
        (numbers["unshare"], namespaces),
        (numbers["setns"], Vec::new()),
    ];
    let clone3 = BTreeMap::from([(numbers["clone3"], Vec::new())]);
    [
        filter_file(known.collect(), refused(libc::EPERM), SeccompAction::Allow),
        filter_file(BTreeMap::from(denied), SeccompAction::Allow, refused(libc::EPERM)),
        filter_file(clone3, SeccompAction::Allow, refused(libc::ENOSYS)),
    ]
}

/// Namespaces and filters as those of the unit, without systemd: a user of its own, no network, a read-only file
/// system but for `folder`, no devices, no capabilities.
fn as_in_the_unit(folder: &Path, filters: &[File]) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]);
    command.args(["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]);
    command.arg("--bind").args([folder, folder]);
    for filter in filters {
        command.args(["--add-seccomp-fd", &filter.as_raw_fd().to_string()]);
    }
    command
}

#[test]
fn the_daemon_serves_under_all_filters_and_namespaces_of_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let filters = filters_of_the_unit();
    let socket = folder.path().join("disk");
    let mut command = as_in_the_unit(folder.path(), &filters);
    command.arg(env!("CARGO_BIN_EXE_vhost-user-btt")).arg("--sandbox=on");
    command.arg("--nvdimm").arg(&file).arg("--socket-path").arg(&socket);
    let mut daemon = Daemon::spawn(command, socket.clone());
    daemon.wait_for_log("in the sandbox: files restricted, system calls filtered");
    for byte in 1..3 {
        let mut driver = Driver::connect(daemon.connect(), 1);
        assert_eq!(driver.write(0, 0, &[byte; 4096]), OK);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        assert_eq!(driver.read(0, 0, 4096), [byte; 4096]);
    }
    // The process that was started is not the daemon, but the one that waits for it.
    let peer = rustix::net::sockopt::socket_peercred(daemon.connect()).unwrap();
    rustix::process::kill_process(peer.pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().success(), "{}", daemon.log());
    assert!(!socket.exists());
}

#[test]
fn what_the_unit_takes_away_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let filters = filters_of_the_unit();
        let output = as_in_the_unit(folder.path(), &filters).args(["sh", "-c", script]).output();
        output.unwrap().status.success()
    };
    assert!(run("true"));
    assert!(run(&format!("echo >{}/file", folder.path().display())));
    for forbidden in [
        "echo >/etc/file",
        "test -e /dev/kmsg",
        "unshare --user true",
        "mount -t tmpfs tmpfs /mnt",
        "test \"$(wc -l </proc/net/dev)\" -gt 3",
    ] {
        assert!(!run(forbidden), "{forbidden}");
    }
}

/// A filter that kills for the calls that install Landlock and filters, as that of a service manager may.
fn foreign_filter() -> seccompiler::BpfProgram {
    let calls = [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
        libc::SYS_seccomp,
    ];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let (others, these) = (SeccompAction::Allow, SeccompAction::KillProcess);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, others, these, architecture).unwrap();
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

#[test]
fn what_the_crate_ships_is_the_programs_and_their_documents() {
    let mut command = Command::new(env!("CARGO"));
    let command = command.args(["package", "--list", "--offline", "--allow-dirty"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shipped = String::from_utf8(output.stdout).unwrap();
    let folders = ["src/", "packaging/", "docs/"];
    let foreign =
        |file: &&str| file.contains('/') && !folders.iter().any(|at| file.starts_with(at));
    assert_eq!(shipped.lines().find(foreign), None);
    for needed in
        ["src/bin/vhost_user_btt.rs", "packaging/generate.rs", "README.md", "LICENSE-APACHE"]
    {
        assert!(shipped.lines().any(|file| file == needed), "{needed}");
    }
    // Cargo makes some files itself.
    let size = |file| fs::metadata(packaging("..").join(file)).map_or(0, |metadata| metadata.len());
    let bytes: u64 = shipped.lines().map(size).sum();
    assert!((1 << 20..4 << 20).contains(&bytes), "{bytes} bytes");
}
