//! A namespace has at most one writer, or several readers, and the loser hears who holds it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tempfile::TempDir;
use uuid::Uuid;
use vhost_user_btt::namespace::{self, Mode, NamespaceError, Provision};
use vhost_user_btt::nvdimm::label::{LabelName, LabelVersion};
use vhost_user_btt::nvdimm::{
    self, Claim, ClaimKind, Error, Holder, InitOptions, LINUX_ALIGNMENT, LabelSize, NvdimmFile,
    Place, Selection,
};
use vhost_user_btt::pmem::DurabilityRequest;

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    std::fs::File::create_new(&path).unwrap().set_len(1 << 20).unwrap();
    (folder, path)
}

fn claim(path: &Path, kind: ClaimKind) -> Result<Claim, Error> {
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

/// A file with labels and the namespaces `names`, of 16 MiB each, in raw mode.
fn labelled(names: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    nvdimm::create_file(&path, 128 << 20, Some(128 << 10), None).unwrap();
    for name in names {
        make(&path, name).unwrap();
    }
    (folder, path)
}

fn provision(name: &str) -> Provision {
    Provision {
        place: Place::FirstFit { size: Some(16 << 20), alignment: LINUX_ALIGNMENT },
        mode: Mode::Raw,
        name: Some(LabelName::new(name).unwrap()),
        uuid: Uuid::new_v4(),
        qemu_slot: None,
        force: false,
    }
}

fn make(path: &Path, name: &str) -> Result<(), NamespaceError> {
    let mut editor = namespace::edit_labels(path, LabelSize::Detect)?;
    namespace::create_namespace(&mut editor, &provision(name), |_, _| {}).map(drop)
}

fn destroy(path: &Path, name: &str) -> Result<(), NamespaceError> {
    let mut editor = namespace::edit_labels(path, LabelSize::Detect)?;
    namespace::destroy_namespace(&mut editor, &named(name), true).map(drop)
}

fn named(name: &str) -> Selection {
    Selection::Named(name.into())
}

fn open(path: &Path, kind: ClaimKind) -> NvdimmFile {
    NvdimmFile::open(path, kind, LabelSize::Detect).unwrap()
}

fn is_busy<T>(result: &Result<T, NamespaceError>) -> bool {
    match result {
        Err(NamespaceError::Nvdimm(Error::Busy {
            holder: Holder::Process { pid, .. }, ..
        })) => *pid == std::process::id(),
        _ => false,
    }
}

#[test]
fn namespaces_of_a_file_are_claimed_each_on_its_own() {
    let (_folder, path) = labelled(&["a", "b"]);
    let first = open(&path, ClaimKind::Exclusive).claim(&named("a")).unwrap();
    let second = open(&path, ClaimKind::Exclusive).claim(&named("b")).unwrap();
    assert_eq!(first.namespace().range.end, second.namespace().range.start);
    for name in ["a", "b"] {
        let claimed = open(&path, ClaimKind::Shared).claim(&named(name));
        assert!(matches!(claimed, Err(Error::Busy { .. })), "{name}");
    }
    drop(first);
    open(&path, ClaimKind::Shared).claim(&named("a")).unwrap();
}

#[test]
fn what_is_held_cannot_be_destroyed_made_again_or_renamed() {
    let (_folder, path) = labelled(&["a", "b"]);
    for kind in [ClaimKind::Shared, ClaimKind::Exclusive] {
        let held = open(&path, kind).claim(&named("a")).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(is_busy(&destroy(&path, "a")));
        let mut editor = namespace::edit_labels(&path, LabelSize::Detect).unwrap();
        let forced = Provision { force: true, ..provision("c") };
        let again = namespace::reconfigure_namespace(&mut editor, &named("a"), &forced, |_, _| {});
        assert!(is_busy(&again));
        assert!(matches!(editor.claim(&named("a")), Err(Error::Busy { .. })));
        drop(editor);
        let options = InitOptions { size: None, version: LabelVersion::V1_2, force: true };
        assert!(is_busy(&namespace::init_labels(&path, &options).map(drop)));
        assert!(std::fs::read(&path).unwrap() == before);
        // Its neighbours are nobody's business.
        make(&path, "d").unwrap();
        destroy(&path, "d").unwrap();
        drop(held);
    }
    destroy(&path, "a").unwrap();
}

/// Between the reading of the labels and the claim, anything may happen.
#[test]
fn a_namespace_that_was_destroyed_meanwhile_is_not_claimed() {
    let (_folder, path) = labelled(&["a", "b"]);
    let read = open(&path, ClaimKind::Exclusive);
    destroy(&path, "a").unwrap();
    make(&path, "other").unwrap();
    assert!(matches!(read.claim(&named("a")), Err(Error::Unknown { .. })));
    // What was found by device name is what goes by it now.
    let read = open(&path, ClaimKind::Exclusive);
    let old = read.select(&named("namespace0.0")).unwrap().clone();
    destroy(&path, "other").unwrap();
    let claim = read.claim(&named("namespace0.0")).unwrap();
    assert_eq!((old.name.as_str(), claim.namespace().name.as_str()), ("other", "b"));
    // And the claims in vain are given up.
    make(&path, "third").unwrap();
    destroy(&path, "third").unwrap();
}

#[test]
fn labels_are_changed_by_one_at_a_time() {
    let (_folder, path) = labelled(&[]);
    let mut editor = namespace::edit_labels(&path, LabelSize::Detect).unwrap();
    let (waiting, is_waiting) = mpsc::channel();
    let other = std::thread::spawn({
        let path = path.clone();
        move || {
            waiting.send(()).unwrap();
            // Returns when the first is done, and finds what it has made.
            let editor = namespace::edit_labels(&path, LabelSize::Detect).unwrap();
            editor.file().namespaces().len()
        }
    });
    is_waiting.recv().unwrap();
    for name in ["a", "b", "c"] {
        namespace::create_namespace(&mut editor, &provision(name), |_, _| {}).unwrap();
    }
    drop(editor);
    assert_eq!(other.join().unwrap(), 3);
}

#[test]
fn readers_need_no_lock() {
    let (_folder, path) = labelled(&["a"]);
    let editor = namespace::edit_labels(&path, LabelSize::Detect).unwrap();
    assert_eq!(open(&path, ClaimKind::Shared).namespaces().len(), 1);
    open(&path, ClaimKind::Exclusive).claim(&named("a")).unwrap();
    drop(editor);
}
