//! Namespaces in dax mode and their devices, as an administrator makes and destroys them.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::daemon::{nvdimmctl, nvdimmctl_ok};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;
use vhost_user_btt::dax::{self, DeviceOptions};
use vhost_user_btt::namespace::{NamespaceError, NamespaceOptions};
use vhost_user_btt::nvdimm::{self, ClaimKind, LabelSize, Selection};

const M: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    (folder, path)
}

/// A file with one namespace in dax mode: without labels, and of 256 MiB.
fn region() -> (TempDir, PathBuf) {
    let (folder, path) = folder();
    nvdimmctl_ok(&["create", text(&path), "--size", "256M"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "--mode", "dax"]);
    (folder, path)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&nvdimmctl_ok(arguments)).unwrap()
}

/// Runs nvdimmctl, which fails with `code`, and returns its complaint.
fn refused(code: i32, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = nvdimmctl(arguments);
    let complaint = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {complaint}");
    assert!(stdout.is_empty(), "{arguments:?}");
    complaint
}

fn options(path: &Path) -> NamespaceOptions {
    NamespaceOptions::new(path.into(), Selection::Only, LabelSize::Detect)
}

#[test]
fn a_namespace_in_dax_mode_has_a_label_that_says_so() {
    let (_folder, path) = folder();
    let path = text(&path);
    nvdimmctl_ok(&["create", path, "--size", "128M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", path, "--name", "disk", "--size", "32M"]);
    let made = json(&["create-namespace", path, "-m", "dax", "-n", "memory", "--json"]);
    assert_eq!((&made["mode"], &made["name"]), (&"dax".into(), &"memory".into()));
    assert_eq!((&made["raw_size"], &made["size"]), (&(96 * M).into(), &(80 * M).into()));
    assert_eq!((&made["align"], &made["health"]), (&(2 * M).into(), &"ok".into()));
    assert_eq!((&made["uuid"], &made["atomic_sectors"]), (&made["raw_uuid"], &false.into()));
    assert_eq!(json(&["list", path, "--json"])[1], made);
    let listed = nvdimmctl_ok(&["list", path]);
    assert!(String::from_utf8(listed).unwrap().contains("namespace0.1 memory  dax     80 MiB"));

    // It is no disk, and the disk is no region.
    for command in ["export", "import", "check-namespace"] {
        let code = if command == "check-namespace" { 8 } else { 1 };
        let complaint = refused(code, &[command, path, "-n", "memory"]);
        assert!(complaint.contains("is in dax mode, not in sector mode"), "{command}: {complaint}");
    }
    let disk =
        NamespaceOptions { selection: Selection::Named("disk".into()), ..options(path.as_ref()) };
    assert!(matches!(
        disk.open_region(ClaimKind::Shared),
        Err(NamespaceError::NotDax { mode: "sector", .. })
    ));

    // It holds something, and goes with --force only.
    assert!(refused(1, &["destroy-namespace", path, "memory"]).contains("a DAX region; --force"));
    nvdimmctl_ok(&["destroy-namespace", path, "memory", "--force"]);
    let again = json(&["create-namespace", path, "--name", "second", "--json"]);
    assert_eq!((&again["mode"], &again["start"]), (&"sector".into(), &(32 * M).into()));
}

