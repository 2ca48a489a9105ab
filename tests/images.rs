//! Images that go in and come out: what cannot work is said before anything is written, and what is not
//! whole has no name.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::daemon::{make_namespace, nvdimmctl, nvdimmctl_ok};
use tempfile::TempDir;

/// A disk with sectors of `sector_size` bytes, full of a pattern.
fn disk(sector_size: u32) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", sector_size);
    let pattern = folder.path().join("pattern");
    fs::write(&pattern, vec![7; 1 << 20]).unwrap();
    nvdimmctl_ok(&[Path::new("import"), &path, &pattern]);
    (folder, path)
}

fn image(folder: &TempDir, offset: u64, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("image");
    let file = File::create(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    path
}

fn exported(disk: &Path) -> Vec<u8> {
    nvdimmctl_ok(&[Path::new("export"), disk])
}

fn message(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Imports, which is refused, and returns why: the disk is as it was.
fn refused(disk: &Path, image: &Path) -> String {
    let before = exported(disk);
    let output = nvdimmctl(&[Path::new("import"), disk, image]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(exported(disk) == before, "the disk was written");
    message(&output)
}

#[test]
fn an_image_for_sectors_of_another_size_is_refused_with_the_size_that_it_needs() {
    let mut mbr = vec![0; 512];
    mbr[446 + 4] = 0x83;
    mbr[446 + 12] = 1;
    mbr[510..].copy_from_slice(b"\x55\xaa");
    let mut fat = mbr.clone();
    fat[446..510].fill(0);
    fat[3..11].copy_from_slice(b"mkfs.fat");
    fat[12] = 2;
    fat[54..62].copy_from_slice(b"FAT16   ");
    for (sectors, offset, bytes, needed) in [
        (4096, 512, &b"EFI PART"[..], "512"),
        (512, 4096, b"EFI PART", "4096"),
        (4096, 0, &mbr, "512"),
        (4096, 0, &fat, "512"),
        (4096, 1080, b"\x53\xef", "512"),
    ] {
        let (folder, disk) = disk(sectors);
        let image = image(&folder, offset, bytes);
        let why = refused(&disk, &image);
        assert!(why.contains(&format!("-l {needed}")), "{why}");
        let can_be_served = sectors == 4096;
        assert_eq!(why.contains("--logical-block-size=512"), can_be_served, "{why}");
        nvdimmctl_ok(&[Path::new("import"), &disk, &image, Path::new("--force")]);
        assert!(exported(&disk).starts_with(&fs::read(&image).unwrap()));
    }
}

#[test]
fn compressed_images_are_named_and_not_imported_unless_taken_as_raw() {
    for (bytes, name) in [
        (&b"\x1f\x8b\x08"[..], "gzip -dc"),
        (b"\x28\xb5\x2f\xfd", "zstd -dc"),
        (b"\xfd7zXZ\0", "xz -dc"),
        (b"BZh9", "bzip2 -dc"),
    ] {
        let (folder, disk) = disk(512);
        let image = image(&folder, 0, bytes);
        let why = refused(&disk, &image);
        assert!(why.contains(name), "{why}");
        nvdimmctl_ok(&[Path::new("import"), &disk, &image, Path::new("--raw")]);
        assert!(exported(&disk).starts_with(bytes));
    }
}

/// In a file with labels, too, where a namespace is not made over another one.
#[test]
fn what_is_advised_for_an_image_of_another_sector_size_works() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("nvdimm");
    let disk_name = disk.to_str().unwrap();
    nvdimmctl_ok(&["create", disk_name, "--size", "32M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", disk_name]);
    let image = image(&folder, 512, b"EFI PART");
    let why = refused(&disk, &image);
    assert!(why.contains("'create-namespace -e NAMESPACE --force -l 512'"), "{why}");
    let again = ["create-namespace", disk_name, "-e", "namespace0.0", "--force", "-l", "512"];
    nvdimmctl_ok(&again);
    nvdimmctl_ok(&[Path::new("import"), &disk, &image]);
    assert!(exported(&disk).starts_with(&fs::read(&image).unwrap()));
}

/// Runs qemu-img, which is there.
fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Says whether there is a qemu-img: without one, nothing can be converted.
fn has_qemu_img() -> bool {
    Command::new("qemu-img").arg("--version").output().is_ok()
}

#[test]
fn images_of_virtual_machines_are_converted_where_qemu_img_is_there() {
    if !has_qemu_img() {
        return;
    }
    for format in ["qcow2", "vmdk", "vhdx", "vdi", "qed"] {
        let (folder, disk) = disk(512);
        let raw = image(&folder, 300_000, b"contents");
        let converted = folder.path().join(format);
        let [from, to] = [&raw, &converted].map(|path| path.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, from, to]);
        nvdimmctl_ok(&[Path::new("import"), &disk, &converted]);
        assert!(exported(&disk).starts_with(&fs::read(&raw).unwrap()), "{format}");
    }
}

#[test]
fn an_image_that_names_other_files_is_refused() {
    if !has_qemu_img() {
        return;
    }
    let (folder, disk) = disk(512);
    let secret = folder.path().join("secret");
    fs::write(&secret, vec![b's'; 1 << 20]).unwrap();
    let backed = folder.path().join("backed");
    let [secret, backed_name] = [&secret, &backed].map(|path| path.to_str().unwrap());
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, backed_name]);
    assert!(refused(&disk, &backed).contains(secret));
    let flat = folder.path().join("flat.vmdk");
    let flat_name = flat.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", flat_name, "1M"]);
    assert!(refused(&disk, &flat).contains("flat"));
}

