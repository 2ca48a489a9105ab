//! The label storage areas that Linux wrote are read as Linux means them; damaged ones are refused.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::fixture::{self, Fixture};
use tempfile::TempDir;
use uuid::Uuid;
use vhost_user_btt::btt::{self, Version};
use vhost_user_btt::namespace::{NamespaceError, NamespaceOptions};
use vhost_user_btt::nvdimm::label::{IndexBlock, LabelFault, Layout, NamespaceLabel};
use vhost_user_btt::nvdimm::{Abstraction, ClaimKind, Error, LabelSize, NvdimmFile, Selection};
use vhost_user_btt::pmem::DurabilityRequest;

fn unpack(name: &str) -> (TempDir, PathBuf, Fixture) {
    let fixture = fixture::all().into_iter().find(|f| f.file.starts_with(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = fixture.unpack(folder.path());
    (folder, path, fixture)
}

fn open(path: &Path) -> Result<NvdimmFile, Error> {
    NvdimmFile::open(path, ClaimKind::Shared, LabelSize::Detect)
}

fn options(path: &Path, label_size: LabelSize) -> NamespaceOptions {
    NamespaceOptions {
        path: path.into(),
        file: None,
        selection: Selection::Only,
        label_size,
        version: None,
        durability: DurabilityRequest::Auto,
    }
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn labels_of_both_versions_are_read() {
    for (name, version, abstraction) in [
        ("k612-label128k-v11-512", "1.1", Abstraction::Unstated),
        ("k612-label128k-v12-4096", "1.2", Abstraction::Btt2),
        ("k612-label128k-v12-520", "1.2", Abstraction::Btt2),
    ] {
        let (_folder, path, fixture) = unpack(name);
        let file = open(&path).unwrap();
        let area = file.labels().unwrap();
        assert_eq!(area.size, fixture.label_bytes);
        assert_eq!(area.index.version.to_string(), version);
        let (_, label) = area.labels().next().unwrap();
        let label = label.unwrap();
        assert_eq!((label.dpa, label.rawsize), (0, fixture.bytes - fixture.label_bytes));
        // Linux keeps the sector size only where the namespace could have it without a BTT.
        let lbasize = if fixture.external_lbasize == 520 { 0 } else { fixture.external_lbasize };
        assert_eq!(label.lbasize, u64::from(lbasize));
        assert_eq!(namespace_of(&file).label.as_ref(), Some(&label));
        assert_eq!((label.nlabel, label.position), (1, 0));
        let cookie = if version == "1.1" { 0x0024_68ac_0012_3456 } else { 0x00ba_9012_0012_b4dc };
        assert_eq!(label.isetcookie, cookie);

        let [namespace] = file.namespaces() else { panic!() };
        assert_eq!(namespace.abstraction, abstraction);
        assert_eq!(namespace.device_name(), "namespace0.0");
        let uuid = namespace.uuid.unwrap();
        let (_, (btt, _queues)) = options(&path, LabelSize::Detect)
            .map(ClaimKind::Shared)
            .unwrap()
            .open(true, 1, vhost_user_btt::namespace::Atomic::default())
            .unwrap();
        assert_eq!(btt.infos().next().unwrap().parent_uuid, uuid);
    }
}

fn namespace_of(file: &NvdimmFile) -> &vhost_user_btt::nvdimm::Namespace {
    &file.namespaces()[0]
}

/// Index blocks, the label in force, the ones before it, and the zeroes between: all of it.
#[test]
fn every_label_byte_that_linux_wrote_is_encoded_again() {
    let labelled = fixture::all().into_iter().filter(|fixture| fixture.label_bytes > 0);
    for fixture in labelled {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture.unpack(folder.path());
        let start = (fixture.bytes - fixture.label_bytes) as usize;
        let written = &std::fs::read(&path).unwrap()[start..];
        let mut encoded = vec![0; written.len()];
        let mut put = |offset: u64, bytes: &[u8]| {
            encoded[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        };
        let indexes = [0, 1].map(|number| IndexBlock::decode(written, number).unwrap());
        let version = indexes[0].version;
        assert_eq!(Some(version.to_string()), fixture.label_version);
        let layout = Layout::of(fixture.label_bytes, version).unwrap();
        for index in &indexes {
            assert_eq!((index.size, index.nslot), (layout.index_size, layout.nslot));
            put(index.offset(), &index.encode());
        }
        let mut labels = 0;
        for slot in 0..layout.nslot {
            let offset = indexes[0].slot_offset(slot);
            let bytes = &written[offset as usize..][..version.label_size() as usize];
            if bytes.iter().any(|&byte| byte != 0) {
                let label = NamespaceLabel::decode(bytes, version, slot).unwrap();
                put(offset, &label.encode());
                labels += 1;
            }
        }
        assert_eq!(labels, 2, "one that was being updated, and the one after it");
        assert!(encoded == written, "{}", fixture.file);
    }
    assert_eq!(fixture::all().iter().filter(|fixture| fixture.label_bytes > 0).count(), 5);
}

#[test]
fn a_file_without_labels_is_one_namespace() {
    let (_folder, path, fixture) = unpack("k612-nolabel-512");
    let file = open(&path).unwrap();
    assert!(file.labels().is_none());
    let [namespace] = file.namespaces() else { panic!() };
    assert_eq!((namespace.uuid, namespace.range.clone()), (None, 0..fixture.bytes));
}

#[test]
fn namespaces_go_by_device_name_and_uuid() {
    let (_folder, path, _) = unpack("k612-label128k-v12-520");
    let file = open(&path).unwrap();
    let uuid = file.namespaces()[0].uuid.unwrap().to_string();
    for name in ["namespace0.0", &uuid, &uuid.to_uppercase()] {
        assert!(file.select(&Selection::Named(name.into())).is_ok(), "{name}");
    }
    for name in ["", "namespace0.1", "00000000-0000-0000-0000-000000000000"] {
        let selected = file.select(&Selection::Named(name.into()));
        assert!(matches!(selected, Err(Error::Unknown { .. })), "{name}");
    }
}

#[test]
fn either_index_block_is_enough_and_both_bad_are_an_error() {
    let (_folder, path, fixture) = unpack("k612-label128k-v12-520");
    let area = fixture.bytes - fixture.label_bytes;
    let uuid = open(&path).unwrap().namespaces()[0].uuid;
    let original = std::fs::read(&path).unwrap();
    let index = |number: u64| {
        let start = (area + number * 256) as usize;
        original[start..start + 256].to_vec()
    };
    let newer = open(&path).unwrap().labels().unwrap().index.clone();
    for damaged in [0, 1] {
        write(&path, area + damaged * 256, &[0xff; 256]);
        let left = open(&path).unwrap();
        let used = &left.labels().unwrap().index;
        assert_eq!(used.number, 1 - damaged);
        assert_eq!(*used == newer, used.number == newer.number);
        if *used == newer {
            assert_eq!(left.namespaces()[0].uuid, uuid);
        }
        write(&path, area + damaged * 256, &index(damaged));
    }
    write(&path, area + 30, &[0xff]);
    write(&path, area + 256 + 30, &[0xff]);
    let Err(Error::Labels { first, second, .. }) = open(&path) else { panic!() };
    assert!(matches!(first, LabelFault::Checksum { .. }));
    assert!(matches!(second, LabelFault::Checksum { .. }));
}

#[test]
fn a_torn_label_is_passed_over() {
    let (_folder, path, fixture) = unpack("k612-label128k-v12-520");
    let slots = fixture.bytes - fixture.label_bytes + 512;
    let slot = open(&path).unwrap().labels().unwrap().labels().next().unwrap().0;
    write(&path, slots + u64::from(slot) * 256 + 20, b"x");
    let file = open(&path).unwrap();
    assert_eq!(file.namespaces(), []);
    assert!(matches!(file.select(&Selection::Only), Err(Error::NoNamespace { .. })));
}

#[test]
fn a_label_area_is_found_at_its_stated_size_only_if_it_is_there() {
    let (_folder, path, fixture) = unpack("k612-label128k-v12-520");
    let open = |size| NvdimmFile::open(&path, ClaimKind::Shared, size);
    assert!(open(LabelSize::Bytes(fixture.label_bytes)).unwrap().labels().is_some());
    assert!(open(LabelSize::None).unwrap().labels().is_none());
    for size in [0, 4096, 2 << 20, u64::MAX] {
        assert!(matches!(open(LabelSize::Bytes(size)), Err(Error::NoLabels { .. })), "{size}");
    }
}

/// A guest can write a label storage area into its disk, where the search for one finds it.
#[test]
fn labels_that_a_guest_wrote_into_its_disk_are_not_believed() {
    let (_folder, label_less, fixture) = unpack("k612-nolabel-512");
    let (_folder2, labelled, other) = unpack("k612-label128k-v12-520");
    let area = std::fs::read(&labelled).unwrap()[other.bytes as usize - (128 << 10)..].to_vec();
    // Only the front part of it: the rest of the file's end is map and flog.
    write(&label_less, fixture.bytes - (1 << 20), &area);
    write(&label_less, fixture.bytes - (1 << 20) + 128, &[0; 0]);
    let claimed = options(&label_less, LabelSize::Detect).map(ClaimKind::Exclusive);
    assert!(matches!(claimed, Err(NamespaceError::Ambiguous { .. })));
    let mapped = options(&label_less, LabelSize::None).map(ClaimKind::Exclusive).unwrap();
    let (_, (btt, _queues)) =
        mapped.open(false, 1, vhost_user_btt::namespace::Atomic::default()).unwrap();
    assert_eq!(btt.sectors(), fixture.sectors);
}

#[test]
fn the_label_says_which_version_of_the_btt_counts() {
    let (_folder, path, _) = unpack("k612-label128k-v12-520");
    let (_, (btt, queues)) = options(&path, LabelSize::Detect)
        .map(ClaimKind::Exclusive)
        .unwrap()
        .open(false, 1, vhost_user_btt::namespace::Atomic::default())
        .unwrap();
    let info = *btt.infos().next().unwrap();
    assert_eq!(info.version, Version::V2_0);
    // A guest's forgery at byte 4096, even with the second info block of its own gone.
    let forged = btt::InfoBlock { version: Version::V1_1, uuid: Uuid::max(), ..info };
    write(&path, 4096, &forged.encode());
    let file = open(&path).unwrap();
    let end = file.namespaces()[0].range.end;
    write(&path, end - 4096, &[0; 4096]);
    drop((btt, queues, file));
    let (_, (btt, _queues)) = options(&path, LabelSize::Detect)
        .map(ClaimKind::Exclusive)
        .unwrap()
        .open(false, 1, vhost_user_btt::namespace::Atomic::default())
        .unwrap();
    assert_eq!(btt.infos().next().unwrap().uuid, info.uuid);
}
