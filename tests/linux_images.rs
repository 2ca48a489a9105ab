//! NVDIMM files that Linux wrote are read as Linux reads them.

mod common;

use common::fixture::{self, Fixture, sha256};
use tempfile::TempDir;
use vhost_user_btt::btt::{Btt, LbaSize, Queue};
use vhost_user_btt::namespace::NamespaceOptions;
use vhost_user_btt::nvdimm::{ClaimKind, LabelSize, Selection};
use vhost_user_btt::pmem::{DurabilityRequest, Mapping};
use vm_memory::VolatileSlice;

fn open(path: &std::path::Path, kind: ClaimKind) -> (std::sync::Arc<Btt<Mapping>>, Queue<Mapping>) {
    let options = NamespaceOptions {
        path: path.into(),
        file: None,
        selection: Selection::Only,
        label_size: LabelSize::Detect,
        version: None,
        durability: DurabilityRequest::Auto,
    };
    let (_claim, (btt, mut queues)) = options
        .map(kind)
        .unwrap()
        .open(false, 1, vhost_user_btt::namespace::Atomic::default())
        .unwrap();
    (btt, queues.remove(0))
}

fn contents(btt: &Btt<Mapping>, queue: &mut Queue<Mapping>) -> Vec<u8> {
    let mut data = vec![0; btt.sectors() as usize * btt.sector_size() as usize];
    queue.batch().read(0, &VolatileSlice::from(&mut data[..])).unwrap();
    data
}

fn unpacked(fixture: &Fixture) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = fixture.unpack(folder.path());
    (folder, path)
}

#[test]
fn every_image_reads_as_linux_read_it() {
    for fixture in fixture::all() {
        let (_folder, path) = unpacked(&fixture);
        for kind in [ClaimKind::Shared, ClaimKind::Exclusive, ClaimKind::Shared] {
            let (btt, mut queue) = open(&path, kind);
            let name = &fixture.file;
            assert_eq!((btt.sectors(), btt.sector_size()), (fixture.sectors, fixture.sector_size));
            let info = btt.infos().next().unwrap();
            assert_eq!(info.version.to_string(), fixture.btt_version, "{name}");
            assert_eq!(LbaSize::new(fixture.external_lbasize), Some(info.geometry.lba_size));
            assert_eq!(info.geometry.internal_lbasize, fixture.internal_lbasize);
            assert_eq!(info.geometry.external_nlba, fixture.external_nlba);
            assert_eq!(info.geometry.internal_nlba, fixture.internal_nlba);
            let sum = sha256(&contents(&btt, &mut queue));
            assert_eq!(sum, fixture.contents_sha256, "{name} {kind:?}");
        }
    }
}

#[test]
fn opening_an_image_with_nothing_pending_changes_no_byte() {
    for fixture in fixture::all().iter().filter(|fixture| fixture.pending_log_entry.is_none()) {
        let (_folder, path) = unpacked(fixture);
        let before = sha256(&std::fs::read(&path).unwrap());
        open(&path, ClaimKind::Exclusive);
        assert_eq!(sha256(&std::fs::read(&path).unwrap()), before, "{}", fixture.file);
    }
}

#[test]
fn a_crash_image_is_recovered_by_one_map_entry() {
    let crashed = |fixture: &Fixture| fixture.pending_log_entry;
    for (fixture, pending) in fixture::all().iter().filter_map(|f| Some((f, crashed(f)?))) {
        let (_folder, path) = unpacked(fixture);
        let before = std::fs::read(&path).unwrap();
        open(&path, ClaimKind::Shared);
        assert!(std::fs::read(&path).unwrap() == before, "reading alone recovers nothing");
        let (btt, _queue) = open(&path, ClaimKind::Exclusive);
        let mapoff = fixture.first_arena_offset + btt.infos().next().unwrap().geometry.mapoff;
        let after = std::fs::read(&path).unwrap();
        let changed: Vec<usize> =
            (0..before.len() / 4).filter(|i| before[i * 4..][..4] != after[i * 4..][..4]).collect();
        let place = mapoff as usize + pending.lba as usize * 4;
        assert_eq!(changed, [place / 4], "{}", fixture.file);
        let entry = u32::from_le_bytes(after[place..][..4].try_into().unwrap());
        assert_eq!(entry, pending.new | 0xc000_0000);
    }
}

#[test]
fn an_image_in_the_old_flog_layout_stays_in_it() {
    let fixture = fixture::all().into_iter().find(|f| f.file.contains("oldlog")).unwrap();
    let (_folder, path) = unpacked(&fixture);
    for generation in 0..3u8 {
        let (_btt, mut queue) = open(&path, ClaimKind::Exclusive);
        for sector in 0..600 {
            let mut data = [generation; 512];
            let mut batch = queue.batch();
            batch.write(sector, &VolatileSlice::from(&mut data[..]), 0).unwrap();
            batch.commit();
            assert_eq!(batch.take_failures().count(), 0);
        }
    }
    let (btt, mut queue) = open(&path, ClaimKind::Exclusive);
    let all = contents(&btt, &mut queue);
    assert!(all[..600 * 512].iter().all(|&byte| byte == 2));
    let geometry = btt.infos().next().unwrap().geometry;
    let image = std::fs::read(&path).unwrap();
    let flog = &image[geometry.logoff as usize..][..64 * geometry.nfree as usize];
    for lane in flog.chunks(64) {
        assert!(lane[16..32].iter().chain(&lane[48..]).all(|&byte| byte == 0));
    }
}
