//! `nvdimmctl check-namespace --repair`, and `inspect --svg`, as an administrator uses them.

#[path = "common/daemon.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod daemon;
#[path = "common/patience.rs"]
mod patience;
#[path = "common/shim.rs"]
mod shim;
#[path = "common/syncs.rs"]
#[allow(dead_code, reason = "no sync fails here")]
mod syncs;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};
use serde_json::Value;
use vhost_user_btt::btt::{self, Btt, Geometry, LaneIndex, Lba, Queue};
use vhost_user_btt::pmem::{DurabilityRequest, Mapping, PersistentMemory, Protection};
use vm_memory::VolatileSlice;

const PAGE: u64 = 4096;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs nvdimmctl, which ends with `code`, and returns its output, and what it complains of.
fn run(code: i32, arguments: &[&str]) -> (String, String) {
    let output = nvdimmctl(arguments);
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    (stdout, stderr)
}

/// A namespace whose first info block is lost.
fn damaged(folder: &Path) -> PathBuf {
    let path = make_namespace(folder, "32M", 4096);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; PAGE as usize], PAGE).unwrap();
    path
}

#[test]
fn a_repair_is_announced_backed_up_made_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = damaged(folder.path());
    let before = fs::read(&path).unwrap();
    let (said, _) = run(2, &["check-namespace", text(&path)]);
    assert!(said.contains("would be repaired: arena 0: restore the primary"), "{said}");
    assert!(said.contains("nothing was written"), "{said}");
    assert!(fs::read(&path).unwrap() == before);

    let (said, _) = run(1, &["check-namespace", text(&path), "--repair"]);
    let backup = folder.path().join("nvdimm.before-repair");
    assert!(said.contains("\nrepaired: arena 0") && said.contains(text(&backup)), "{said}");
    let (said, _) = run(0, &["check-namespace", text(&path), "--repair"]);
    assert!(!said.contains("repaired"), "{said}");

    // The second repair has a backup of its own.
    let repaired = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; PAGE as usize], (32 << 20) - PAGE).unwrap();
    run(1, &["check-namespace", text(&path), "--repair"]);
    assert!(folder.path().join("nvdimm.before-repair.2").exists());
    assert!(fs::read(&path).unwrap() == repaired);

    let (said, _) = run(0, &["check-namespace", text(&path), "--undo", text(&backup)]);
    assert!(said.contains("4096 bytes"), "{said}");
    assert!(fs::read(&path).unwrap() == before);
    run(0, &["check-namespace", text(&path), "--undo", text(&backup)]);
}

#[test]
fn a_repair_is_not_taken_back_under_what_was_written_since() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let inspected: Value =
        serde_json::from_slice(&nvdimmctl_ok(&["inspect", "--json", text(&path)])).unwrap();
    let logoff = PAGE + inspected["arenas"][0]["logoff"].as_u64().unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 64], logoff).unwrap();
    run(1, &["check-namespace", text(&path), "--repair"]);
    let raw = folder.path().join("raw");
    fs::write(&raw, vec![5; 40_000]).unwrap();
    nvdimmctl_ok(&["import", text(&path), text(&raw)]);
    let before = fs::read(&path).unwrap();
    let backup = folder.path().join("nvdimm.before-repair");
    let (_, said) = run(8, &["check-namespace", text(&path), "--undo", text(&backup)]);
    assert!(said.contains("written to since"), "{said}");
    assert!(fs::read(&path).unwrap() == before);
}

/// Opens the disk in `path` with two queues, and lets `act` have the first.
fn with_disk(path: &Path, act: impl FnOnce(&Mapping, &Geometry, u64, &mut Queue<Arc<Mapping>>)) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let (protection, durability) = (Protection::ReadWrite, DurabilityRequest::PageCache);
    let medium = Arc::new(Mapping::new(file, 0..size, protection, durability).unwrap());
    let options = btt::OpenOptions {
        version: None,
        namespace: None,
        read_only: false,
        queues: 2,
        atomic: 16 << 10,
    };
    let (btt, mut queues) = Btt::open(medium.clone(), &options).unwrap();
    let found = &btt::find(&medium, None).unwrap()[0];
    act(&medium, &found.info.geometry, found.start, &mut queues[0]);
    drop(btt);
}

