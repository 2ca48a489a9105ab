//! Alignment counts from the start of the file, as huge pages do, and so do extents and blocks.

use super::*;
use crate::dax::format::superblock::{SUPERBLOCK_OFFSET, Superblock};
use crate::dax::format::units::Bounds;

const UNIT: u64 = 512;

/// A region of `pages` pages beside the journal, in a namespace at page `start` of its file.
fn region_at(start: u64, pages: u64) -> Region<Arc<Simulated>> {
    let options = CreateOptions { file_offset: start * PAGE, ..options() };
    let medium = Arc::new(Simulated::new(PAGES_OFFSET + (pages + 3) * PAGE));
    create(&medium, &options).unwrap();
    open(&medium)
}

fn huge(name: &str, units: u64) -> DeviceOptions {
    DeviceOptions { align: Some(Align::Huge), ..device(name, units * UNIT) }
}

#[test]
fn devices_are_aligned_in_the_file_wherever_the_namespace_begins() {
    for start in [0, 1, 31, 511, 512, 700, (1 << 20) - 1, (1 << 20) + 5, (1 << 30) + 77] {
        let region = region_at(start, 4 * UNIT);
        region.create_device(&device("small", 3)).unwrap();
        region.create_device(&huge("huge", 1)).unwrap();
        region.create_device(&device("between", 2)).unwrap();
        region.resize_device("huge", 2 * UNIT * PAGE).unwrap();
        for extent in region.device("huge").unwrap().extents {
            let in_file = extent.start + start * PAGE;
            assert!(in_file.is_multiple_of(2 * MIB), "namespace at page {start}: {in_file:#x}");
        }
        let block = region.allocate(A, "", 5).unwrap() + start * PAGE;
        assert!(block.is_multiple_of(32 * PAGE), "namespace at page {start}: {block:#x}");
        assert_eq!(everything(&region), everything(&reopened(&region)));
        let report = check::check(region.medium());
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(report.free_pages * PAGE, region.info().free);
    }
}

#[test]
fn devices_of_1_gib_are_aligned_in_the_file() {
    let start = (1 << 18) - 4096 - 64;
    let options = CreateOptions { file_offset: start * PAGE, ..options() };
    let medium = Arc::new(Simulated::new(PAGES_OFFSET + (64 << 12) + (1 << 30)));
    create(&medium, &options).unwrap();
    let region = open(&medium);
    let giant = DeviceOptions { align: Some(Align::Giant), ..device("giant", 1 << 18) };
    region.create_device(&giant).unwrap();
    assert_eq!(region.device("giant").unwrap().extents[0].start, (4096 + 64) * PAGE);
}

#[test]
fn an_old_region_keeps_its_alignment() {
    // What earlier releases made in such a namespace: no base, no features.
    let region = region_at(0, 3 * UNIT);
    region.create_device(&huge("old", 1)).unwrap();
    assert!(region.device("old").unwrap().extents[0].start.is_multiple_of(2 * MIB));
    let superblock = Superblock::read(region.medium(), SUPERBLOCK_OFFSET).unwrap();
    assert_eq!((superblock.align_base, superblock.features.incompat), (0, 0));
    let before = region.device("old").unwrap();
    let region = reopened(&region);
    region.resize_device("old", 2 * UNIT * PAGE).unwrap();
    assert_eq!(region.device("old").unwrap().extents[0].start, before.extents[0].start);
    assert!(check::check(region.medium()).is_clean());
}

#[test]
fn a_region_that_grows_keeps_what_its_alignment_counts_from() {
    let region = region_at(77, UNIT);
    let larger = Arc::new(Simulated::of(region.medium().snapshot().grown(4 * UNIT * PAGE)));
    grow(&larger).unwrap();
    let region = open(&larger);
    region.create_device(&huge("huge", 4)).unwrap();
    let extents = region.device("huge").unwrap().extents;
    assert!(extents.iter().all(|extent| (extent.start + 77 * PAGE).is_multiple_of(2 * MIB)));
    assert!(check::check(&larger).is_clean());
}

#[test]
fn a_page_of_the_file_that_is_no_whole_page_is_no_base() {
    let options = CreateOptions { file_offset: 3 * PAGE + 512, ..options() };
    let medium = Arc::new(Simulated::new(PAGES_OFFSET + 4 * PAGE));
    create(&medium, &options).unwrap();
    assert_eq!(Superblock::read(&medium, SUPERBLOCK_OFFSET).unwrap().align_base, 0);
}

#[test]
pub(super) fn an_extent_begins_and_ends_at_multiples_of_its_alignment_inside_the_region() {
    let first = PAGES_OFFSET / PAGE;
    let (end, order) = (first + 4 * UNIT, Align::Huge.order());
    let fits = |first, pages, base| {
        crate::dax::format::layout::check_extent(
            Extent { first, pages },
            order,
            Bounds { end, base },
        )
        .is_ok()
    };
    for base in [0, UNIT, 3 * UNIT] {
        assert!(fits(first, UNIT, base) && fits(first + UNIT, 3 * UNIT, base));
        for off in [1, 2, UNIT / 2, UNIT - 1] {
            assert!(!fits(first + off, UNIT, base), "begins at {off}");
            assert!(!fits(first, UNIT + off, base), "ends at {off}");
            assert!(!fits(first + UNIT - off, UNIT + off, base), "begins {off} too early");
            assert!(!fits(first, off, base), "less than a unit: {off}");
        }
        assert!(!fits(first, 0, base) && !fits(first, 5 * UNIT, base));
        assert!(!fits(first - UNIT, UNIT, base) && !fits(end, UNIT, base));
        assert!(!fits(u64::MAX - UNIT + 1, UNIT, base));
    }
    assert!(fits(first + 3, UNIT, UNIT - 3) && !fits(first, UNIT, UNIT - 3));
}

#[test]
fn an_empty_device_takes_any_alignment_and_another_one_what_its_extents_have() {
    let region = region_at(9, 4 * UNIT);
    region.create_device(&device("d", 0)).unwrap();
    region.align_device("d", Align::Huge).unwrap();
    let region = reopened(&region);
    assert_eq!(region.device("d").unwrap().align, Align::Huge);
    let misaligned = Error::Misaligned { size: PAGE, align: 2 * MIB };
    assert_eq!(region.resize_device("d", PAGE), Err(misaligned));
    region.resize_device("d", 2 * MIB).unwrap();
    region.align_device("d", Align::Page).unwrap();
    region.align_device("d", Align::Huge).unwrap();
    region.align_device("d", Align::Page).unwrap();
    region.resize_device("d", 2 * MIB + PAGE).unwrap();
    let before = everything(&region);
    let extent = region.device("d").unwrap().extents[0].clone();
    let refused = Error::CannotAlign { name: "d".into(), align: 2 * MIB, extent };
    assert_eq!(region.align_device("d", Align::Huge), Err(refused));
    let _hold = region.hold("d").unwrap();
    assert_eq!(region.align_device("d", Align::Page), Err(Error::Busy { name: "d".into() }));
    let unknown = Error::UnknownDevice("e".into());
    assert_eq!(region.align_device("e", Align::Page), Err(unknown));
    assert_eq!(before, everything(&reopened(&region)));
}
