//! What cannot be read is not known: that is no damage, and nothing is to be given up for it. And looking
//! at a file changes nothing of it.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use common::daemon::{make_namespace, nvdimmctl, nvdimmctl_ok};
use common::shim;
use serde_json::Value;

/// The preloaded library, built once.
static SHIM: LazyLock<PathBuf> = LazyLock::new(|| shim::build("unreadable"));

/// Runs nvdimmctl while the page at byte `offset` of the file cannot be read.
fn with_unreadable(offset: u64, arguments: &[&str]) -> Output {
    let page = offset - offset % 4096;
    Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
        .args(arguments)
        .env("LD_PRELOAD", &*SHIM)
        .env("UNREADABLE", format!("{page}-{}", page + 4096))
        .output()
        .unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Checks that fail for want of a page, and change nothing.
fn cannot_be_checked(path: &Path, offset: u64, command: &[&str]) {
    let before = fs::read(path).unwrap();
    let output = with_unreadable(offset, &[command, &[path.to_str().unwrap()]].concat());
    let message = message(&output);
    assert_eq!(output.status.code(), Some(8), "{command:?}, {offset:#x}: {output:?}");
    assert!(message.contains("could not be checked"), "{message}");
    assert!(message.contains("Input/output error") || message.contains("I/O error"), "{message}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(fs::read(path).unwrap() == before, "{command:?} has written");
}

#[test]
fn a_disk_whose_metadata_cannot_be_read_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    // So that the map is no hole.
    let image = tempfile::NamedTempFile::new().unwrap();
    fs::write(image.path(), "contents").unwrap();
    nvdimmctl_ok(&[Path::new("import"), &path, image.path()]);
    let inspected = nvdimmctl_ok(&[Path::new("inspect"), Path::new("--json"), &path]);
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    let arena = &inspected["arenas"][0];
    for field in ["infooff", "mapoff", "logoff", "info2off"] {
        let offset = 4096 + arena[field].as_u64().unwrap();
        cannot_be_checked(&path, offset, &["check-namespace"]);
        cannot_be_checked(&path, offset, &["check-namespace", "--repair"]);
    }
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no backup of a repair that was not made: {names:?}");
    nvdimmctl_ok(&[Path::new("check-namespace"), &path]);
}

#[test]
fn a_region_whose_metadata_cannot_be_read_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&[Path::new("create"), &path, Path::new("--size=64M")]);
    nvdimmctl_ok(&["create-namespace", path.to_str().unwrap(), "--mode", "dax"]);
    for offset in [4096, 8192] {
        cannot_be_checked(&path, offset, &["dax", "check"]);
        cannot_be_checked(&path, offset, &["dax", "check", "--repair"]);
    }
    nvdimmctl_ok(&[Path::new("dax"), Path::new("check"), &path]);
}

#[test]
fn an_export_names_the_option_that_skips_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let pattern = folder.path().join("pattern");
    // More than the lanes' free blocks, which are near the end of the file, where labels are looked for.
    fs::write(&pattern, vec![7; 4 << 20]).unwrap();
    nvdimmctl_ok(&[Path::new("import"), &path, &pattern]);
    let image = folder.path().join("image");
    let [from, to] = [&path, &image].map(|path| path.to_str().unwrap());
    let bytes = fs::read(&path).unwrap();
    let is_data = |page: &[u8]| page.iter().all(|byte| *byte == 7);
    let block = bytes.chunks(4096).position(is_data).unwrap() as u64 * 4096;
    let output = with_unreadable(block, &["export", from, to]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(message(&output).contains("--skip-unreadable"), "{output:?}");
    assert!(!image.exists());
    let skipped = with_unreadable(block, &["export", from, to, "--skip-unreadable"]);
    assert!(skipped.status.success(), "{skipped:?}");
    assert!(message(&skipped).contains("4096 bytes could not be read"), "{skipped:?}");
}

/// A folder in a file system whose files are in memory, if there is one.
fn memory_folder() -> Option<tempfile::TempDir> {
    let system = rustix::fs::statfs("/dev/shm").ok()?;
    (system.f_type == libc::TMPFS_MAGIC).then(|| tempfile::tempdir_in("/dev/shm").unwrap())
}

#[test]
fn commands_that_look_allocate_nothing() {
    let Some(folder) = memory_folder() else { return };
    for mode in ["sector", "dax", "raw"] {
        let path = folder.path().join(mode);
        nvdimmctl_ok(&[Path::new("create"), &path, Path::new("--size=64M")]);
        let looks: [&[&str]; 7] = [
            &["list", "-v"],
            &["inspect"],
            &["check-namespace"],
            &["check-labels"],
            &["dax", "list"],
            &["dax", "check"],
            &["export", "--force-raw"],
        ];
        for made in [false, true] {
            if made {
                nvdimmctl_ok(&["create-namespace", path.to_str().unwrap(), "--mode", mode]);
            }
            let before = fs::metadata(&path).unwrap().blocks();
            for look in looks {
                nvdimmctl(&[look, &[path.to_str().unwrap()]].concat());
                let after = fs::metadata(&path).unwrap().blocks();
                assert_eq!(after, before, "{mode}: {look:?}");
            }
        }
    }
}

#[test]
fn files_that_cannot_be_opened_do_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let [missing, lost] = ["missing", "lost"].map(|name| folder.path().join(name));
    let output = nvdimmctl(&[Path::new("list"), &missing, &path, &lost]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("namespace0.0"), "{output:?}");
    assert!(message(&output).contains("missing") && message(&output).contains("lost"));
}

#[test]
fn messages_name_the_names_and_modes_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    let file = path.to_str().unwrap();
    nvdimmctl_ok(&["create", file, "--size", "64M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", file, "--name", "root", "--size", "32M"]);
    nvdimmctl_ok(&["create-namespace", file, "--name", "swap", "--size", "32M"]);
    for arguments in [&["export", file][..], &["export", file, "--namespace", "home"]] {
        let message = message(&nvdimmctl(arguments));
        assert!(message.contains("(root)") && message.contains("(swap)"), "{message}");
    }
    let other = tempfile::tempdir().unwrap();
    let whole = make_namespace(other.path(), "32M", 4096);
    let said = message(&nvdimmctl(&[Path::new("dax"), Path::new("list"), &whole]));
    assert!(said.contains("is in sector mode"), "{said}");
}
