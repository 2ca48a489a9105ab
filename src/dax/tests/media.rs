use std::sync::atomic::{AtomicUsize, Ordering};

use super::hooked::Hooked;
use super::*;
use crate::dax::format::layout::{
    BODY_AT, METADATA_OFFSET, METADATA_PAGE_SIZE, OWNER_TABLE_OFFSET, PageBytes, checksum,
    head_offset, slot_offset,
};
use crate::pmem::simulated::{Event, Recorder};
use crate::pmem::{Access, Durability};

/// Record page of owner 0, of owner A, and the device page; extent page of `d`.
const RECORDS_OF_0: u64 = METADATA_OFFSET;
const RECORDS_OF_A: u64 = METADATA_OFFSET + METADATA_PAGE_SIZE;
const DEVICES: u64 = METADATA_OFFSET + 2 * METADATA_PAGE_SIZE;
const EXTENTS_OF_D: u64 = METADATA_OFFSET + 3 * METADATA_PAGE_SIZE;
const ALL: [u64; 5] = [OWNER_TABLE_OFFSET, RECORDS_OF_0, RECORDS_OF_A, DEVICES, EXTENTS_OF_D];

/// A region with one of everything: `d` has three extents.
fn one_of_everything() -> Arc<Simulated> {
    let medium = medium(64);
    let region = open(&medium);
    region.allocate(A, "an owner", 0).unwrap();
    for name in ["a", "b", "c", "e", "f"] {
        region.create_device(&device(name, 1)).unwrap();
    }
    for name in ["a", "c"] {
        region.destroy_device(name).unwrap();
    }
    region.create_device(&device("d", 4)).unwrap();
    assert_eq!(extents(&region, "d").len(), 3);
    medium
}

/// Stores to a metadata page, and makes its checksum right.
fn forge(medium: &Simulated, offset: u64, value: u64) {
    medium.store_u64(offset, value).unwrap();
    let page = offset - offset % METADATA_PAGE_SIZE;
    let mut bytes: PageBytes = [0; METADATA_PAGE_SIZE as usize];
    medium.read_bytes(page, &mut bytes).unwrap();
    medium.store_u64(page, checksum(&bytes)).unwrap();
}

/// What opening says once the journal, which would mend it, is empty and `offset` has `value`.
fn forged(offset: u64, value: u64) -> Fault {
    let medium = one_of_everything();
    empty_journal(&medium);
    forge(&medium, offset, value);
    match Region::open(medium, false) {
        Err(Error::Damaged { fault, .. }) => fault,
        other => panic!("{offset:#x} = {value:#x}: {other:?}"),
    }
}

fn empty_journal(medium: &Simulated) {
    medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
}

#[test]
fn the_checksum_of_every_page_is_verified_before_any_field_is_used() {
    for page in ALL {
        for offset in (8..METADATA_PAGE_SIZE).step_by(712) {
            let medium = one_of_everything();
            empty_journal(&medium);
            let word = medium.load_u64(page + offset).unwrap();
            medium.store_u64(page + offset, word ^ 1 << 33).unwrap();
            let opened = Region::open(medium, false);
            let Err(Error::Damaged { offset: at, fault }) = opened else { panic!("{opened:?}") };
            assert_eq!(at, page);
            assert!(matches!(fault, Fault::Checksum { .. } | Fault::Magic(_)), "{fault}");
        }
    }
}

#[test]
fn the_checksum_of_the_superblock_is_verified_and_its_backup_serves() {
    let medium = one_of_everything();
    let before = everything(&open(&medium));
    for offset in (4096..8192).step_by(104) {
        let word = medium.load_u64(offset).unwrap();
        medium.store_u64(offset, word ^ 1).unwrap();
        assert_eq!(everything(&open(&medium)), before, "the backup");
        medium.store_u64(offset - 4096, word ^ 1).unwrap();
        let opened = Region::open(Arc::clone(&medium), false);
        assert!(matches!(opened, Err(Error::Superblocks { .. })), "{opened:?}");
        medium.store_u64(offset, word).unwrap();
        assert_eq!(everything(&open(&medium)), before, "the first one");
        medium.store_u64(offset - 4096, word).unwrap();
    }
}

