//! `inspect --svg` shows names, and every damage, however small; its legend has what is drawn.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::daemon::nvdimmctl_ok;
use serde_json::Value;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file with labels and one namespace in sector mode.
fn disk() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimmctl_ok(&["create", text(&path), "--size", "256M", "--label-size", "128K"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "--name", "root"]);
    (folder, path)
}

fn draw(path: &Path) -> String {
    String::from_utf8(nvdimmctl_ok(&["inspect", text(path), "--svg", "-"])).unwrap()
}

fn arena(path: &Path, field: &str) -> u64 {
    let inspected = nvdimmctl_ok(&["inspect", text(path), "--json"]);
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    inspected["arenas"][0][field].as_u64().unwrap()
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Returns the classes of the legend's squares.
fn legend(drawn: &str) -> Vec<&str> {
    let squares = drawn.lines().filter(|line| line.contains(r#"width="14.0" height="12.0""#));
    squares.map(|line| line.split('"').nth(1).unwrap()).collect()
}

#[test]
fn names_are_in_the_bar() {
    let (_folder, path) = disk();
    let drawn = draw(&path);
    let label = drawn.lines().find(|line| line.contains(r#"class="label""#)).unwrap();
    assert!(label.contains("namespace0.0 &quot;root&quot;"), "{label}");
}

#[test]
fn a_damaged_info_block_is_seen() {
    for field in ["infooff", "info2off"] {
        let (_folder, path) = disk();
        assert!(!draw(&path).contains(r#"class="damaged""#));
        write(&path, arena(&path, field), &[0; 4096]);
        let drawn = draw(&path);
        assert_eq!(
            drawn.matches(r#"<rect class="damaged""#).count(),
            2,
            "the block, and the legend"
        );
        assert!(drawn.contains("INFO BLOCK DAMAGED"), "{field}");
    }
}

#[test]
fn one_lost_sector_is_seen() {
    let (_folder, path) = disk();
    assert!(!draw(&path).contains(r#"class="cell error""#));
    let lba = 4321;
    let lost = lba | 1u32 << 30;
    write(&path, arena(&path, "mapoff") + 4 * u64::from(lba), &lost.to_le_bytes());
    let drawn = draw(&path);
    let marks = drawn.lines().find(|line| line.contains(r#"class="cell error""#)).unwrap();
    assert!(marks.contains("h4v14.0"), "a mark of four pixels over the whole height: {marks}");
    assert!(legend(&drawn).contains(&"error"));
}

#[test]
fn sectors_out_of_order_are_seen() {
    let (_folder, path) = disk();
    let map = arena(&path, "mapoff");
    let put = |lba: u32, block: u32| {
        write(&path, map + 4 * u64::from(lba), &(block | 3u32 << 30).to_le_bytes());
    };
    (1000..1100).for_each(|lba| put(lba, lba));
    assert_eq!(legend(&draw(&path)), ["data", "never", "pristine"]);
    (1000..1100).for_each(|lba| put(lba, 2099 - lba));
    assert_eq!(legend(&draw(&path)), ["data", "scattered", "never", "pristine"]);
}

#[test]
fn lost_labels_are_seen() {
    let (_folder, path) = disk();
    write(&path, (256 << 20) + 512 + 16, b"other");
    let drawn = draw(&path);
    assert!(drawn.contains("label of slot 0 lost (see check-labels)"), "{drawn}");
    assert!(legend(&drawn).contains(&"damaged"));

    let (_folder, path) = disk();
    write(&path, (256 << 20) + 64, &[0xff; 8]);
    assert!(draw(&path).contains("index block 0 unusable (see check-labels)"));
}

#[test]
fn the_legend_has_what_is_drawn_and_nothing_else() {
    let (_folder, path) = disk();
    assert_eq!(legend(&draw(&path)), ["never", "pristine"]);
    nvdimmctl_ok(&["destroy-namespace", "-f", text(&path), "all"]);
    assert_eq!(legend(&draw(&path)), ["unused"]);
    nvdimmctl_ok(&["create-namespace", text(&path), "-m", "raw"]);
    assert!(legend(&draw(&path)).is_empty());
}