#[test]
fn a_region_grows_with_its_namespace_while_nobody_holds_it() {
    let (_folder, path) = folder();
    nvdimmctl_ok(&["create", text(&path), "--size", "128M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "-m", "dax", "-n", "memory", "-s", "32M"]);
    dax_ok(&path, "create-device", &["a", "-s", "8M"]);
    let before = fs::read(&path).unwrap();
    {
        let (_claim, _device) = options(&path).claim_device("a").unwrap();
        let complaint = refused(1, &["grow-namespace", text(&path), "-n", "memory", "-s", "64M"]);
        assert!(complaint.contains("grows only while no process holds it"), "{complaint}");
        assert!(fs::read(&path).unwrap() == before, "its label neither");
    }
    nvdimmctl_ok(&["grow-namespace", text(&path), "-n", "memory", "-s", "64M"]);
    let listed = &json(&["list", text(&path), "--json"])[0];
    assert_eq!((&listed["raw_size"], &listed["size"]), (&(64 * M).into(), &(48 * M).into()));
    dax_ok(&path, "create-device", &["b", "-s", "30M"]);
    // The rest of the file; and there is no more.
    for _ in 0..2 {
        nvdimmctl_ok(&["grow-namespace", text(&path)]);
    }
    assert_eq!(json(&["list", text(&path), "--json"])[0]["size"], 112 * M);
    assert_eq!(check(&path, &[]).0, 0);

    let (_folder, path) = region();
    nvdimmctl_ok(&["grow-namespace", text(&path), "--size", "512M"]);
    dax_ok(&path, "create-device", &["large", "-s", "300M"]);
    assert_eq!(check(&path, &[]).0, 0);
}

#[test]
fn labels_of_version_1_1_say_nothing_and_the_region_is_found() {
    let (_folder, path) = folder();
    let path = text(&path);
    nvdimmctl_ok(&["create", path, "--size", "64M"]);
    nvdimmctl_ok(&["init-labels", path, "-V", "1.1"]);
    let made = json(&["create-namespace", path, "-m", "dax", "-s", "32M", "--json"]);
    assert_eq!((&made["mode"], &made["label"]["version"]), (&"dax".into(), &"1.1".into()));
    let (claim, region) = options(path.as_ref()).open_region(ClaimKind::Exclusive).unwrap();
    assert_eq!(claim.namespace().uuid, Some(region.info().uuid));
}

#[test]
fn a_file_without_labels_is_one_region() {
    let (_folder, path) = region();
    let listed = &json(&["list", text(&path), "--json"])[0];
    assert_eq!((&listed["mode"], &listed["size"]), (&"dax".into(), &(240 * M).into()));
    let uuid = listed["uuid"].as_str().unwrap();
    assert_eq!(json(&["list", text(&path), "-n", uuid, "--json"])[0], *listed);
    assert!(refused(1, &["create-namespace", text(&path)]).contains("DAX region"));
    assert!(refused(1, &["create-namespace", text(&path), "-m", "raw"]).contains("--force"));
    assert!(refused(1, &["create-namespace", text(&path), "-m", "dax"]).contains("--force"));
    assert!(refused(1, &["init-labels", text(&path)]).contains("DAX region"));
    nvdimmctl_ok(&["create-namespace", text(&path), "--force"]);
    assert_eq!(json(&["list", text(&path), "--json"])[0]["mode"], "sector");
    nvdimmctl_ok(&[
        "create-namespace",
        text(&path),
        "-m",
        "dax",
        "--device-align",
        "4K",
        "--force",
    ]);
    let listed = &json(&["list", text(&path), "--json"])[0];
    assert_eq!((&listed["mode"], &listed["align"]), (&"dax".into(), &4096.into()));
    let usage = ["create-namespace", text(&path), "--device-align", "4K"];
    assert!(refused(2, &usage).contains("only in dax mode"));
    let usage = ["create-namespace", text(&path), "-m", "dax", "-l", "512"];
    assert!(refused(2, &usage).contains("only in sector mode"));
}

#[test]
fn what_is_too_small_for_a_region_is_refused_before_anything_is_written() {
    let (_folder, path) = folder();
    let path = text(&path);
    nvdimmctl_ok(&["create", path, "--size", "48M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", path, "--size", "16M"]);
    let before = fs::read(path).unwrap();
    let remake = ["create-namespace", path, "-e", "namespace0.0", "-m", "dax", "--force"];
    assert!(refused(1, &remake).contains("16777216 bytes are too small for a DAX region"));
    assert!(
        refused(1, &["create-namespace", path, "-m", "dax", "-s", "16M"]).contains("too small")
    );
    assert!(fs::read(path).unwrap() == before);
}

#[test]
fn whoever_has_a_region_open_holds_its_namespace_and_others_may_look() {
    let (_folder, path) = region();
    let (claim, region) = options(&path).open_region(ClaimKind::Exclusive).unwrap();
    let name = String::from("a");
    let (uuid, label) = (uuid::Uuid::from_u128(7), String::new());
    let device = DeviceOptions { name, uuid, label, size: 2 * M, align: None, contiguous: false };
    region.create_device(&device).unwrap();
    assert!(matches!(
        options(&path).open_region(ClaimKind::Shared),
        Err(NamespaceError::Nvdimm(nvdimm::Error::Busy { .. }))
    ));
    assert_eq!(json(&["list", text(&path), "--json"])[0]["holder"]["pid"], std::process::id());
    let (_, looked_at) = options(&path).look_at_region().unwrap();
    assert_eq!(looked_at.devices(), region.devices());
    assert_eq!(looked_at.create_device(&device), Err(dax::Error::ReadOnly));
    drop((claim, region));
    let (_, region) = options(&path).open_region(ClaimKind::Exclusive).unwrap();
    assert_eq!(region.devices(), looked_at.devices());
}

/// A guest may write what it likes into its device, also what would be labels if the file had any.
#[test]
fn labels_that_a_guest_writes_into_its_device_are_not_believed() {
    let (folder, path) = region();
    let labelled = folder.path().join("labelled");
    nvdimmctl_ok(&["create", text(&labelled), "--size", "32M", "--label-size", "128K"]);
    let labels = &fs::read(&labelled).unwrap()[32 << 20..];
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(labels, 256 * M - labels.len() as u64).unwrap();
    assert!(matches!(
        options(&path).open_region(ClaimKind::Shared),
        Err(NamespaceError::Ambiguous { .. })
    ));
    assert!(refused(1, &["create-namespace", text(&path)]).contains("--label-size"));
    let without = NamespaceOptions { label_size: LabelSize::None, ..options(&path) };
    without.open_region(ClaimKind::Shared).unwrap();
}

/// The first sector of a BTT of version 2.0 lies where the superblock would.
#[test]
fn a_superblock_that_a_guest_writes_into_its_disk_is_not_believed() {
    let (folder, path) = region();
    let mut superblock = fs::read(&path).unwrap();
    superblock.truncate(8192);
    let disk = folder.path().join("disk");
    nvdimmctl_ok(&["create", text(&disk), "--size", "256M"]);
    nvdimmctl_ok(&["create-namespace", text(&disk), "--btt-version", "2.0"]);
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&superblock[4096..], 4096).unwrap();
    assert!(matches!(
        options(&disk).open_region(ClaimKind::Shared),
        Err(NamespaceError::NotDax { .. })
    ));
    assert_eq!(json(&["list", text(&disk), "--json"])[0]["mode"], "sector");
    nvdimmctl_ok(&["export", text(&disk), text(&folder.path().join("raw"))]);
}

/// Runs `nvdimmctl dax VERB FILE ...`, and returns what it prints.
fn dax_ok(path: &Path, verb: &str, arguments: &[&str]) -> String {
    let printed = nvdimmctl_ok(&[&["dax", verb, text(path)], arguments].concat());
    String::from_utf8(printed).unwrap()
}

fn dax_json(path: &Path, verb: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&dax_ok(path, verb, &[arguments, &["--json"]].concat())).unwrap()
}

