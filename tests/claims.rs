//! A namespace has at most one writer, or several readers, and the loser hears who holds it.

use std::path::PathBuf;

use tempfile::TempDir;
use vhost_user_btt::nvdimm::{Claim, ClaimKind, Error, Holder, LabelSize, NvdimmFile, Selection};
use vhost_user_btt::pmem::DurabilityRequest;

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    std::fs::File::create_new(&path).unwrap().set_len(1 << 20).unwrap();
    (folder, path)
}

fn claim(path: &std::path::Path, kind: ClaimKind) -> Result<Claim, Error> {
    NvdimmFile::open(path, kind, LabelSize::Detect)?.claim(&Selection::Only)
}

#[test]
fn a_writer_excludes_everybody_and_readers_exclude_writers() {
    use ClaimKind::{Exclusive, Shared};
    let (_folder, path) = file();
    for (first, second, both) in [
        (Exclusive, Exclusive, false),
        (Exclusive, Shared, false),
        (Shared, Exclusive, false),
        (Shared, Shared, true),
    ] {
        let held = claim(&path, first).unwrap();
        match claim(&path, second) {
            Ok(_) => assert!(both, "{first:?} {second:?}"),
            Err(Error::Busy { holder: Holder::Process { pid, program }, .. }) => {
                assert!(!both, "{first:?} {second:?}");
                assert_eq!(pid, std::process::id());
                assert!(!program.is_empty());
            }
            Err(error) => panic!("{error}"),
        }
        drop(held);
        claim(&path, second).unwrap();
    }
}

#[test]
fn a_mapping_keeps_its_claim() {
    let (_folder, path) = file();
    let held = claim(&path, ClaimKind::Exclusive).unwrap();
    let medium = held.map(DurabilityRequest::Auto).unwrap();
    drop(held);
    assert!(matches!(claim(&path, ClaimKind::Shared), Err(Error::Busy { .. })));
    drop(medium);
    claim(&path, ClaimKind::Shared).unwrap();
}

#[test]
fn what_cannot_be_opened_says_so() {
    let (folder, path) = file();
    let missing = claim(&folder.path().join("missing"), ClaimKind::Shared);
    assert!(matches!(missing, Err(Error::File { action: "open", .. })));
    assert!(matches!(claim(folder.path(), ClaimKind::Shared), Err(Error::Map { .. })));
    std::fs::File::create(&path).unwrap().set_len(4095).unwrap();
    assert!(matches!(claim(&path, ClaimKind::Shared), Err(Error::TooSmall { .. })));
}
