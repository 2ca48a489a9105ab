//! Damage that is found and repaired, and what inspection shows.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;
use vhost_user_btt::nvdimm::ClaimKind;

use super::common::daemon::nvdimmctl_ok;
use super::setup::{M, check, dax_json, dax_ok, dax_refused, json, options, refused, region, text};

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
