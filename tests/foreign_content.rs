//! What nothing here has written is content, too: it is not written over unless forced.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::daemon::{Daemon, nvdimmctl, nvdimmctl_ok};
use common::frontend::Driver;
use tempfile::TempDir;

const SIZE: u64 = 64 << 20;

/// A file without labels that has `bytes` at `offset`, and is a hole otherwise.
fn file_with(offset: u64, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    let file = File::create_new(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    (folder, path)
}

/// Runs nvdimmctl, which refuses with exit status 1, and returns its complaint.
fn refused(arguments: &[&str], path: &Path) -> String {
    let before = fs::read(path).unwrap();
    let output = nvdimmctl(&[&arguments[..1], &[path.to_str().unwrap()], &arguments[1..]].concat());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert!(fs::read(path).unwrap() == before, "{arguments:?} has changed the file");
    message
}

fn run(arguments: &[&str], path: &Path) -> String {
    let arguments = [&arguments[..1], &[path.to_str().unwrap()], &arguments[1..]].concat();
    String::from_utf8(nvdimmctl_ok(&arguments)).unwrap()
}

const WRITERS: [&[&str]; 4] = [
    &["create-namespace"],
    &["create-namespace", "--mode", "dax"],
    &["create-namespace", "--mode", "raw"],
    &["init-labels"],
];

#[test]
fn whatever_is_not_zero_is_refused_and_named_where_it_is_known() {
    for (offset, bytes, name) in [
        (1080, &b"\x53\xef"[..], "ext4"),
        (0, b"XFSB", "XFS"),
        (512, b"EFI PART", "GPT"),
        (0, b"QFI\xfb", "qcow2"),
        (65600, b"_BHRfS_M", "Btrfs"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (512, b"LABELONE", "LVM"),
        (0, b"x", "byte 0"),
        (40_000_001, b"x", "byte 40000001"),
        (SIZE - 1, b"x", "byte 67108863"),
    ] {
        let (_folder, path) = file_with(offset, bytes);
        for writer in WRITERS {
            let message = refused(writer, &path);
            assert!(message.contains("--force"), "{writer:?}: {message}");
            assert!(message.contains(name), "{writer:?}: {message}");
        }
        run(&["create-namespace", "--force"], &path);
    }
}

#[test]
fn zeroes_that_take_up_space_are_nothing() {
    for writer in WRITERS {
        let (_folder, path) = file_with(0, &vec![0; SIZE as usize]);
        run(writer, &path);
    }
}

#[test]
fn free_bytes_of_a_file_with_labels_are_not_written_over_either() {
    let (_folder, path) = file_with(0, b"");
    run(&["init-labels"], &path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 20 << 20).unwrap();
    for writer in &WRITERS[..3] {
        assert!(refused(writer, &path).contains("belong to no namespace"));
    }
    run(&["create-namespace", "--size", "16M"], &path);
    run(&["create-namespace", "--force"], &path);
}

#[test]
fn a_namespace_does_not_grow_over_data() {
    let (_folder, path) = file_with(0, b"");
    run(&["init-labels"], &path);
    run(&["create-namespace", "--size", "16M", "--align", "4K"], &path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 20 << 20).unwrap();
    assert!(refused(&["grow-namespace"], &path).contains("belong to no namespace"));
    run(&["grow-namespace", "--force"], &path);
}

/// The file was made longer by other means, and not by zeroes alone.
#[test]
fn nothing_in_a_file_without_labels_grows_over_data() {
    for (mode, what) in [("sector", "BTT"), ("dax", "DAX region")] {
        let (_folder, path) = file_with(0, b"");
        run(&["create-namespace", "--mode", mode], &path);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(2 * SIZE).unwrap();
        let offset = SIZE + (20 << 20);
        file.write_all_at(b"x", offset).unwrap();
        for size in [&[][..], &["--size", "256M"]] {
            let message = refused(&[&["grow-namespace"], size].concat(), &path);
            let expected = format!("data behind the {what} that is to grow, from byte {offset:#x}");
            assert!(message.contains(&expected), "{message}");
        }
        run(&["grow-namespace", "--force"], &path);
        run(&["grow-namespace", "--size", "256M"], &path);
    }
}

/// A file that is made longer while it is served.
#[test]
fn a_served_disk_does_not_grow_over_data() {
    let (_folder, path) = file_with(0, b"");
    run(&["create-namespace"], &path);
    let mut daemon = Daemon::start(&path, &[]);
    let capacity = |driver: &mut Driver| driver.config(0, 8);
    let small = capacity(&mut Driver::connect(daemon.connect(), 1));
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(2 * SIZE).unwrap();
    file.write_all_at(b"x", SIZE + (20 << 20)).unwrap();
    assert_eq!(capacity(&mut Driver::connect(daemon.connect(), 1)), small);
    daemon.wait_for_log("the disk stays as large as it was");
    assert!(daemon.log().contains("data behind the BTT"), "{}", daemon.log());
    let mut found = [0];
    file.read_exact_at(&mut found, SIZE + (20 << 20)).unwrap();
    assert_eq!(found, *b"x");
}

#[test]
fn what_was_destroyed_does_not_have_to_be_given_up_again() {
    for labels in [true, false] {
        let (folder, path) = file_with(0, b"");
        if labels {
            run(&["init-labels"], &path);
        }
        let image = folder.path().join("image");
        fs::write(&image, vec![7; 1 << 20]).unwrap();
        for mode in ["sector", "dax", "raw"] {
            run(&["create-namespace", "--mode", mode], &path);
            if mode == "sector" {
                run(&["import", image.to_str().unwrap()], &path);
            }
            run(&["destroy-namespace", "namespace0.0", "--force"], &path);
        }
        run(&["create-namespace"], &path);
    }
}

/// A file with labels at its end, and a namespace.
fn with_labels() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    run(&["create", "--size", "64M", "--label-size", "128K"], &path);
    run(&["create-namespace", "--name", "precious"], &path);
    (folder, path)
}

#[test]
fn labels_of_a_file_that_was_made_longer_or_shorter_are_suspected_and_come_back() {
    let size = (64 << 20) + (128 << 10);
    for changed in
        [size + (16 << 20), 256 << 20, (200 << 20) - 4097, size - 4096, size - (124 << 10)]
    {
        let (_folder, path) = with_labels();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(changed).unwrap();
        let way_back = format!("truncate -s {size}");
        for writer in WRITERS {
            let message = refused(writer, &path);
            assert!(message.contains(&way_back), "{changed}, {writer:?}: {message}");
        }
        let listed = nvdimmctl(&["list", path.to_str().unwrap()]);
        let warning = String::from_utf8(listed.stderr).unwrap();
        assert!(warning.contains(&way_back), "{changed}: {warning}");
        file.set_len(size).unwrap();
        assert!(run(&["list"], &path).contains("precious"), "{changed}");
    }
}

#[test]
fn labels_of_a_file_that_was_made_a_little_longer_are_found() {
    let (_folder, path) = with_labels();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((65 << 20) + (128 << 10)).unwrap();
    assert!(run(&["list"], &path).contains("precious"));
    assert!(refused(&["init-labels"], &path).contains("1 namespaces"));
}

#[test]
fn labels_that_were_cut_off_are_missed_and_can_be_made_again() {
    let (_folder, path) = with_labels();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let listed = run(&["list"], &path);
    assert!(listed.contains("check-labels"), "{listed}");
    // As it says.
    file.set_len((64 << 20) + (128 << 10)).unwrap();
    run(&["init-labels", "--force"], &path);
    let found = nvdimmctl(&["check-labels", path.to_str().unwrap()]);
    let found = String::from_utf8(found.stdout).unwrap();
    let uuid = found.split("--restore ").nth(1).unwrap().split(' ').next().unwrap();
    nvdimmctl(&["check-labels", path.to_str().unwrap(), "--restore", uuid]);
    assert!(run(&["list"], &path).contains("sector"));
}
