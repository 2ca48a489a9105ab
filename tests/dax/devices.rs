//! Devices and owners: made, changed and destroyed.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use uuid::Uuid;
use vhost_user_btt::nvdimm::ClaimKind;

use super::common::daemon::nvdimmctl_ok;
use super::setup::{
    M, check, dax_json, dax_ok, dax_refused, extents, fill, folder, options, refused, region, text,
};

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