fn dax_refused(path: &Path, verb: &str, arguments: &[&str]) -> String {
    refused(1, &[&["dax", verb, text(path)], arguments].concat())
}

/// Writes `bytes` into a device, which is one extent.
fn fill(path: &Path, device: &Value, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let start = device["mappings"][0]["start"].as_u64().unwrap();
    file.write_all_at(bytes, start + offset).unwrap();
}

/// First byte and bytes of each extent, in MiB of the file.
fn extents(device: &Value) -> Vec<(u64, u64)> {
    let mib = |value: &Value| value.as_u64().unwrap() / M;
    let mappings = device["mappings"].as_array().unwrap().iter();
    mappings.map(|mapping| (mib(&mapping["start"]), mib(&mapping["size"]))).collect()
}

#[test]
fn devices_come_change_and_go() {
    let (_folder, path) = region();
    let owner = "d1a2b3c4-0000-4000-8000-000000000001";
    let options = ["a", "--size", "10M", "--owner", owner, "--label", "for the cache"];
    let a = dax_json(&path, "create-device", &options);
    assert_eq!(
        (&a["name"], &a["uuid"], &a["size"]),
        (&"a".into(), &owner.into(), &(10 * M).into())
    );
    // The journal's 256 KiB come first, and take the place of the first 2 MiB.
    assert_eq!(extents(&a), [(18, 10)]);
    dax_ok(&path, "create-device", &["b", "-s", "4M", "--contiguous"]);
    let grown = dax_json(&path, "resize-device", &["a", "-s", "20M"]);
    assert_eq!(extents(&grown), [(18, 10), (32, 10)]);
    assert_eq!(grown["mappings"][1]["page_offset"], 10 * M / 4096);
    assert!(dax_refused(&path, "resize-device", &["b", "-s", "6M"]).contains("no space for 2M"));
    dax_ok(&path, "rename-device", &["a", "c"]);
    let listed = dax_json(&path, "list", &[]);
    assert_eq!(listed["devices"][1]["uuid"], owner);
    assert_eq!(listed["devices"][1]["name"], "c");
    assert_eq!(listed["max_available_extent"], 214 * M);
    let printed = dax_ok(&path, "list", &["-v"]);
    assert!(
        printed.contains("c       20 MiB  2 MiB  2        no          for the cache"),
        "{printed}"
    );
    assert!(printed.contains("0xa00000: 10 MiB from byte 0x2000000 of the file on"), "{printed}");
    assert!(dax_ok(&path, "destroy-device", &["b", "c"]).contains("c: 20 MiB are free"));
    let all = dax_json(&path, "create-device", &["all"]);
    assert_eq!(extents(&all), [(18, 238)]);
    assert_eq!(dax_json(&path, "list", &[])["available_size"], 0);
    let seed = dax_json(&path, "create-device", &["seed", "--size", "0", "--align", "4K"]);
    assert_eq!((&seed["size"], &seed["align"]), (&0.into(), &4096.into()));
    assert_eq!(dax_json(&path, "owners", &[])[0]["allocator"], true);
    assert!(dax_ok(&path, "owners", &["-v"]).contains("256 KiB at byte 0x1000000, order 6"));
}

