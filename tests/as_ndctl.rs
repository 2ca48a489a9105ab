//! `nvdimmctl` takes arguments as ndctl and daxctl do, and what it prints under their names means the same.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::daemon::{nvdimmctl, nvdimmctl_ok};
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tempfile::TempDir;
use vhost_user_btt::pmem::fletcher64;

const M: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn printed(arguments: &[&str]) -> Value {
    serde_json::from_slice(&nvdimmctl_ok(arguments)).unwrap()
}

fn labelled(size: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", size, "--label-size", "128K"]);
    (folder, path)
}

#[test]
fn sector_sizes_have_units() {
    let (_folder, path) = labelled("64M");
    for (sector_size, bytes) in [("4K", 4096), ("4KiB", 4096), ("512", 512), ("0.5K", 512)] {
        let arguments = ["create-namespace", text(&path), "-j", "-s", "16M", "-l", sector_size];
        assert_eq!(printed(&arguments)["sector_size"], bytes);
        nvdimmctl_ok(&["destroy-namespace", "-f", text(&path), "all"]);
    }
}

#[test]
fn units_are_powers_of_1024_unless_they_end_in_b() {
    let folder = tempfile::tempdir().unwrap();
    for (size, bytes) in
        [("64M", 64 * M), ("64Mi", 64 * M), ("65536KiB", 64 * M), ("512MB", 512_000_000)]
    {
        let path = folder.path().join(size);
        nvdimmctl_ok(&["create", text(&path), "-s", size]);
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes, "{size}");
    }
    for size in ["1E", "8P", "7.5Pi", "9Ei"] {
        let output = nvdimmctl(&["create", text(&folder.path().join("huge")), "-s", size]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && !message.contains("not a size"), "{message}");
    }
}

#[test]
fn a_size_that_is_not_a_multiple_of_the_alignment_is_refused_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    let refused = |options: &[&str]| {
        let output = nvdimmctl(&[&["create", text(&path)], options].concat());
        assert!(!output.status.success() && !path.exists());
        String::from_utf8(output.stderr).unwrap()
    };
    let message = refused(&["-s", "10GB", "--label-size", "128K"]);
    assert!(message.contains("not a multiple of 16M"), "{message}");
    assert!(message.contains("9536M and 9552M"), "{message}");
    let message = refused(&["-s", "64M", "--align", "128M", "--label-size", "128K"]);
    assert!(message.contains("not a multiple of 128M") && message.contains("128M"), "{message}");
    let message = refused(&["-s", "33333333"]);
    assert!(message.contains("32552K and 32556K"), "{message}");
    for size in ["9536M", "9552M"] {
        nvdimmctl_ok(&["create", text(&path), "-s", size, "--label-size", "128K"]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_labelled_file_may_have_room_for_the_smallest_namespace_alone() {
    let (_folder, path) = labelled("16M");
    let made = printed(&["create-namespace", text(&path), "-j", "-s", "16M"]);
    assert_eq!((&made["raw_size"], &made["mode"]), (&json!(16 * M), &json!("sector")));
}

#[test]
fn a_fifo_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    for command in ["list", "inspect", "check-labels", "create-namespace", "init-labels"] {
        let output = nvdimmctl(&[command, text(&fifo)]);
        assert!(!output.status.success(), "{command}");
        assert!(!output.stderr.is_empty(), "{command}");
    }
}

#[test]
fn a_file_beyond_the_limit_on_sizes_is_not_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    let line = format!(
        "ulimit -f 100; exec {} create {} --size 64M",
        env!("CARGO_BIN_EXE_nvdimmctl"),
        text(&path)
    );
    let Output { status, stderr, .. } = Command::new("bash").args(["-c", &line]).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(message.contains("File too large"), "{message}");
    assert!(!path.exists());
}

