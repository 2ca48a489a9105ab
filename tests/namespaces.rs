//! Several namespaces in one file, as an administrator makes and destroys them.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::daemon::{nvdimmctl, nvdimmctl_ok};
use serde_json::Value;
use tempfile::TempDir;

const M: u64 = 1 << 20;
const LABELS: u64 = 128 << 10;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file with labels and room for `size`.
fn labelled(size: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", size, "--label-size", "128K"]);
    (folder, path)
}

fn run(path: &Path, verb: &str, options: &[&str]) -> Output {
    nvdimmctl(&[&[verb, text(path)], options].concat())
}

fn done(path: &Path, verb: &str, options: &[&str]) -> String {
    let output = run(path, verb, options);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{verb} {options:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that fails with `code`, and returns its complaint.
fn refused(code: i32, path: &Path, verb: &str, options: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(path, verb, options);
    let complaint = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{verb} {options:?}: {complaint}");
    assert!(stdout.is_empty(), "{verb} {options:?}");
    complaint
}

fn create(path: &Path, options: &[&str]) -> Value {
    let options = [options, &["--json"]].concat();
    serde_json::from_str(&done(path, "create-namespace", &options)).unwrap()
}

fn list(path: &Path) -> Vec<Value> {
    serde_json::from_str(&done(path, "list", &["--json"])).unwrap()
}

/// Name, first byte and bytes of all namespaces.
fn places(path: &Path) -> Vec<(String, u64, u64)> {
    let number = |value: &Value| value.as_u64().unwrap();
    list(path)
        .iter()
        .map(|listed| {
            let name = listed["name"].as_str().unwrap_or_default().to_owned();
            (name, number(&listed["start"]) / M, number(&listed["raw_size"]) / M)
        })
        .collect()
}

fn place(name: &str, start: u64, size: u64) -> (String, u64, u64) {
    (name.into(), start, size)
}

#[test]
fn a_file_is_made_with_labels_behind_the_usable_size() {
    for (label_size, bytes) in [("128K", 128 << 10), ("132K", 132 << 10), ("2M", 2 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nvdimm");
        done(&path, "create", &["--size", "64M", "--label-size", label_size]);
        assert_eq!(fs::metadata(&path).unwrap().len(), 64 * M + bytes);
        assert_eq!(list(&path), [] as [Value; 0]);
        let regions: Value = serde_json::from_str(&done(&path, "list", &["-R", "--json"])).unwrap();
        assert_eq!(regions[0]["size"], 64 * M);
        assert_eq!(regions[0]["max_available_extent"], 64 * M);
        assert_eq!(regions[0]["labels"]["size"], bytes);
        assert_eq!(regions[0]["labels"]["version"], "1.2");
        assert!(done(&path, "list", &[]).contains("64 MiB free"));
        create(&path, &[]);
        assert_eq!(places(&path), [place("", 0, 64)]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    for (size, labels, complaint) in [
        ("65M", "128K", "--align"),
        ("64M", "64K", "128K"),
        ("64M", "17M", "16M"),
        ("64M", "130K", "4K"),
    ] {
        let options = ["--size", size, "--label-size", labels];
        assert!(refused(1, &path, "create", &options).contains(complaint));
        assert!(!path.exists());
    }
    done(&path, "create", &["--size", "65M", "--label-size", "128K", "--align", "1M"]);
    // The odd end is left over, unless asked for.
    create(&path, &["-s", "32M"]);
    create(&path, &[]);
    create(&path, &["-m", "raw", "--align", "1M"]);
    assert_eq!(places(&path), [place("", 0, 32), place("", 32, 32), place("", 64, 1)]);
}

#[test]
fn namespaces_go_to_the_first_place_where_they_fit() {
    let (_folder, path) = labelled("256M");
    for (name, size) in [("a", "64M"), ("b", "32M"), ("c", "64M"), ("d", "32M")] {
        create(&path, &["--name", name, "--size", size]);
    }
    done(&path, "destroy-namespace", &["b", "--force"]);
    done(&path, "destroy-namespace", &["d", "--force"]);
    let complaint = refused(1, &path, "create-namespace", &["--size", "112M"]);
    assert!(
        complaint.contains("no space for 112M") && complaint.contains("has 96M"),
        "{complaint}"
    );
    create(&path, &["--name", "e", "--size", "48M"]);
    create(&path, &["--name", "f", "--size", "16M"]);
    let expected = [place("a", 0, 64), place("f", 64, 16), place("c", 96, 64), place("e", 160, 48)];
    assert_eq!(places(&path), expected);
    // Without a size: all of the largest extent that is left.
    create(&path, &["--name", "g"]);
    assert_eq!(places(&path)[4], place("g", 208, 48));
    for name in ["a", "c", "e", "f", "g"] {
        let checked = done(&path, "check-namespace", &["--namespace", name]);
        assert!(checked.contains("clean"), "{checked}");
    }
}

#[test]
fn a_namespace_is_made_as_linux_makes_it() {
    let (_folder, path) = labelled("64M");
    let uuid = "0b3c5b2e-7f0d-4b44-9a5c-0d8f3b1f4a6e";
    for (lbasize, of_label) in [("512", 512), ("520", 0), ("4096", 4096), ("4224", 0)] {
        let made = create(&path, &["-l", lbasize, "-u", uuid, "-n", "root"]);
        assert_eq!((&made["raw_uuid"], &made["name"]), (&uuid.into(), &"root".into()));
        assert_eq!((&made["mode"], &made["btt_version"]), (&"sector".into(), &"2.0".into()));
        assert_eq!(made["sector_size"].to_string(), lbasize);
        assert_eq!((&made["health"], &made["atomic_sectors"]), (&"ok".into(), &true.into()));
        assert_eq!((&made["label"]["qemu_slot"], &made["holder"]), (&0.into(), &Value::Null));
        let inspected: Value = serde_json::from_str(&done(&path, "inspect", &["--json"])).unwrap();
        assert_eq!(inspected["parent_uuid"], uuid);
        // What ndctl lists as the uuid of a namespace in sector mode.
        assert_eq!(inspected["uuid"], made["uuid"]);
        for name in [uuid, made["uuid"].as_str().unwrap(), "root", "namespace0.0"] {
            done(&path, "check-namespace", &["--namespace", name]);
            done(&path, "list", &["--namespace", name]);
            let raw = run(&path, "export", &["--force-raw", "--namespace", name]);
            assert!(raw.status.success() && raw.stdout.len() as u64 == 64 * M);
        }
        assert_ne!(inspected["uuid"], uuid);
        // Label and slot, byte by byte, where the fields are that Linux reads.
        let slot = made["label"]["slot"].as_u64().unwrap();
        let area = &fs::read(&path).unwrap()[(64 * M) as usize..];
        let label = &area[512 + slot as usize * 256..][..256];
        let number = |offset: usize| u64::from_le_bytes(label[offset..][..8].try_into().unwrap());
        assert_eq!(label[16..24], *b"root\0\0\0\0");
        assert_eq!(number(80), 1 << 32, "no flags, one label, the first");
        assert_eq!((number(88), number(96)), (0x00ba_9012_0012_b4dc, of_label));
        assert_eq!((number(104), number(112), number(120)), (0, 64 * M, slot));
        let guid = u128::from_str_radix("fc3b6318351717428ac917239282d3f8", 16).unwrap();
        assert_eq!(label[144..160], guid.to_be_bytes());
        done(&path, "destroy-namespace", &[uuid, "-f"]);
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (_folder, path) = labelled("128M");
    let uuid = create(&path, &["-n", "a", "-s", "64M"])["raw_uuid"].as_str().unwrap().to_owned();
    let before = fs::read(&path).unwrap();
    for (options, code, complaint) in [
        (&["-n", "a"][..], 1, "name \"a\" exists already"),
        (&["-u", &uuid], 1, "exists already"),
        (&["-s", "60M"], 1, "48M and 64M"),
        (&["-s", "0"], 1, "misaligned"),
        (&["-s", "80M"], 1, "largest free extent has 64M"),
        (&["-n", "namespace0.5"], 2, "device name"),
        (&["-n", &"x".repeat(64)], 2, "63 bytes"),
        (&["-m", "raw", "-l", "512"], 2, "only in sector mode"),
        (&["-m", "fsdax"], 2, "possible values"),
        (&["-a", "1000"], 2, "power of two"),
        (&["-s", "4K", "-a", "4K"], 1, "too few"),
        (&["-e", "a"], 1, "holds a BTT"),
        (&["-e", "nobody", "-f"], 1, "no namespace \"nobody\""),
    ] {
        let said = refused(code, &path, "create-namespace", options);
        assert!(said.contains(complaint), "{options:?}: {said}");
    }
    for (options, complaint) in [
        (&["a"][..], "holds a BTT of version 2.0; --force"),
        (&["nobody", "--force"], "no namespace \"nobody\"; there are: namespace0.0"),
    ] {
        let said = refused(1, &path, "destroy-namespace", options);
        assert!(said.contains(complaint), "{options:?}: {said}");
    }
    create(&path, &["-n", "b", "-m", "raw"]);
    assert!(refused(1, &path, "rename-namespace", &["b", "a"]).contains("exists already"));
    done(&path, "destroy-namespace", &["b"]);
    assert!(fs::read(&path).unwrap()[..(128 * M) as usize] == before[..(128 * M) as usize]);
}

#[test]
fn a_file_without_labels_stays_one_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    done(&path, "create", &["--size", "64M"]);
    for options in [&["--size", "32M"][..], &["--name", "a"], &["--qemu-slot", "1"]] {
        assert!(refused(2, &path, "create-namespace", options).contains("--label-size"));
    }
    assert!(refused(1, &path, "rename-namespace", &["namespace0.0", "a"]).contains("no labels"));
    create(&path, &["-e", "namespace0.0"]);
    assert!(refused(1, &path, "destroy-namespace", &["namespace0.0"]).contains("--force"));
    assert!(refused(1, &path, "create-namespace", &["-m", "raw"]).contains("--force"));
    done(&path, "destroy-namespace", &["namespace0.0", "--force"]);
    assert_eq!(list(&path)[0]["mode"], "raw");
    create(&path, &["-l", "512"]);
    create(&path, &["-m", "raw", "--force"]);
    assert_eq!(list(&path)[0]["atomic_sectors"], false);
    assert!(done(&path, "list", &[]).contains("sectors are not atomic"));
}

#[test]
fn a_namespace_is_made_again_in_its_place_and_renamed_with_its_data() {
    let (_folder, path) = labelled("96M");
    create(&path, &["-n", "a", "-s", "32M"]);
    let old = create(&path, &["-n", "b", "-s", "32M", "-l", "512"]);
    create(&path, &["-n", "c", "-s", "32M"]);
    let image = path.with_extension("image");
    fs::write(&image, vec![7; 1 << 20]).unwrap();
    done(&path, "import", &[text(&image), "-n", "b"]);

    // Another name, the same data.
    done(&path, "rename-namespace", &["b", "B"]);
    let exported = nvdimmctl_ok(&["export", text(&path), "-n", "B"]);
    assert!(exported[..1 << 20] == vec![7; 1 << 20]);
    assert_eq!(list(&path)[1]["uuid"], old["uuid"]);

    // Another sector size: other data, another uuid, the same place.
    let new = create(&path, &["-e", "B", "-l", "4096", "--force"]);
    assert_eq!((&new["start"], &new["raw_size"]), (&old["start"], &old["raw_size"]));
    assert_eq!((&new["name"], &new["sector_size"]), (&"B".into(), &4096.into()));
    for uuid in ["uuid", "raw_uuid"] {
        assert_ne!(new[uuid], old[uuid]);
    }
    assert!(nvdimmctl_ok(&["export", text(&path), "-n", "B"]).iter().all(|byte| *byte == 0));
    let raw = create(&path, &["-e", "B", "-m", "raw", "-n", "R", "--force"]);
    assert_eq!((&raw["mode"], &raw["name"]), (&"raw".into(), &"R".into()));
    assert_eq!(places(&path), [place("a", 0, 32), place("R", 32, 32), place("c", 64, 32)]);
    for name in ["a", "c"] {
        done(&path, "check-namespace", &["-n", name]);
    }
    let checked = refused(8, &path, "check-namespace", &["-n", "R"]);
    assert!(checked.contains("in raw mode"), "{checked}");
}

#[test]
fn raw_bytes_go_in_and_come_out() {
    let (_folder, path) = labelled("64M");
    create(&path, &["-n", "before", "-s", "16M"]);
    create(&path, &["-n", "raw", "-m", "raw", "-s", "16M"]);
    create(&path, &["-n", "after", "-s", "16M"]);
    let image = path.with_extension("image");
    let mut data: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    data[500_000..1_500_000].fill(0);
    fs::write(&image, &data).unwrap();
    done(&path, "import", &[text(&image), "-n", "raw"]);
    let exported = nvdimmctl_ok(&["export", text(&path), "-n", "raw"]);
    assert_eq!(exported.len() as u64, 16 * M);
    assert!(exported[..data.len()] == data && exported[data.len()..].iter().all(|b| *b == 0));
    assert!(fs::read(&path).unwrap()[(16 * M) as usize..][..data.len()] == data);
    // Over it, with zeroes where data were; the rest stays.
    fs::write(&image, vec![0; 100_000]).unwrap();
    done(&path, "import", &[text(&image), "-n", "raw"]);
    let exported = nvdimmctl_ok(&["export", text(&path), "-n", "raw"]);
    assert!(exported[..100_000].iter().all(|b| *b == 0));
    assert!(exported[100_000..data.len()] == data[100_000..]);
    fs::File::create(&image).unwrap().set_len(16 * M + 1).unwrap();
    let said = refused(1, &path, "import", &[text(&image), "-n", "raw"]);
    assert!(said.contains("larger"), "{said}");
    for name in ["before", "after"] {
        done(&path, "check-namespace", &["-n", name]);
    }
    let said = refused(1, &path, "destroy-namespace", &["raw"]);
    assert!(said.contains("holds data"), "{said}");
}

#[test]
fn damaged_namespaces_are_listed_as_such_and_their_bytes_rescued() {
    let (_folder, path) = labelled("64M");
    create(&path, &["-n", "whole", "-s", "16M"]);
    create(&path, &["-n", "hurt", "-s", "32M"]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4096], 16 * M).unwrap();
    assert_eq!(list(&path)[1]["health"], "degraded");
    file.write_all_at(&[0; 4096], 48 * M - 4096).unwrap();
    let hurt = &list(&path)[1];
    assert_eq!((&hurt["health"], &hurt["mode"]), (&"unusable".into(), &"sector".into()));
    assert!(hurt["problem"].as_str().unwrap().contains("no BTT here"));
    assert_eq!(list(&path)[0]["health"], "ok");
    // Not taken for a raw disk: its sectors are in there, somewhere.
    assert!(refused(1, &path, "export", &["-n", "hurt"]).contains("no BTT here"));
    let raw = nvdimmctl_ok(&["export", text(&path), "-n", "hurt", "--force-raw"]);
    assert!(raw == fs::read(&path).unwrap()[(16 * M) as usize..(48 * M) as usize]);
}

/// What a crash between the BTT and its label leaves, in either direction.
#[test]
fn a_btt_without_a_label_is_not_written_over_unless_forced() {
    let (_folder, path) = labelled("64M");
    let labels = |path: &Path| fs::read(path).unwrap()[(64 * M) as usize..].to_vec();
    let empty = labels(&path);
    create(&path, &["-n", "a"]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&empty, 64 * M).unwrap();
    assert_eq!(list(&path), [] as [Value; 0]);
    for options in [&[][..], &["-m", "raw"], &["-s", "16M"]] {
        let said = refused(1, &path, "create-namespace", options);
        assert!(said.contains("belong to no namespace, but hold a BTT of version 2.0"), "{said}");
    }
    create(&path, &["-n", "b", "--force"]);
    // What ndctl leaves when it destroys a namespace is nobody's.
    file.write_all_at(&empty, 64 * M).unwrap();
    file.write_all_at(&[0; 8192], 0).unwrap();
    let made = create(&path, &["-n", "c", "-m", "raw"]);
    assert_eq!((&made["mode"], &made["health"]), (&"raw".into(), &"ok".into()));
    assert!(nvdimmctl_ok(&["export", text(&path)]).len() as u64 == 64 * M);
}

#[test]
fn labels_are_initialized_in_a_file_that_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    fs::File::create(&path).unwrap().set_len(64 * M + (2 << 20)).unwrap();
    done(&path, "init-labels", &["--label-size", "2M"]);
    create(&path, &["-n", "a"]);
    assert_eq!(places(&path), [place("a", 0, 64)]);
    let said = refused(1, &path, "init-labels", &[]);
    assert!(said.contains("2M already, with 1 namespaces; --force"), "{said}");
    let said = refused(1, &path, "init-labels", &["--label-size", "128K"]);
    assert!(said.contains("2M already"), "{said}");
    let said = done(&path, "init-labels", &["--force"]);
    assert!(said.contains("1 namespaces were removed"), "{said}");
    assert_eq!(list(&path), [] as [Value; 0]);
    // Smaller, then larger, then of the old version: never is an older area found again.
    for (options, size, version) in [
        (&["--label-size", "128K"][..], 128 << 10, "1.2"),
        (&["--label-size", "2M"], 2 << 20, "1.2"),
        (&["-V", "1.1"], 2 << 20, "1.1"),
        (&["--label-size", "128K", "-V", "1.1"], 128 << 10, "1.1"),
    ] {
        create(&path, &["-m", "raw", "-s", "16M", "--force"]);
        done(&path, "init-labels", &[options, &["--force"]].concat());
        let regions: Value = serde_json::from_str(&done(&path, "list", &["-R", "--json"])).unwrap();
        assert_eq!(regions[0]["labels"]["size"], size);
        assert_eq!(regions[0]["labels"]["version"], version);
        assert_eq!(regions[0]["namespace_count"], 0);
    }
}

#[test]
fn labels_are_not_initialized_over_what_is_in_use_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    done(&path, "create", &["--size", "64M"]);
    create(&path, &[]);
    let before = fs::read(&path).unwrap();
    let said = refused(1, &path, "init-labels", &[]);
    assert!(said.contains("holds a BTT of version 1.1; --force"), "{said}");
    assert!(fs::read(&path).unwrap() == before);
    done(&path, "destroy-namespace", &["namespace0.0", "--force"]);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 64 * M - 1000).unwrap();
    assert!(refused(1, &path, "init-labels", &[]).contains("holds data, from byte"));
    done(&path, "init-labels", &["--force"]);
    assert!(refused(1, &path, "init-labels", &["--label-size", "64K"]).contains("128K"));
    // Both index blocks damaged: nothing can be read, nothing is lost without --force.
    for offset in [30, 256 + 30] {
        file.write_all_at(&[0xff], 64 * M - LABELS + offset).unwrap();
    }
    assert!(refused(1, &path, "list", &[]).contains("both index blocks"));
    assert!(refused(1, &path, "create-namespace", &[]).contains("both index blocks"));
    assert!(refused(1, &path, "init-labels", &[]).contains("--force"));
    done(&path, "init-labels", &["--force"]);
    create(&path, &["-s", "32M"]);
    // Nor in a file that is too small.
    let small = folder.path().join("small");
    fs::File::create(&small).unwrap().set_len(16 * M).unwrap();
    assert!(refused(1, &small, "init-labels", &[]).contains("leaves no 16M"));
}

#[test]
fn labels_of_version_1_1_have_btts_of_version_1_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    fs::File::create(&path).unwrap().set_len(64 * M + LABELS).unwrap();
    done(&path, "init-labels", &["-V", "1.1"]);
    let made = create(&path, &["-n", "a", "-s", "32M"]);
    assert_eq!((&made["btt_version"], &made["label"]["version"]), (&"1.1".into(), &"1.1".into()));
    let inspected: Value = serde_json::from_str(&done(&path, "inspect", &["--json"])).unwrap();
    assert_eq!(
        (&inspected["parent_uuid"], &inspected["arenas"][0]["start"]),
        (&made["raw_uuid"], &4096.into())
    );
    let said = refused(1, &path, "create-namespace", &["--btt-version", "2.0"]);
    assert!(said.contains("labels of version 1.1"), "{said}");
    // The other way round, both are possible.
    let (_folder, path) = labelled("64M");
    let made = create(&path, &["--btt-version", "1.1"]);
    assert_eq!(made["btt_version"], "1.1");
    done(&path, "check-namespace", &[]);
}