#[test]
fn pages_of_an_owner_that_is_gone_are_freed() {
    let (_folder, path) = region();
    let (gone, here) = (Uuid::from_u128(0x60), Uuid::from_u128(0x4e));
    let place = {
        let (claim, region) = options(&path).open_region(ClaimKind::Exclusive).unwrap();
        region.allocate(gone, "gone", 0).unwrap();
        let offset = region.allocate(gone, "", 3).unwrap();
        region.allocate(here, "here", 1).unwrap();
        claim.namespace().range.start + offset
    };
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"left", place).unwrap();
    let free = |more: &[&str]| [&[&*gone.to_string()], more].concat().join(" ");
    let complaint = dax_refused(&path, "free-pages", &[&free(&[])]);
    assert!(complaint.contains("hold data; --force"), "{complaint}");
    let said = dax_ok(&path, "free-pages", &[&gone.to_string(), "--force"]);
    assert!(said.contains("are free: 36 KiB"), "{said}");
    let owners = dax_json(&path, "owners", &[]);
    let labels: Vec<&str> =
        owners.as_array().unwrap().iter().map(|owner| owner["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["nvm pages", "here"]);
    assert!(dax_refused(&path, "free-pages", &[&gone.to_string()]).contains("unknown owner"));
    let allocator = owners[0]["uuid"].as_str().unwrap();
    assert!(dax_refused(&path, "free-pages", &[allocator, "-f"]).contains("unknown owner"));
    // Nothing was written to these.
    dax_ok(&path, "free-pages", &[&here.to_string()]);
    assert_eq!(check(&path, &[]).0, 0);
}

#[test]
fn an_empty_device_gets_another_alignment() {
    let (_folder, path) = region();
    dax_ok(&path, "create-device", &["d", "--size", "0"]);
    let device = dax_json(&path, "align-device", &["d", "--align", "4K"]);
    assert_eq!(device["align"], 4096);
    dax_ok(&path, "resize-device", &["d", "--size", "12K"]);
    let complaint = dax_refused(&path, "align-device", &["d", "-a", "2M"]);
    assert!(complaint.contains("a device of size 0 can have any"), "{complaint}");
    dax_ok(&path, "resize-device", &["d", "--size", "0"]);
    dax_ok(&path, "align-device", &["d", "-a", "1G"]);
    assert_eq!(dax_json(&path, "list", &[])["devices"][0]["align"], 1 << 30);
}

/// Huge pages of the CPU begin at multiples of their size in the file.
#[test]
fn devices_are_aligned_in_the_file_when_their_namespace_is_not() {
    let (_folder, path) = folder();
    nvdimmctl_ok(&["create", text(&path), "--size", "4G", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "-m", "raw", "-s", "48M"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "-m", "dax", "-n", "pool"]);
    let device = dax_json(&path, "create-device", &["d", "--size", "2G", "-a", "1G"]);
    assert_eq!(extents(&device), [(1024, 2048)]);
    assert_eq!(check(&path, &[]).0, 0);
}

#[test]
fn what_cannot_be_done_with_a_device_is_refused_with_what_can() {
    let (_folder, path) = region();
    for (name, size) in [("a", "100M"), ("b", "50M"), ("c", "40M")] {
        dax_ok(&path, "create-device", &[name, "-s", size]);
    }
    dax_ok(&path, "destroy-device", &["a"]);
    let before = dax_json(&path, "list", &[]);
    assert_eq!(before["available_size"], 148 * M);
    assert!((before["fragmentation"].as_f64().unwrap() - 48.0 / 148.0).abs() < 1e-9);
    for (verb, arguments, complaint) in [
        ("create-device", &["d", "-s", "200M"][..], "148M are free at this alignment"),
        ("create-device", &["d", "-s", "120M", "-c"], "the largest free extent has 100M"),
        ("create-device", &["d", "-s", "3M"], "the sizes next to it are 2M and 4M"),
        ("create-device", &["b", "-s", "2M"], "device \"b\" exists already"),
        ("create-device", &["x/y", "-s", "2M"], "\"x/y\" is no name"),
        ("create-device", &["d", "-s", "1G", "-a", "1G"], "the largest free extent has 0"),
        ("resize-device", &["b", "-s", "1G"], "no space for 974M"),
        ("resize-device", &["d", "-s", "1G"], "unknown device \"d\": 'nvdimmctl dax list'"),
        ("destroy-device", &["d"], "unknown device"),
        ("rename-device", &["b", "c"], "device \"c\" exists already"),
        ("export", &["d"], "unknown device"),
    ] {
        let said = dax_refused(&path, verb, arguments);
        assert!(said.contains(complaint), "{verb} {arguments:?}: {said}");
    }
    assert_eq!(dax_json(&path, "list", &[]), before);
    let usage = ["dax", "create-device", text(&path), "d", "--align", "8M"];
    assert!(refused(2, &usage).contains("not one of 4K, 2M, 1G"));
}

#[test]
fn what_a_device_holds_is_given_up_with_force_only_and_nobody_sees_it_again() {
    let (folder, path) = region();
    let a = dax_json(&path, "create-device", &["a", "-s", "8M"]);
    fill(&path, &a, 6 * M, b"secret");
    assert!(dax_refused(&path, "destroy-device", &["a"]).contains("holds data; --force"));
    let said = dax_refused(&path, "resize-device", &["a", "-s", "4M"]);
    assert!(said.contains("holds data in the part that is cut off; --force"), "{said}");
    dax_ok(&path, "resize-device", &["a", "-s", "4M", "--force"]);
    dax_ok(&path, "resize-device", &["a", "-s", "8M"]);
    dax_ok(&path, "destroy-device", &["a"]);
    dax_ok(&path, "create-device", &["b", "-s", "8M"]);
    let image = folder.path().join("image");
    dax_ok(&path, "export", &["b", "--format", "raw", "--output", text(&image)]);
    assert!(fs::read(&image).unwrap() == vec![0; 8 << 20]);
}

#[test]
fn the_bytes_of_a_device_come_out_in_its_order() {
    let (folder, path) = region();
    dax_ok(&path, "create-device", &["a", "-s", "2M"]);
    dax_ok(&path, "create-device", &["b", "-s", "2M"]);
    let a = dax_json(&path, "resize-device", &["a", "-s", "6M"]);
    assert_eq!(a["mappings"].as_array().unwrap().len(), 2);
    fill(&path, &a, 0, b"first");
    fill(&path, &a, 4 * M + 1, b"second");
    let image = folder.path().join("image");
    dax_ok(&path, "export", &["a", "-f", "raw", "-o", text(&image)]);
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes.len(), 6 << 20);
    assert_eq!((&bytes[..6], &bytes[(2 << 20) + 1..][..7]), (&b"first\0"[..], &b"second\0"[..]));
    assert!(nvdimmctl_ok(&["dax", "export", text(&path), "a", "-f", "raw"]) == bytes);
    assert!(
        dax_refused(&path, "export", &["a", "-f", "raw", "-o", text(&image)]).contains("create")
    );
}