#[test]
fn counts_orders_links_and_offsets_are_bounded() {
    let record = RECORDS_OF_A + BODY_AT;
    let slot = slot_offset(DEVICES, 0);
    let end = PAGES_OFFSET / PAGE + 66;
    let order_21 = 21 << 52 | (PAGES_OFFSET / PAGE);
    assert_eq!(forged(record, order_21), Fault::Order(21));
    assert_eq!(forged(record, 5 | 2 << 58), Fault::Namespace { found: 2, expected: 0 });
    for first in [1, PAGES_OFFSET / PAGE - 1, end, (1 << 52) - 1] {
        assert!(matches!(forged(record, first), Fault::Extent { .. }));
    }
    assert!(matches!(forged(record, (end - 1) | (1 << 52)), Fault::Extent { .. }));
    for link in [1, 4096, OWNER_TABLE_OFFSET, METADATA_OFFSET + 4096, PAGES_OFFSET, u64::MAX] {
        assert_eq!(forged(OWNER_TABLE_OFFSET + 40, link), Fault::Link(link));
        assert_eq!(forged(head_offset(1) + 48, link), Fault::Link(link));
        assert_eq!(forged(RECORDS_OF_A + 40, link), Fault::Link(link));
        assert_eq!(forged(DEVICES + 40, link), Fault::Link(link));
        assert_eq!(forged(EXTENTS_OF_D + 40, link), Fault::Link(link));
        assert_eq!(forged(slot + 88, link), Fault::Link(link));
    }
    assert_eq!(forged(slot + 80, u64::from(u32::MAX)), Fault::ExtentCount(u32::MAX));
    assert_eq!(forged(slot + 80, 3 | 7 << 32), Fault::Align(7));
    assert_eq!(forged(slot + 80, 3 | 1 << 40), Fault::ExtentCount(3));
    assert!(matches!(forged(slot + 104, u64::MAX), Fault::Extent { pages: u64::MAX, .. }));
    assert!(matches!(forged(slot + 96, u64::MAX), Fault::Extent { first: u64::MAX, .. }));
    assert!(matches!(forged(slot + 104, 0), Fault::Extent { pages: 0, .. }));
    assert_eq!(forged(slot + 16, u64::MAX), Fault::Text);
    assert_eq!(forged(head_offset(1) + 16, u64::MAX), Fault::Text);
}

#[test]
fn nothing_on_media_loops() {
    // Each page leads to itself, or to the page before.
    for (link, to) in [(RECORDS_OF_A, RECORDS_OF_A), (DEVICES, DEVICES), (DEVICES, RECORDS_OF_A)] {
        assert_eq!(forged(link + 40, to), Fault::Link(to));
    }
}

#[test]
fn overlap_of_records_is_detected_at_open() {
    let journal = PAGES_OFFSET / PAGE;
    for page in [journal, journal + 1] {
        assert_eq!(forged(RECORDS_OF_A + BODY_AT, page), Fault::Overlap { page });
        assert_eq!(forged(slot_offset(DEVICES, 0) + 96, page), Fault::Overlap { page });
    }
    assert_eq!(
        forged(RECORDS_OF_A + BODY_AT + 8, journal + 2),
        Fault::Overlap { page: journal + 2 },
        "a record twice"
    );
}

#[test]
fn the_journal_has_to_be_owner_0s() {
    assert_eq!(forged(RECORDS_OF_0 + BODY_AT, 0), Fault::Journal);
}

#[test]
fn links_are_offsets_and_never_addresses() {
    let region = open(&one_of_everything());
    let copy = Arc::new(Simulated::with_contents(&region.medium().contents()));
    assert_eq!(everything(&region), everything(&open(&copy)));
    let link = copy.load_u64(OWNER_TABLE_OFFSET + 40).unwrap();
    assert_eq!(link, DEVICES);
}

#[test]
fn fields_are_little_endian_and_of_fixed_width() {
    let medium = one_of_everything();
    let bytes = medium.contents();
    let at = |offset: u64, length: usize| &bytes[offset as usize..][..length];
    assert_eq!(at(4096 + 8, 16), b"NVM_PAGES_SUPER\0");
    assert_eq!(at(4096 + 40, 8), [2, 0, 0, 0, 0, 16, 0, 0], "version 2, pages of 4096");
    assert_eq!(at(4096 + 56, 8), [0, 0, 0, 1, 0, 0, 0, 0], "pages from 16 MiB on");
    assert_eq!(at(4096 + 64, 8), [66, 0, 0, 0, 0, 0, 0, 0], "66 pages");
    assert_eq!(at(RECORDS_OF_0 + 64, 8), [0, 16, 0, 0, 0, 0, 16, 0], "page 4096, order 1");
    assert_eq!(at(head_offset(1), 16), A.as_bytes());
    assert_eq!(at(head_offset(1) + 16, 9), b"an owner\0");
    assert_eq!(at(slot_offset(DEVICES, 0) + 16, 2), b"d\0");
    assert_eq!(at(slot_offset(DEVICES, 0) + 80, 8), [3, 0, 0, 0, 0, 0, 0, 0], "three extents");
}

