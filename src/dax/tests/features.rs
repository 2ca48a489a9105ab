//! Feature bits in the superblock, which a later release may set.

use super::*;
use crate::dax::format::features::Features;
use crate::dax::format::superblock::{BACKUP_OFFSET, SUPERBLOCK_OFFSET, Superblock};

/// A region with a device and a damaged backup, whose superblock has these features.
fn with(features: Features) -> Arc<Simulated> {
    let medium = medium(16);
    open(&medium).create_device(&device("d", 2)).unwrap();
    let superblock = Superblock::read(&medium, SUPERBLOCK_OFFSET).unwrap();
    Superblock { features, ..superblock }.write(&medium, SUPERBLOCK_OFFSET).unwrap();
    medium.store_u64(BACKUP_OFFSET, 1).unwrap();
    medium
}

#[test]
fn unknown_compatible_features_are_kept_by_whatever_writes_the_superblock() {
    let features = Features { compat: 1 << 63 | 5, ..Features::default() };
    let medium = with(features);
    repair(&medium, false).unwrap();
    let of = |medium: &Arc<Simulated>, offset| Superblock::read(medium, offset).unwrap().features;
    assert_eq!(of(&medium, BACKUP_OFFSET), features);
    let larger = Arc::new(Simulated::of(medium.snapshot().grown(8 * PAGE)));
    grow(&larger).unwrap();
    open(&larger).create_device(&device("e", 20)).unwrap();
    for offset in [SUPERBLOCK_OFFSET, BACKUP_OFFSET] {
        assert_eq!(of(&larger, offset), features);
    }
}

#[test]
fn a_region_with_unknown_incompatible_features_is_not_opened_at_all() {
    for bit in 1..64 {
        let medium = with(Features { incompat: 1 << bit, ..Features::default() });
        let before = medium.snapshot();
        let refused = |error: Error| match error {
            Error::Superblocks { primary, .. } => assert_eq!(primary, Fault::Features(1 << bit)),
            other => panic!("{other}"),
        };
        refused(Region::open(Arc::clone(&medium), false).map(drop).unwrap_err());
        refused(Region::open(Arc::clone(&medium), true).map(drop).unwrap_err());
        refused(Region::look_at(Arc::clone(&medium)).map(drop).unwrap_err());
        refused(grow(&medium).unwrap_err());
        assert!(!check::check(&medium).is_clean());
        assert!(repair(&medium, true).is_err());
        assert!(medium.snapshot() == before, "nothing has changed");
    }
}

#[test]
pub(super) fn a_region_with_unknown_features_that_forbid_changes_is_open_for_reading() {
    for bit in 0..64 {
        let medium = with(Features { ro_compat: 1 << bit, ..Features::default() });
        let before = medium.snapshot();
        let refused = Err(Error::ReadOnlyFeatures(1 << bit));
        assert_eq!(Region::open(Arc::clone(&medium), false).map(drop), refused);
        assert_eq!(grow(&medium).map(drop), refused);
        assert_eq!(repair(&medium, true).map(drop), refused);
        assert!(medium.snapshot() == before, "nothing has changed");
        let region = Region::open(Arc::clone(&medium), true).unwrap();
        assert_eq!(region.device("d").unwrap().size, 2 * PAGE);
        assert_eq!(Region::look_at(medium).unwrap().devices().len(), 1);
    }
}

#[test]
fn an_alignment_base_without_its_feature_or_out_of_range_is_no_superblock() {
    let medium = medium(4);
    let whole = Superblock::read(&medium, SUPERBLOCK_OFFSET).unwrap();
    let aligned = Features { incompat: Features::ALIGN_BASE, ..Features::default() };
    // The journal has two pages, so the base is even.
    let cases = [(whole.features, 2, false), (aligned, 2, true), (aligned, 1 << 20, false)];
    for (features, align_base, is_right) in cases {
        let superblock = Superblock { features, align_base, ..whole };
        let decoded = Superblock::decode(&superblock.encode(), medium.size());
        assert_eq!(decoded.is_ok(), is_right, "{decoded:?}");
    }
    let superblock = Superblock { features: aligned, align_base: 3, ..whole };
    let decoded = Superblock::decode(&superblock.encode(), medium.size());
    assert!(matches!(decoded, Err(Fault::Superblock { field: "journal_first", .. })));
}
