//! Claims, edits and growth while another process has the file open.

use std::ops::Range;
use std::path::PathBuf;

use uuid::Uuid;

use super::label::LabelName;
use super::lock::{is_locked, try_lock};
use super::*;

const M: u64 = 1 << 20;
const LABELS: u64 = 128 << 10;
const DATA: u64 = 96 * M;

/// A file with a label storage area, which is removed at the end.
struct Labelled {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Labelled {
    fn new() -> Labelled {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nvdimm");
        create_file(&path, DATA, Some(LABELS), None).unwrap();
        Labelled { path, _folder: folder }
    }

    fn open(&self, kind: ClaimKind) -> NvdimmFile {
        NvdimmFile::open(&self.path, kind, LabelSize::Detect).unwrap()
    }

    fn edit(&self) -> LabelEditor {
        self.open(ClaimKind::Exclusive).edit_labels().unwrap()
    }

    /// Makes a namespace that is not claimed.
    fn make(&self, name: &str, range: Range<u64>) {
        let mut editor = self.edit();
        let reservation = editor.reserve(&new(name, Place::At(range))).unwrap();
        editor.commit(&reservation).unwrap();
    }

    fn destroy(&self, name: &str) {
        let mut editor = self.edit();
        let claim = editor.claim(&named(name)).unwrap();
        editor.delete(&claim).unwrap();
    }
}

fn new(name: &str, place: Place) -> NewNamespace {
    NewNamespace {
        place,
        name: LabelName::new(name).unwrap(),
        uuid: Uuid::from_u128(name.bytes().fold(0, |sum, byte| 256 * sum + u128::from(byte))),
        abstraction: Abstraction::Raw,
        sector_size: 0,
        qemu_slot: None,
    }
}

fn first_fit(size: u64) -> Place {
    Place::FirstFit { size: Some(size), alignment: LINUX_ALIGNMENT }
}

fn named(name: &str) -> Selection {
    Selection::Named(name.into())
}

/// Returns whether a process has claimed a byte of `range`, seen from another open file.
fn is_claimed(file: &Labelled, range: &Range<u64>) -> bool {
    is_locked(file.open(ClaimKind::Exclusive).file(), range).unwrap()
}

/// An editor that waited for the lock, or whose file was opened a while ago, goes by the labels as they are
/// now: else it would give the bytes of a new namespace away a second time.
#[test]
fn labels_are_read_again_under_the_lock() {
    let file = Labelled::new();
    let opened_before = file.open(ClaimKind::Exclusive);
    file.make("first", 0..16 * M);
    let mut editor = opened_before.edit_labels().unwrap();
    let names: Vec<&str> =
        editor.file().namespaces().iter().map(|known| known.name.as_str()).collect();
    assert_eq!(names, ["first"]);
    assert!(matches!(editor.reserve(&new("first", first_fit(16 * M))), Err(Error::Exists { .. })));
    let reservation = editor.reserve(&new("second", first_fit(16 * M))).unwrap();
    assert_eq!(reservation.claim.namespace().range, 16 * M..32 * M);
    editor.commit(&reservation).unwrap();
    let (data, ranges) = (file.open(ClaimKind::Shared), [0..16 * M, 16 * M..32 * M]);
    assert_eq!(data.namespaces().iter().map(|one| one.range.clone()).collect::<Vec<_>>(), ranges);
}

#[test]
fn a_namespace_that_went_before_the_lock_is_not_edited() {
    let file = Labelled::new();
    file.make("first", 0..16 * M);
    let opened_before = file.open(ClaimKind::Exclusive);
    file.destroy("first");
    let editor = opened_before.edit_labels().unwrap();
    assert!(editor.growth(&named("first"), None, LINUX_ALIGNMENT).is_err());
    assert!(editor.claim(&named("first")).is_err());
    assert_eq!(editor.file().free_extents(), std::slice::from_ref(&(0..DATA)));
}

#[test]
fn labels_that_are_of_another_size_under_the_lock_are_not_edited() {
    let file = Labelled::new();
    let opened_before = file.open(ClaimKind::Exclusive);
    let version = label::LabelVersion::V1_2;
    init_labels(&file.path, &InitOptions { size: Some(2 * LABELS), version, force: true }).unwrap();
    let edited = opened_before.edit_labels().map(drop);
    assert!(matches!(edited, Err(Error::Changed { .. })), "{edited:?}");
}

/// Between the first look at the labels and the lock on its bytes, a namespace may become another one.
#[test]
fn a_claim_is_of_the_namespace_that_is_there_once_it_is_locked() {
    let file = Labelled::new();
    file.make("first", 0..16 * M);
    let opened_before = file.open(ClaimKind::Exclusive);
    file.destroy("first");
    file.make("other", 0..32 * M);
    let claim = opened_before.claim(&Selection::Only).unwrap();
    assert_eq!(
        (claim.namespace().name.as_str(), &claim.namespace().range),
        ("other", &(0..32 * M))
    );
    assert!(is_claimed(&file, &(16 * M..32 * M)));
    let opened_before = file.open(ClaimKind::Exclusive);
    drop(claim);
    file.destroy("other");
    assert!(opened_before.claim(&named("other")).is_err());
    assert!(!is_claimed(&file, &(0..DATA)), "what was locked for it is given up");
}

#[test]
fn a_renewed_claim_is_also_on_the_bytes_that_were_added() {
    let file = Labelled::new();
    file.make("first", 0..16 * M);
    for kind in [ClaimKind::Exclusive, ClaimKind::Shared] {
        let claim = file.open(kind).claim(&named("first")).unwrap();
        let before = claim.namespace().range.clone();
        let mut editor = file.edit();
        let growth = editor.growth(&named("first"), Some(before.end + 16 * M), LINUX_ALIGNMENT);
        let growth = growth.unwrap();
        editor.grow(&named("first"), &growth).unwrap();
        drop(editor);
        assert!(!is_claimed(&file, &growth), "nobody has claimed it yet");
        let renewed = claim.renew(LabelSize::Detect).unwrap();
        assert_eq!(renewed.namespace().range, before.start..growth.end);
        assert!(is_claimed(&file, &growth));
        for part in [growth.start..growth.start + 1, growth.end - 1..growth.end] {
            assert!(is_claimed(&file, &part), "{part:?}");
            let other = file.open(ClaimKind::Exclusive);
            let may_read = try_lock(other.file(), &part, ClaimKind::Shared).unwrap();
            assert_eq!(may_read, kind == ClaimKind::Shared);
        }
        assert!(!is_claimed(&file, &(growth.end..DATA + LABELS)), "nothing else is");
        drop(claim);
        assert!(is_claimed(&file, &(before.start..growth.end)), "it does not need the first");
        drop(renewed);
        assert!(!is_claimed(&file, &(0..DATA)));
    }
}

#[test]
fn a_claim_that_is_renewed_without_growth_stays_as_it_is() {
    let file = Labelled::new();
    file.make("first", 16 * M..32 * M);
    let claim = file.open(ClaimKind::Exclusive).claim(&named("first")).unwrap();
    let renewed = claim.renew(LabelSize::Detect).unwrap();
    assert_eq!(renewed.namespace(), claim.namespace());
    assert!(is_claimed(&file, &(16 * M..32 * M)));
    assert!(!is_claimed(&file, &(0..16 * M)) && !is_claimed(&file, &(32 * M..DATA + LABELS)));
}

#[test]
fn bytes_that_somebody_holds_are_not_added_to_a_claim() {
    let file = Labelled::new();
    file.make("first", 0..16 * M);
    let claim = file.open(ClaimKind::Exclusive).claim(&named("first")).unwrap();
    let mut editor = file.edit();
    editor.grow(&named("first"), &(16 * M..48 * M)).unwrap();
    drop(editor);
    let other = file.open(ClaimKind::Exclusive);
    assert!(try_lock(other.file(), &(47 * M..48 * M), ClaimKind::Shared).unwrap());
    let renewed = claim.renew(LabelSize::Detect).map(drop);
    assert!(matches!(renewed, Err(Error::Busy { .. })), "{renewed:?}");
}

#[test]
fn a_claim_on_a_file_without_labels_grows_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = Labelled { path: folder.path().join("plain"), _folder: folder };
    create_file(&file.path, 32 * M, None, None).unwrap();
    let claim = file.open(ClaimKind::Exclusive).claim(&Selection::Only).unwrap();
    grow_file(&file.path, 48 * M).unwrap();
    assert!(!is_claimed(&file, &(32 * M..48 * M)));
    let renewed = claim.renew(LabelSize::None).unwrap();
    assert_eq!(renewed.namespace().range, 0..48 * M);
    assert!(is_claimed(&file, &(32 * M..48 * M)));
}