#[test]
fn opening_writes_nothing_but_a_journal_replay() {
    let medium = one_of_everything();
    let recorder = Arc::new(Recorder::new(Simulated::of(medium.snapshot())));
    drop(Region::open(Arc::clone(&recorder), false).unwrap());
    let writes = |event: &Event| !matches!(event, Event::Flush { .. } | Event::Fence { .. });
    assert!(!recorder.take_trace().iter().any(writes));
    // The last change is not applied: the record of the device's slot is missing.
    let before = everything(&open(&medium));
    let size = slot_offset(DEVICES, 0) + 80;
    medium.store_u64(size, 0).unwrap();
    let recorder = Arc::new(Recorder::new(Simulated::of(medium.snapshot())));
    let region = Region::open(Arc::clone(&recorder), true).unwrap();
    assert_eq!(everything(&region), before, "replayed in DRAM");
    assert_eq!(region.allocate(A, "", 0), Err(Error::ReadOnly));
    assert_eq!(recorder.take_trace().len(), 0);
    let region = Region::open(Arc::clone(&recorder), false).unwrap();
    assert_eq!(everything(&region), before);
    let mut trace = recorder.take_trace();
    trace.retain(writes);
    assert!(matches!(trace[..], [Event::Store { offset, .. }] if offset == size));
}

#[test]
fn a_region_replaces_another_one_and_needs_space() {
    let medium = one_of_everything();
    medium.store_u64(4096, 1).unwrap();
    create(&medium, &options()).unwrap();
    assert_eq!(open(&medium).devices(), []);
    let small = Simulated::new(PAGES_OFFSET + PAGE);
    let needed = PAGES_OFFSET + 2 * PAGE;
    let too_small = Error::TooSmall { size: PAGES_OFFSET + PAGE, needed };
    assert_eq!(create(&small, &options()), Err(too_small));
    let empty = Region::open(Arc::new(small), false);
    assert!(matches!(empty, Err(Error::NotFound)));
}

/// The n-th store of a change, a streamed one or another, fails once; so does the n-th fence.
#[test]
fn a_failure_before_the_journal_entry_may_pass_and_one_after_it_ends_all_changes() {
    let before = one_of_everything().snapshot();
    for access in [Access::Write, Access::Sync] {
        let (mut passed, mut lasted) = (0, 0);
        for failing in 0.. {
            let count = Arc::new(AtomicUsize::new(usize::MAX));
            let counted = Arc::clone(&count);
            let medium = Hooked::new(&Arc::new(Simulated::of(before.clone())), move |kind, _| {
                kind != access || counted.fetch_sub(1, Ordering::Relaxed) != 0
            });
            let region = Region::open(Arc::clone(&medium), false).unwrap();
            let found = everything(&region);
            count.store(failing, Ordering::Relaxed);
            // A new owner: its record page is written, then the journal.
            let Err(error) = region.allocate(B, "", 1) else { break };
            assert!(matches!(error, Error::Media(_)), "{error}");
            assert_eq!(everything(&region), found, "{access:?} {failing}");
            match region.allocate(B, "", 1) {
                Ok(_) => passed += 1,
                Err(Error::Failed) => lasted += 1,
                Err(error) => panic!("{access:?} {failing}: {error}"),
            }
            let opened = open(&medium.medium);
            let is_there = opened.pages_of(B).is_ok();
            assert!(is_there || lasted > 0, "{access:?} {failing}");
            assert_eq!(check::check(&medium.medium).findings, []);
        }
        // The page and the place of the entry; after them the entry and its stores.
        assert_eq!(passed, 2, "{access:?}");
        assert!(lasted > 1, "{access:?}");
    }
}

#[test]
fn a_region_is_not_changed_on_a_medium_whose_fences_make_nothing_durable() {
    let medium = one_of_everything();
    let before = medium.snapshot();
    let cached = Hooked::of_durability(&medium, Durability::PageCache);
    let refused = Err(Error::NotDurable(Durability::PageCache));
    assert_eq!(Region::open(Arc::clone(&cached), false).map(drop), refused);
    assert_eq!(create(&cached, &options()), refused);
    assert_eq!(grow(&cached).map(drop), refused);
    assert_eq!(repair(&cached, true).map(drop), refused);
    assert!(medium.snapshot() == before);
    Region::open(Arc::clone(&cached), true).unwrap();
    Region::look_at(cached).unwrap();
    for durability in [Durability::Strict, Durability::Dax] {
        let medium = Hooked::of_durability(&medium, durability);
        Region::open(medium, false).unwrap().resize_device("d", PAGE).unwrap();
    }
}