fn write(queue: &mut Queue<Arc<Mapping>>, first: u64, byte: u8, sectors: usize) {
    let mut data = vec![byte; sectors * PAGE as usize];
    let mut batch = queue.batch();
    batch.write(first, &VolatileSlice::from(&mut data[..]), 0).unwrap();
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

/// Leaves the disk in `path` as if the power had failed in the middle of a write to its first `sectors` sectors: the
/// map does not have it yet, nor does the flog entry of the lane `missing`.
fn cut_off(path: &Path, sectors: u32, missing: Option<u32>) {
    with_disk(path, |medium, geometry, start, queue| {
        write(queue, 0, 1, sectors as usize);
        let entries = (0..sectors).map(|lba| start + geometry.map_entry_offset(Lba(lba)));
        let before: Vec<u32> =
            entries.clone().map(|entry| medium.load_u32(entry).unwrap()).collect();
        write(queue, 0, 2, sectors as usize);
        for (entry, value) in entries.zip(before) {
            medium.store_u32(entry, value).unwrap();
        }
        if let Some(lane) = missing {
            let entry = start + geometry.flog_offset(LaneIndex(lane)) + 16;
            medium.write_bytes(entry, &[0; 16]).unwrap();
        }
        medium.sync().unwrap();
    });
}

/// What the first page of the disk holds, one byte for all.
fn first_page(folder: &Path, path: &Path) -> u8 {
    let out = folder.join("out");
    nvdimmctl_ok(&["export", text(path), text(&out)]);
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(out).unwrap();
    assert!(bytes[..4 * PAGE as usize].iter().all(|byte| *byte == bytes[0]), "it is torn");
    bytes[0]
}

#[test]
fn a_page_that_a_repair_has_taken_back_is_taken_back_again_after_its_undo() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    // The second page is in the lanes 8, 10, 12 and 14.
    cut_off(&path, 4, Some(10));
    let before = fs::read(&path).unwrap();
    let (said, _) = run(0, &["check-namespace", text(&path)]);
    assert!(said.contains("would be repaired: arena 0: take back the write of"), "{said}");
    let (said, _) = run(1, &["check-namespace", text(&path), "--repair"]);
    assert!(said.contains("3 repairs made"), "{said}");
    assert_eq!(first_page(folder.path(), &path), 1);

    let backup = folder.path().join("nvdimm.before-repair");
    run(0, &["check-namespace", text(&path), "--undo", text(&backup)]);
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(first_page(folder.path(), &path), 1, "the record is still there");
    run(1, &["check-namespace", text(&path), "--repair"]);

    // Opening the disk clears the record, and without it the page would be torn.
    drop(Daemon::start(&path, &[]));
    let opened = fs::read(&path).unwrap();
    let (_, said) = run(8, &["check-namespace", text(&path), "--undo", text(&backup)]);
    assert!(said.contains("written to since"), "{said}");
    assert!(fs::read(&path).unwrap() == opened);
    assert_eq!(first_page(folder.path(), &path), 1);
}

/// What the write has freed is another sector's by then.
#[test]
fn a_write_that_a_repair_has_completed_stays_once_others_have_its_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    cut_off(&path, 1, None);
    run(1, &["check-namespace", text(&path), "--repair"]);
    with_disk(&path, |_, _, _, queue| {
        // Once through all lanes.
        (0..128).for_each(|sector| write(queue, 100 + sector, 3, 1));
    });
    let backup = folder.path().join("nvdimm.before-repair");
    let (_, said) = run(8, &["check-namespace", text(&path), "--undo", text(&backup)]);
    assert!(said.contains("written to since"), "{said}");
    run(0, &["check-namespace", text(&path)]);
}

#[test]
fn nothing_is_changed_without_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let path = damaged(folder.path());
    let before = fs::read(&path).unwrap();
    let backup = folder.path().join("backup");
    fs::write(&backup, "mine").unwrap();
    for backup in [text(&backup), "/nowhere/backup"] {
        let arguments = ["check-namespace", text(&path), "--repair", "--backup", backup];
        assert!(run(8, &arguments).1.contains("cannot write the backup"));
    }
    assert_eq!(fs::read(&backup).unwrap(), b"mine");
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn sectors_that_cannot_be_read_are_left_out_of_an_export_that_skips_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let image = folder.path().join("image");
    fs::write(&image, vec![7; 10 * PAGE as usize]).unwrap();
    nvdimmctl_ok(&["import", text(&path), text(&image)]);
    let inspected = nvdimmctl_ok(&["inspect", text(&path), "--json"]);
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    let arena = &inspected["arenas"][0];
    let map = arena["start"].as_u64().unwrap() + arena["mapoff"].as_u64().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for lba in [3, 5] {
        let mut entry = [0; 4];
        file.read_exact_at(&mut entry, map + lba * 4).unwrap();
        // Not zero any more, but an error.
        entry[3] = entry[3] & 0x3f | 0x40;
        file.write_all_at(&entry, map + lba * 4).unwrap();
    }
    let out = folder.path().join("out");
    let (_, said) = run(1, &["export", text(&path), text(&out)]);
    assert!(said.contains("--skip-unreadable") && !out.exists(), "{said}");
    let (_, said) = run(0, &["export", text(&path), text(&out), "--skip-unreadable"]);
    assert!(said.contains("8192 bytes could not be read, and are zero, the first at byte 12288"));
    let exported = fs::read(&out).unwrap();
    for (sector, lba) in exported.chunks(PAGE as usize).zip(0..10) {
        let byte = if [3, 5].contains(&lba) { 0 } else { 7 };
        assert!(sector.iter().all(|held| *held == byte), "{lba}");
    }
}