#[test]
fn namespaces_are_named_without_an_option_and_all_at_once() {
    let (_folder, path) = labelled("128M");
    let path = text(&path);
    for name in ["a", "b"] {
        nvdimmctl_ok(&["create-namespace", path, "-s", "32M", "-n", name]);
    }
    assert_eq!(printed(&["check-namespace", path, "b", "-j"])["dev"], "namespace0.1");
    assert_eq!(printed(&["inspect", path, "b", "-j"])["dev"], "namespace0.1");
    nvdimmctl_ok(&["grow-namespace", path, "b", "-s", "48M"]);
    assert_eq!(printed(&["list", path, "-j", "-n", "b"])[0]["raw_size"], 48 * M);
    assert_eq!(printed(&["list", path, "-j", "-n", "all"]).as_array().unwrap().len(), 2);
    nvdimmctl_ok(&["destroy-namespace", path, "-f", "all"]);
    assert_eq!(printed(&["list", path, "-j"]), json!([]));
}

#[test]
fn all_namespaces_in_sector_mode_are_checked_and_the_worst_result_counts() {
    let (_folder, path) = labelled("160M");
    let path = text(&path);
    for (name, mode) in [("a", "sector"), ("devices", "dax"), ("b", "sector")] {
        nvdimmctl_ok(&["create-namespace", path, "-s", "32M", "-n", name, "-m", mode]);
    }
    let devices = |checked: &Value| -> Vec<Value> {
        checked.as_array().unwrap().iter().map(|one| one["dev"].clone()).collect()
    };
    let checked = printed(&["check-namespace", path, "all", "-j"]);
    assert_eq!(devices(&checked), [json!("namespace0.0"), json!("namespace0.2")]);

    // An info block of the first namespace.
    let start = printed(&["list", path, "-j", "-v", "-n", "a"])[0]["offset"].as_u64().unwrap_or(0);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 64], start).unwrap();
    let output = nvdimmctl(&["check-namespace", path, "all", "-j"]);
    assert_eq!(output.status.code(), Some(2));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(devices(&checked).len(), 2);
    let verdicts: Vec<_> = checked.as_array().unwrap().iter().map(|one| &one["verdict"]).collect();
    assert_eq!(verdicts, ["problems", "clean"]);
    let output = nvdimmctl(&["check-namespace", path, "all", "--repair"]);
    assert_eq!(output.status.code(), Some(1));
    nvdimmctl_ok(&["check-namespace", path, "all"]);

    // For one namespace only.
    let output = nvdimmctl(&["check-namespace", path, "all", "--repair", "--backup", "saved"]);
    assert_eq!(output.status.code(), Some(8));
}

#[test]
fn listings_take_the_options_of_ndctl() {
    let (_folder, path) = labelled("64M");
    let path = text(&path);
    nvdimmctl_ok(&["create-namespace", path, "-m", "raw", "-s", "32M"]);
    let both = printed(&["list", "-R", "-N", "-j", path]);
    assert_eq!(both[0]["align"], 16 * M);
    assert_eq!(both[0]["namespaces"][0]["dev"], "namespace0.0");
    assert_eq!(both[0]["namespaces"][0]["sector_size"], 512);
    assert!(printed(&["list", "-R", "-j", path])[0].get("namespaces").is_none());
    assert_eq!(printed(&["list", "-N", "-u", path])[0]["size"], "32.00 MiB (33.55 MB)");

    let dimms = printed(&["list", "-D", "-j", path]);
    assert_eq!(
        (&dimms[0]["dev"], &dimms[0]["size"]),
        (&json!("nmem0"), &json!(64 * M + (128 << 10)))
    );
    assert_eq!(
        (&dimms[0]["labels"]["size"], &dimms[0]["backing"]),
        (&json!(128 << 10), &json!("page-cache"))
    );
    // Several kinds are the parts of an object.
    let all = printed(&["list", "-D", "-R", "-N", "-j", path]);
    assert_eq!(all["dimms"], dimms);
    assert_eq!(all["regions"], both);
    assert!(all.get("namespaces").is_none());
    assert_eq!(printed(&["list", "-DN", "-j", path])["namespaces"], both[0]["namespaces"]);
    assert_eq!(printed(&["list", "-Du", path])[0]["labels"]["size"], "128.00 KiB (131.07 KB)");
}