#[test]
fn without_qemu_img_the_message_says_what_to_do() {
    let (folder, disk) = disk(512);
    let image = image(&folder, 0, b"QFI\xfb\0\0\0\x03");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
    let output = command.arg("import").args([&disk, &image]).env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message(&output).contains("qcow2 image"), "{output:?}");
    assert!(message(&output).contains("qemu-img convert -O raw"), "{output:?}");
}

#[test]
fn a_sector_that_an_image_covers_in_part_keeps_the_rest() {
    for sector_size in [512, 4096] {
        let (folder, disk) = disk(sector_size);
        let image = folder.path().join("image");
        for length in [1, 511, 513, 4095, 4097, (1 << 20) - 1] {
            let before = exported(&disk);
            fs::write(&image, vec![length as u8; length]).unwrap();
            nvdimmctl_ok(&[Path::new("import"), &disk, &image]);
            let after = exported(&disk);
            assert!(after[..length].iter().all(|byte| *byte == length as u8));
            assert!(after[length..] == before[length..], "{length}");
        }
    }
}

#[test]
fn a_minus_is_a_standard_stream() {
    let (folder, disk) = disk(512);
    let image = image(&folder, 0, b"from a pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
    command.args(["import", disk.to_str().unwrap(), "-"]);
    command.stdin(File::open(&image).unwrap());
    assert!(command.output().unwrap().status.success());
    let written = nvdimmctl_ok(&["export", disk.to_str().unwrap(), "-"]);
    assert!(written.starts_with(b"from a pipe"));
    assert!(!Path::new("-").exists());
}

#[test]
fn an_input_that_is_too_large_says_what_was_written() {
    let (_folder, disk) = disk(512);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
    command.args(["import", disk.to_str().unwrap()]).stdin(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The end of the pipe is closed when the disk is full.
    let _ = std::io::copy(&mut std::io::repeat(1), &mut input);
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message(&output).contains("were written over"), "{output:?}");
}

#[test]
fn an_export_that_fails_or_is_killed_leaves_nothing_under_its_name() {
    let (folder, disk) = disk(512);
    let image = folder.path().join("image");
    // As when the file system is full.
    let script = "ulimit -f 8; [ \"$3\" ] && trap '' XFSZ; exec \"$0\" export \"$1\" \"$2\"";
    for ignored in ["", "yes"] {
        let mut command = Command::new("bash");
        command.args(["-c", script, env!("CARGO_BIN_EXE_nvdimmctl")]);
        command.args([&disk, &image]).arg(ignored);
        assert!(!command.output().unwrap().status.success());
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        names.retain(|entry| entry.as_ref().unwrap().file_name() != "pattern");
        assert_eq!(names.len(), 1, "{names:?}");
    }
    nvdimmctl_ok(&[Path::new("export"), &disk, &image]);
    let again = nvdimmctl(&[Path::new("export"), &disk, &image]);
    assert!(message(&again).contains("File exists"), "{again:?}");
}

#[test]
fn files_are_for_their_owner_alone_unless_asked_for_otherwise() {
    let (folder, disk) = disk(512);
    let path = |name: &str| folder.path().join(name);
    let permissions = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let [image, drawing] = ["image", "drawing"].map(path);
    nvdimmctl_ok(&[Path::new("export"), &disk, &image]);
    nvdimmctl_ok(&[Path::new("inspect"), &disk, Path::new("--svg"), &drawing]);
    for path in [&disk, &image, &drawing] {
        assert_eq!(permissions(path), 0o600, "{}", path.display());
    }
    let [file, image, drawing] = ["file", "image2", "drawing2"].map(path);
    let mode = [Path::new("--mode"), Path::new("664")];
    nvdimmctl_ok(&[&[Path::new("create"), &file, Path::new("--size=32M")][..], &mode].concat());
    nvdimmctl_ok(&[&[Path::new("export"), &disk, &image][..], &mode].concat());
    let svg = [Path::new("inspect"), &disk, Path::new("--svg"), &drawing];
    nvdimmctl_ok(&[&svg[..], &mode].concat());
    for path in [&file, &image, &drawing] {
        assert_eq!(permissions(path), 0o664, "{}", path.display());
    }
}

#[test]
fn a_drawing_replaces_a_file_only_by_force_and_never_the_one_that_is_drawn() {
    let (folder, disk) = disk(512);
    let other = folder.path().join("other");
    fs::write(&other, "precious").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let hard = folder.path().join("hard");
    fs::hard_link(&disk, &hard).unwrap();
    let before = fs::read(&disk).unwrap();
    let draw = |out: &Path, force: bool| {
        let svg = [Path::new("inspect"), &disk, Path::new("--svg"), out, Path::new("--force")];
        nvdimmctl(&svg[..if force { 5 } else { 4 }])
    };
    let refused = draw(&other, false);
    assert!(message(&refused).contains("--force replaces it"), "{refused:?}");
    assert_eq!(fs::read(&other).unwrap(), b"precious");
    for force in [false, true] {
        for out in [&disk, &link, &hard] {
            assert_eq!(draw(out, force).status.code(), Some(1), "{}", out.display());
        }
    }
    assert!(fs::read(&disk).unwrap() == before && fs::read(&hard).unwrap() == before);
    assert!(draw(&other, true).status.success());
    assert!(fs::read_to_string(&other).unwrap().contains("<svg"));
}