#[test]
fn namespaces_are_made_for_the_memory_slot_of_the_others() {
    let (_folder, path) = labelled("64M");
    let slot = |made: &Value| made["label"]["qemu_slot"].as_u64();
    assert_eq!(slot(&create(&path, &["-s", "16M", "--qemu-slot", "3"])), Some(3));
    assert_eq!(slot(&create(&path, &["-s", "16M"])), Some(3));
    assert_eq!(slot(&create(&path, &["-s", "16M", "--qemu-slot", "0"])), Some(0));
    assert!(done(&path, "list", &["-v"]).contains("QEMU's memory slot 3"));
    assert!(refused(2, &path, "create-namespace", &["--qemu-slot", "256"]).contains("256"));
}

#[test]
fn administrators_at_the_same_time_get_different_places() {
    let (_folder, path) = labelled("256M");
    let start = |number: u32| {
        let name = format!("n{number}");
        Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
            .args(["create-namespace", text(&path), "-s", "16M", "-n", &name])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children: Vec<_> = (0..12).map(start).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let mut starts: Vec<u64> = places(&path).iter().map(|(_, start, _)| *start).collect();
    starts.dedup();
    assert_eq!(starts, (0..12).map(|number| number * 16).collect::<Vec<_>>());
    for number in 0..12 {
        done(&path, "check-namespace", &["-n", &format!("n{number}")]);
    }
}