#[test]
fn a_listing_for_people_has_a_line_for_each_nvdimm() {
    let (_folder, path) = labelled("64M");
    let path = text(&path);
    let listed = |options: &[&str]| {
        let arguments = [&["list", path], options].concat();
        String::from_utf8(nvdimmctl_ok(&arguments)).unwrap()
    };
    let dimms = listed(&["-D"]);
    assert!(dimms.contains("page-cache; labels 1.2 in 128 KiB"), "{dimms}");
    assert!(!dimms.contains("for namespaces"), "{dimms}");
    // With the regions, and what else there is.
    assert_eq!(listed(&["-D", "-R"]).lines().count(), 2);
}

#[test]
fn mappings_of_devices_mean_what_those_of_daxctl_mean() {
    let (_folder, path) = labelled("128M");
    let path = text(&path);
    nvdimmctl_ok(&["create-namespace", path, "-m", "dax", "-s", "112M"]);
    for device in ["a", "b"] {
        nvdimmctl_ok(&["dax", "create-device", path, device, "-s", "4M"]);
    }
    nvdimmctl_ok(&["dax", "resize-device", path, "a", "-s", "6M"]);
    let devices = printed(&["dax", "list", "-D", "-j", path]);
    let [first, second] = &devices[0]["mappings"].as_array().unwrap()[..] else { panic!() };
    for (mapping, page, size) in [(first, 0, 4 * M), (second, 4 * M / 4096, 2 * M)] {
        assert_eq!((&mapping["page_offset"], &mapping["size"]), (&json!(page), &json!(size)));
        let start = mapping["start"].as_u64().unwrap();
        assert_eq!(mapping["end"], start + size - 1, "the last byte, not the one after it");
    }
    assert!(printed(&["dax", "list", "-R", "-j", path]).get("devices").is_none());
    assert_eq!(printed(&["dax", "list", "-D", "-u", path])[1]["size"], "4.00 MiB (4.19 MB)");
}

/// The info block is made by the rules of Linux's `nd_pfn_init`.
#[test]
fn namespaces_of_linux_with_dax_are_listed_with_the_size_and_uuid_of_their_info_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    fs::File::create(&path).unwrap().set_len(64 * M).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for (signature, mode) in [(b"NVDIMM_PFN_INFO\0", "fsdax"), (b"NVDIMM_DAX_INFO\0", "devdax")] {
        let mut block = [0u8; 4096];
        block[..16].copy_from_slice(signature);
        block[16..32].copy_from_slice(&[0x5a; 16]);
        block[52..54].copy_from_slice(&1u16.to_le_bytes());
        block[54..56].copy_from_slice(&4u16.to_le_bytes());
        block[56..64].copy_from_slice(&(2 * M).to_le_bytes());
        block[72..76].copy_from_slice(&2u32.to_le_bytes());
        block[84..88].copy_from_slice(&((2 * M) as u32).to_le_bytes());
        let sum = fletcher64(&block);
        block[4088..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, 4096).unwrap();
        let listed = &printed(&["list", "-j", text(&path)])[0];
        assert_eq!((&listed["mode"], &listed["map"]), (&json!(mode), &json!("dev")));
        assert_eq!((&listed["size"], &listed["align"]), (&json!(62 * M), &json!(2 * M)));
        assert_eq!(listed["uuid"], "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a");

        file.write_all_at(&[1], 4096 + 1000).unwrap();
        let listed = &printed(&["list", "-j", text(&path)])[0];
        assert_eq!(listed["size"], 64 * M, "a block with a wrong checksum is not believed");
    }
}