#[test]
fn a_device_is_handed_to_a_vmm_by_extent() {
    let (_folder, path) = region();
    dax_ok(&path, "create-device", &["a", "-s", "2M"]);
    dax_ok(&path, "create-device", &["b", "-s", "2M"]);
    dax_ok(&path, "resize-device", &["a", "-s", "4M"]);
    let printed = dax_ok(&path, "export", &["a"]);
    let path_of_file = path.canonicalize().unwrap();
    let expected = [(18, 0), (22, 1)].map(|(start, number)| {
        format!(
            "-object memory-backend-file,id=dax-a-{number},share=on,mem-path={},offset={},\
             size=2097152 \\\n-device virtio-pmem-pci,memdev=dax-a-{number}",
            path_of_file.display(),
            start * M
        )
    });
    assert_eq!(printed, format!("{}\n", expected.join(" \\\n")));
    let xml = dax_ok(&path, "export", &["a", "--format", "libvirt", "--frontend", "nvdimm"]);
    assert!(
        xml.contains("<qemu:arg value=\"nvdimm,memdev=dax-a-1\"/>\n</qemu:commandline>"),
        "{xml}"
    );
    let said = dax_refused(&path, "export", &["a", "--format", "cloud-hypervisor"]);
    assert!(said.contains("begins at byte 18874368") && said.contains("--window"), "{said}");
    dax_ok(&path, "create-device", &["seed", "-s", "0"]);
    assert!(dax_refused(&path, "export", &["seed"]).contains("has no bytes yet"));
}