/// What a namespace of 16 MiB at 16 MiB can grow to, with another one after it at 80 MiB.
#[test]
fn growth_is_aligned_and_free() {
    let file = Labelled::new();
    file.make("first", 16 * M..32 * M);
    file.make("next", 80 * M..96 * M);
    let editor = file.edit();
    let growth = |size| editor.growth(&named("first"), size, LINUX_ALIGNMENT);
    assert_eq!(growth(None).unwrap(), 32 * M..80 * M);
    assert_eq!(growth(Some(64 * M)).unwrap(), 32 * M..80 * M);
    assert_eq!(growth(Some(32 * M)).unwrap(), 32 * M..48 * M);
    assert_eq!(growth(Some(16 * M)).unwrap(), 32 * M..32 * M, "as it is");
    for misaligned in [17 * M, 32 * M - 4096, 32 * M + 1, 40 * M, 63 * M] {
        let refused = growth(Some(misaligned));
        let expected = matches!(refused, Err(Error::Misaligned { size, .. }) if size == misaligned);
        assert!(expected, "{misaligned}: {refused:?}");
    }
    for impossible in [0, 15 * M, 64 * M + 4096, 80 * M, u64::MAX] {
        let refused = growth(Some(impossible));
        assert!(matches!(refused, Err(Error::CannotGrow { .. })), "{impossible}: {refused:?}");
    }
    assert_eq!(editor.growth(&named("next"), None, LINUX_ALIGNMENT).unwrap(), 96 * M..96 * M);
}

