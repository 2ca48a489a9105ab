//! Namespaces in dax mode: their labels, sizes and claims.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use vhost_user_btt::dax::{self, DeviceOptions};
use vhost_user_btt::namespace::{NamespaceError, NamespaceOptions};
use vhost_user_btt::nvdimm::{self, ClaimKind, LabelSize, Selection};

use super::common::daemon::nvdimmctl_ok;
use super::setup::{M, check, dax_ok, folder, json, options, refused, region, text};

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