#[test]
fn a_vmm_has_the_claim_on_its_device_as_long_as_it_runs() {
    let (_folder, path) = region();
    for name in ["a", "b"] {
        dax_ok(&path, "create-device", &[name, "-s", "2M"]);
    }
    // `cat` ends when its input does.
    let start = |device: &str| {
        Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
            .args(["dax", "export", text(&path), device, "--", "sh", "-c", "echo $#; cat", "vmm"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let first_line = |vmm: &mut Child| {
        let mut line = [0; 2];
        vmm.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"4\n", "-object, its value, -device, its value");
    };
    let mut first = start("a");
    first_line(&mut first);
    let listed = dax_json(&path, "list", &[]);
    assert_eq!(listed["holder"]["pid"], first.id());
    let busy = [("destroy-device", "a"), ("destroy-device", "b"), ("export", "a")];
    for (verb, device) in busy {
        assert!(dax_refused(&path, verb, &[device]).contains("busy: held by"), "{verb} {device}");
    }
    let mut second = start("b");
    first_line(&mut second);
    for mut vmm in [first, second] {
        drop(vmm.stdin.take());
        assert!(vmm.wait().unwrap().success());
    }
    dax_ok(&path, "destroy-device", &["a", "b"]);
}

#[test]
fn arguments_are_printed_and_the_claim_is_held_until_the_process_is_killed() {
    let (_folder, path) = region();
    dax_ok(&path, "create-device", &["a", "-s", "2M"]);
    let mut holder = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
        .args(["dax", "export", text(&path), "a", "--hold"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = [0; 7];
    holder.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"-object");
    assert!(dax_refused(&path, "destroy-device", &["a"]).contains("busy: held by nvdimmctl"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    dax_ok(&path, "destroy-device", &["a"]);
}

fn check(path: &Path, options: &[&str]) -> (i32, Value) {
    let arguments = [&["dax", "check", text(path), "--json"], options].concat();
    let Output { status, stdout, .. } = nvdimmctl(&arguments);
    (status.code().unwrap(), serde_json::from_slice(&stdout).unwrap())
}

fn damage(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn damage_is_found_and_repaired_as_far_as_nothing_is_lost_unless_forced() {
    let (_folder, path) = region();
    // What the newest change has stored would be replayed over the damage.
    for name in ["a", "b"] {
        dax_ok(&path, "create-device", &[name, "-s", "2M"]);
    }
    assert_eq!(check(&path, &[]).0, 0);
    damage(&path, 0, &[1; 100]);
    let (status, report) = check(&path, &[]);
    assert_eq!((status, &report["verdict"]), (2, &"problems".into()));
    assert_eq!(report["findings"][0]["offset"], 0);
    let listed = &json(&["list", text(&path), "--json"])[0];
    assert_eq!(listed["health"], "degraded");
    let (status, report) = check(&path, &["--repair"]);
    assert_eq!((status, &report["verdict"]), (1, &"clean".into()));
    assert_eq!(check(&path, &["--repair"]).0, 0);

    // The link from the owner table to the device pages.
    damage(&path, 8192 + 40, &[0xff; 8]);
    let said = dax_refused(&path, "list", &[]);
    assert!(said.contains("metadata at byte 0x2000: checksum"), "{said}");
    assert!(said.contains("see 'nvdimmctl dax check'"), "{said}");
    let (status, report) = check(&path, &["--repair"]);
    assert_eq!((status, &report["verdict"]), (1, &"clean".into()), "{report}");
    assert_eq!(dax_json(&path, "list", &[])["devices"].as_array().unwrap().len(), 2);

    // All of the first device's slot.
    damage(&path, 0x6000 + 64, &[0xff; 128]);
    let (status, report) = check(&path, &["--repair"]);
    assert_eq!(status, 2, "{report}");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["loses"] == true), "{report}");
    let (status, report) = check(&path, &["--repair", "--force"]);
    assert_eq!((status, &report["verdict"]), (1, &"clean".into()), "{report}");
    let left = &dax_json(&path, "list", &[])["devices"];
    assert_eq!((left.as_array().unwrap().len(), &left[0]["name"]), (1, &"b".into()));

    let (_claim, _region) = options(&path).open_region(ClaimKind::Exclusive).unwrap();
    assert!(refused(8, &["dax", "check", text(&path)]).contains("busy"));
}

#[test]
fn a_repair_is_backed_up_and_taken_back_unless_the_region_was_changed_since() {
    let (folder, path) = region();
    for name in ["a", "b"] {
        dax_ok(&path, "create-device", &[name, "-s", "2M"]);
    }
    damage(&path, 8192 + 40, &[0xff; 8]);
    let damaged = fs::read(&path).unwrap();
    let (status, report) = check(&path, &["--repair", "--force"]);
    assert_eq!((status, &report["verdict"]), (1, &"clean".into()));
    let backup = folder.path().join("nvdimm.before-repair");
    assert_eq!(report["backup"], text(&backup));
    let undo = ["dax", "check", text(&path), "--undo", text(&backup)];
    nvdimmctl_ok(&undo);
    assert!(fs::read(&path).unwrap() == damaged, "every byte");

    let second = folder.path().join("second");
    let repair = ["--repair", "--force", "--backup", text(&second)];
    assert_eq!(check(&path, &repair).0, 1);
    let dropped = fs::read(&path).unwrap();
    // The pages that the repair freed are given to another.
    dax_ok(&path, "create-device", &["c", "-s", "2M"]);
    let undo = ["dax", "check", text(&path), "--undo", text(&second)];
    assert!(refused(8, &undo).contains("written to since the repair"));
    assert!(fs::read(&path).unwrap() != dropped);
    assert_eq!(check(&path, &["--repair"]).1["backup"], Value::Null, "nothing to save");
}

#[test]
fn inspection_shows_devices_and_what_is_free_in_numbers_and_drawn() {
    let (_folder, path) = region();
    for (name, size) in [("cache", "100M"), ("gone", "20M"), ("<log>", "50M")] {
        dax_ok(&path, "create-device", &[name, "-s", size]);
    }
    dax_ok(&path, "destroy-device", &["gone"]);
    let inspected = json(&["inspect", text(&path), "--json"]);
    let number = |name: &str| inspected[name].as_u64().unwrap();
    assert_eq!((number("pages_offset"), number("journal_offset")), (16 * M, 16 * M));
    assert_eq!((number("devices"), number("extents"), number("free_extents")), (2, 2, 2));
    assert_eq!((number("available_size"), number("max_available_extent")), (88 * M, 68 * M));
    assert_eq!((number("findings"), number("free_metadata_pages")), (0, 2044));
    assert!(refused(2, &["inspect", text(&path), "--lanes"]).contains("no lanes in dax mode"));
    let printed = String::from_utf8(nvdimmctl_ok(&["inspect", text(&path)])).unwrap();
    assert!(printed.contains("devices             2 in 2 extents"), "{printed}");

    let drawn = String::from_utf8(nvdimmctl_ok(&["inspect", text(&path), "--svg"])).unwrap();
    for expected in [
        "<title>cache: 100 MiB at byte 18874368 of the namespace</title>",
        "<title>journal: 256 KiB at byte 16777216 of the namespace</title>",
        ">&lt;log&gt;, 50 MiB</text>",
        "2 devices, 88 MiB free in steps of 2 MiB, largest extent 68 MiB, 23 % fragmented",
        "checked: clean",
    ] {
        assert!(drawn.contains(expected), "{expected} in {drawn}");
    }
    // To scale: 100 MiB of 256 in a bar of 952 pixels.
    assert!(
        drawn.contains("class=\"device1\" x=\"90.9\"") && drawn.contains("width=\"371.9\""),
        "{drawn}"
    );
    damage(&path, 4096, &[0; 100]);
    let drawn = String::from_utf8(nvdimmctl_ok(&["inspect", text(&path), "--svg"])).unwrap();
    assert!(drawn.contains("checked: problems"), "{drawn}");
}