#[test]
fn only_a_whole_backup_of_this_namespace_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = damaged(folder.path());
    run(1, &["check-namespace", text(&path), "--repair"]);
    let repaired = fs::read(&path).unwrap();
    let good = fs::read_to_string(folder.path().join("nvdimm.before-repair")).unwrap();
    let backup = folder.path().join("backup");
    let size = (32u64 << 20).to_string();
    for (bad, complaint) in [
        (String::new(), "not a backup"),
        (good.replace("backup 1", "backup 2"), "not a backup"),
        (good.replace(&size, "33550336"), "of another size"),
        (good.replace("\n4096 4096", "\n4096 4095"), "twice so many bytes"),
        (good.replace("\n4096 4096", "\n33554432 4096"), "outside the namespace"),
        (good.replace("\nend 1", ""), "the end is missing"),
        (good.replace("\nend 1", "\nend 2"), "the end is missing"),
        (good.replace("\nend 1", "\nx\nend 1"), "not a line"),
    ] {
        fs::write(&backup, bad).unwrap();
        let (_, said) = run(8, &["check-namespace", text(&path), "--undo", text(&backup)]);
        assert!(said.contains(complaint), "{said}");
    }
    assert!(fs::read(&path).unwrap() == repaired);
}

#[test]
fn a_namespace_that_is_served_is_not_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let path = damaged(folder.path());
    let daemon = Daemon::start(&path, &["--read-only"]);
    // Looking is for everybody.
    run(2, &["check-namespace", text(&path)]);
    assert!(run(8, &["check-namespace", text(&path), "--repair"]).1.contains("busy"));
    assert!(run(8, &["check-namespace", text(&path), "--undo", "/dev/null"]).1.contains("busy"));
    drop(daemon);
    run(1, &["check-namespace", text(&path), "--repair"]);
}

#[test]
fn the_log_is_rewritten_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let raw = folder.path().join("raw");
    fs::write(&raw, vec![5; 40_000]).unwrap();
    nvdimmctl_ok(&["import", text(&path), text(&raw)]);
    assert!(run(2, &["check-namespace", text(&path), "--rewrite-log"]).1.contains("--repair"));
    let exported = nvdimmctl_ok(&["export", text(&path)]);
    let (said, _) = run(1, &["check-namespace", text(&path), "--repair", "--rewrite-log"]);
    assert!(said.contains("(10 lanes change)"), "{said}");
    run(0, &["check-namespace", text(&path), "--repair", "--rewrite-log"]);
    let inspected: Value =
        serde_json::from_slice(&nvdimmctl_ok(&["inspect", "--json", text(&path)])).unwrap();
    assert_eq!(inspected["arenas"][0]["lane_states"]["pristine"], 256);
    assert!(nvdimmctl_ok(&["export", text(&path)]) == exported);
}

#[test]
fn an_error_flag_is_cleared_by_force_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for offset in [PAGE, (32 << 20) - PAGE] {
        let mut block = [0; PAGE as usize];
        file.read_exact_at(&mut block, offset).unwrap();
        block[48] = 1;
        let sum = vhost_user_btt::pmem::fletcher64_without_field(&block, 4088);
        block[4088..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, offset).unwrap();
    }
    let (said, _) = run(0, &["check-namespace", text(&path), "--repair"]);
    assert!(said.contains("left: 1 of kind arena-error: --force"), "{said}");
    let (said, _) = run(1, &["check-namespace", text(&path), "--repair", "--force", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["repaired"], &said["repair_count"]), (&true.into(), &1.into()));
    assert_eq!((&said["verdict_after"], &said["left"]), (&"clean".into(), &Value::Array(vec![])));
    let (said, _) = run(0, &["check-namespace", text(&path), "--force"]);
    assert!(!said.contains("error"), "{said}");
}

#[test]
fn a_file_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let raw = folder.path().join("raw");
    fs::write(&raw, vec![5; 4_000_000]).unwrap();
    nvdimmctl_ok(&["import", text(&path), text(&raw)]);
    let drawn = String::from_utf8(nvdimmctl_ok(&["inspect", text(&path), "--svg"])).unwrap();
    for part in ["nvdimm: 32 MiB", "namespace0.0", "arena 0", ">data, 31.", ">map<", ">flog<"] {
        assert!(drawn.contains(part), "{part}: {drawn}");
    }
    assert!(drawn.contains("977 with data"), "{drawn}");
    assert!(drawn.contains("class=\"cell data\""), "{drawn}");
    assert!(drawn.ends_with("</svg>\n"));
    let out = folder.path().join("drawing.svg");
    nvdimmctl_ok(&["inspect", text(&path), "--svg", text(&out)]);
    assert_eq!(fs::read_to_string(&out).unwrap(), drawn);

    // A file without a BTT is drawn as what it is.
    let raw = folder.path().join("empty");
    nvdimmctl_ok(&["create", text(&raw), "--size", "32M"]);
    let drawn = String::from_utf8(nvdimmctl_ok(&["inspect", text(&raw), "--svg"])).unwrap();
    assert!(drawn.contains("raw mode: no BTT in it"), "{drawn}");
}
