//! Namespaces that we make are Linux's, and those that Linux makes are ours: several in a file with labels, by our
//! tool and by the guest's ndctl.

use std::io::Read as _;

use serde_json::Value;

use crate::harness::{Daemon, Guest, Labels, Nvdimm, Tool, scratch, sha256_of_file};

/// Reports what ndctl lists, on one line, and then what every disk holds.
const REPORT: &str = r#"
say list "$(ndctl list -N | tr -d '\n')"
for disk in /dev/pmem*; do
    # Nothing of a raw disk is read in pieces that are too large.
    case $disk in
        *s) read=read_sectors ;;
        *) read=cat ;;
    esac
    say contents "${disk#/dev/} $($read "$disk" | sha256sum | cut -d ' ' -f 1)"
done
no_disk_errors
"#;

/// A namespace as the guest's ndctl lists it, and what its disk holds.
#[derive(Debug)]
struct ByLinux {
    listed: Value,
    sha256: String,
}

impl ByLinux {
    /// Takes the guest's [`REPORT`] of all its namespaces, by size.
    #[track_caller]
    fn reported_by(guest: &mut Guest) -> Vec<ByLinux> {
        let listed: Value = serde_json::from_str(&guest.wait_for("list")).expect("JSON of ndctl");
        // Of a single namespace, it lists no array.
        let listed = if listed.is_array() { listed } else { Value::Array(vec![listed]) };
        let mut listed = listed.as_array().expect("an array").clone();
        let sums: Vec<(String, String)> = listed
            .iter()
            .map(|_| {
                let line = guest.wait_for("contents");
                let (disk, sum) = line.split_once(' ').expect("a disk and its sum");
                (disk.to_owned(), sum.to_owned())
            })
            .collect();
        listed.sort_by_key(|namespace| namespace["size"].as_u64());
        let with_sum = |listed: Value| {
            let (_, sha256) =
                sums.iter().find(|(disk, _)| listed["blockdev"] == **disk).expect("its disk");
            ByLinux { sha256: sha256.clone(), listed }
        };
        listed.into_iter().map(with_sum).collect()
    }
}

/// What both sides say of a namespace, in the same words.
const COMMON: [&str; 5] = ["name", "mode", "size", "uuid", "sector_size"];

/// Our list of all namespaces of a file, by size, but those that Linux is to pass over.
fn by_us(tool: &Tool) -> Vec<Value> {
    let mut listed = tool.list().as_array().expect("an array").clone();
    listed.retain(|namespace| namespace["mode"] != "dax");
    listed.sort_by_key(|namespace| namespace["size"].as_u64());
    listed
}

#[track_caller]
fn assert_same(ours: &Value, linuxs: &Value) {
    for key in COMMON {
        // Raw disks have sectors of 512 bytes with Linux; for us there are none.
        if key != "sector_size" || ours["mode"] == "sector" {
            assert_eq!(ours[key], linuxs[key], "{key} of {ours} and {linuxs}");
        }
    }
}

fn namespaces_made_by_us_are_used_by_linux(labels: Labels) {
    let scratch = scratch();
    let file = scratch.path().join("ours.nvdimm");
    Tool::on(&file).create_labelled("240M", labels.bytes());
    // One that is not for Linux, at the first place, where it would make others if it took it for free.
    Tool::on(&file).create_namespace(&["--name", "memory", "--size", "64M", "--mode", "dax"]);
    Tool::on(&file).dax("create-device", &["device", "--size", "8M"]);
    let region = |when: &str| {
        let exported = scratch.path().join(when);
        Tool::on(&file).namespace("memory").export_raw(&exported);
        sha256_of_file(&exported)
    };
    let region_before = region("before");
    // Of different sizes, by which they are told apart; in the order of their places.
    for (name, size, sector_size) in
        [("old", "16M", "512"), ("blob", "48M", ""), ("root", "64M", "4096"), ("odd", "32M", "520")]
    {
        let mode: &[&str] = match sector_size {
            "" => &["--mode", "raw"],
            size => &["--sector-size", size],
        };
        Tool::on(&file).create_namespace(&[&["--name", name, "--size", size], mode].concat());
        let image = scratch.path().join(name);
        let random = std::fs::File::open("/dev/urandom").expect("random bytes");
        let mut imported = std::fs::File::create(&image).expect("a new file");
        std::io::copy(&mut random.take(9 << 20), &mut imported).expect("random bytes");
        Tool::on(&file).namespace(name).import(&image);
    }
    let ours = by_us(&Tool::on(&file));

    let nvdimm = Nvdimm { file: &file, labels };
    // ndctl checks sectors without metadata only. Then Linux destroys one of ours, and makes another in its place.
    let script = format!(
        "{REPORT}
        for namespace in namespace0.0 namespace0.2; do
            ndctl disable-namespace $namespace
            ndctl check-namespace $namespace
        done
        ndctl destroy-namespace -f namespace0.0
        ndctl create-namespace -m sector -l 4096 -s 16M -n new
        ndctl create-namespace -m raw -s 16M -n rest
        # Linux reads sectors that were never written as what the old namespace has left there, and we as zeroes.
        random \"$(blockdev --getsize64 /dev/pmem0s)\" | dd of=/dev/pmem0s bs=64k
        ndctl enable-namespace namespace0.2
        {REPORT}"
    );
    let mut guest = Guest::machine(scratch.path()).nvdimm(&nvdimm).boot(&script);
    let seen = ByLinux::reported_by(&mut guest);
    let left = ByLinux::reported_by(&mut guest);
    guest.finish();

    assert_eq!(seen.len(), 4);
    for (ours, linuxs) in ours.iter().zip(&seen) {
        assert_same(ours, &linuxs.listed);
        let name = ours["name"].as_str().expect("a name");
        // Linux destroyed that one in the end.
        if name != "old" {
            assert_eq!(Tool::on(&file).namespace(name).sha256_of_export(), linuxs.sha256, "{name}");
        }
    }
    for (ours, linuxs) in by_us(&Tool::on(&file)).iter().zip(&left) {
        assert_same(ours, &linuxs.listed);
        let name = ours["name"].as_str().expect("a name");
        assert_eq!(Tool::on(&file).namespace(name).sha256_of_export(), linuxs.sha256, "{name}");
    }
    assert_eq!(left[0].listed["name"], "new");
    assert_eq!(left.len(), 5, "{left:?}");
    assert_eq!(region("after"), region_before, "Linux has not stored to what it passes over");
    Tool::on(&file).dax("check", &[]);
    for name in ["new", "root", "odd"] {
        Tool::on(&file).namespace(name).assert_clean();
    }
}