/// A namespace whose size is not aligned was made by other software: it stays as it is, or becomes aligned.
#[test]
fn a_misaligned_namespace_grows_to_an_aligned_size() {
    let file = Labelled::new();
    file.make("odd", 16 * M..36 * M);
    file.make("next", 76 * M..92 * M);
    let editor = file.edit();
    let growth = |size| editor.growth(&named("odd"), size, LINUX_ALIGNMENT);
    assert_eq!(growth(None).unwrap(), 36 * M..64 * M, "48 MiB in all");
    assert_eq!(growth(Some(20 * M)).unwrap(), 36 * M..36 * M);
    assert_eq!(growth(Some(32 * M)).unwrap(), 36 * M..48 * M);
    for misaligned in [21 * M, 36 * M, 47 * M] {
        assert!(matches!(growth(Some(misaligned)), Err(Error::Misaligned { .. })), "{misaligned}");
    }
    assert!(matches!(growth(Some(60 * M)), Err(Error::CannotGrow { most, .. }) if most == 48 * M));
    // Between 20 and 32 MiB there is nothing aligned.
    let file = Labelled::new();
    file.make("odd", 0..20 * M);
    file.make("next", 30 * M..46 * M);
    assert_eq!(file.edit().growth(&named("odd"), None, LINUX_ALIGNMENT).unwrap(), 20 * M..20 * M);
}

#[test]
fn only_bytes_right_behind_a_namespace_are_given_to_it() {
    let file = Labelled::new();
    file.make("first", 0..16 * M);
    let mut editor = file.edit();
    for elsewhere in [32 * M..48 * M, 0..16 * M, 8 * M..32 * M] {
        let grown = editor.grow(&named("first"), &elsewhere);
        assert!(matches!(grown, Err(Error::Changed { .. })), "{elsewhere:?}: {grown:?}");
    }
    assert_eq!(editor.grow(&named("first"), &(16 * M..16 * M)).unwrap().range, 0..16 * M);
    assert_eq!(editor.grow(&named("first"), &(16 * M..64 * M)).unwrap().range, 0..64 * M);
    assert_eq!(file.open(ClaimKind::Shared).namespaces()[0].range, 0..64 * M);
}