#[test]
fn namespaces_made_by_us_are_used_by_linux_with_128_kib_of_labels() {
    namespaces_made_by_us_are_used_by_linux(Labels::Last128KiB);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn namespaces_made_by_us_are_used_by_linux_with_2_mib_of_labels() {
    namespaces_made_by_us_are_used_by_linux(Labels::Last2MiB);
}

fn namespaces_made_by_linux_are_served_by_us(labels: Labels, version: &str) {
    let scratch = scratch();
    let file = scratch.path().join("linux.nvdimm");
    let blank = std::fs::File::create(&file).expect("a new file");
    blank.set_len((128 << 20) + labels.bytes()).expect("a sparse file");

    let nvdimm = Nvdimm { file: &file, labels };
    let script = format!(
        r#"ndctl disable-region all
        ndctl init-labels -f -V {version} all
        ndctl enable-region all
        ndctl create-namespace -m sector -l 512 -s 32M -n first
        ndctl create-namespace -m sector -l 4096 -s 48M -n second
        ndctl create-namespace -m raw -s 16M -n third
        for disk in /dev/pmem*; do
            random 7m | dd of="$disk" bs=64k seek=16 conv=notrunc
        done
        sync
        {REPORT}"#
    );
    let mut guest = Guest::machine(scratch.path()).nvdimm(&nvdimm).boot(&script);
    let by_linux = ByLinux::reported_by(&mut guest);
    guest.finish();
    assert_eq!(by_linux.len(), 3);

    let ours = by_us(&Tool::on(&file));
    assert_eq!(ours.len(), 3);
    for (ours, linuxs) in ours.iter().zip(&by_linux) {
        assert_same(ours, &linuxs.listed);
        assert_eq!(ours["label"]["version"], version);
        assert_eq!(ours["label"]["qemu_slot"], 0);
        assert_eq!(ours["health"], "ok");
    }
    for (name, linuxs) in [("first", &by_linux[1]), ("second", &by_linux[2])] {
        Tool::on(&file).namespace(name).assert_clean();
        assert_eq!(Tool::on(&file).namespace(name).sha256_of_export(), linuxs.sha256);
    }

    // Both at once, from one daemon.
    let daemon = Daemon::start_disks(&file, &["first", "second"]);
    let script = r#"
        for disk in /dev/vda /dev/vdb; do
            say sector_size "$(blockdev --getss $disk)"
            read_sectors $disk | say_sha256 sectors
        done
        random 3m | dd of=/dev/vda bs=64k conv=notrunc
        random 3m | dd of=/dev/vdb bs=64k conv=notrunc
        sync
        for disk in /dev/vda /dev/vdb; do
            read_sectors $disk | say_sha256 sectors
        done
        no_disk_errors"#;
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(script);
    for (sector_size, linuxs) in [("512", &by_linux[1]), ("4096", &by_linux[2])] {
        assert_eq!(guest.wait_for("sector_size"), sector_size);
        assert_eq!(guest.wait_for("sectors"), linuxs.sha256);
    }
    let written = [(); 2].map(|()| guest.wait_for("sectors"));
    guest.finish();
    daemon.stop();

    // And back: Linux finds what was written, and its third namespace as it was.
    let mut guest = Guest::machine(scratch.path()).nvdimm(&nvdimm).boot(REPORT);
    let again = ByLinux::reported_by(&mut guest);
    guest.finish();
    assert_eq!([&again[1].sha256, &again[2].sha256], written.each_ref());
    assert_eq!(again[0].sha256, by_linux[0].sha256);
    // As a file, the third has the same bytes.
    let raw = scratch.path().join("raw");
    Tool::on(&file).namespace("third").export_raw(&raw);
    assert_eq!(sha256_of_file(&raw), by_linux[0].sha256);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn namespaces_made_by_linux_with_labels_1_1_are_served_by_us() {
    namespaces_made_by_linux_are_served_by_us(Labels::Last128KiB, "1.1");
}

#[test]
fn namespaces_made_by_linux_with_labels_1_2_are_served_by_us() {
    namespaces_made_by_linux_are_served_by_us(Labels::Last2MiB, "1.2");
}
