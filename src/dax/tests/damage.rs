//! Damaged metadata: clear errors, and neither panic nor hang.

use proptest::prelude::*;

use super::*;
use crate::dax::check::{Fix, check};
use crate::dax::format::layout::{
    self, METADATA_OFFSET, METADATA_PAGE_SIZE, OWNER_TABLE_OFFSET, PageBytes, checksum, slot_offset,
};
use crate::dax::format::version::Version;
use crate::dax::journal::ring::{Entry, Store};
use crate::pmem::Saved;

/// A region with something of everything, and its journal emptied.
fn sample() -> Arc<Simulated> {
    let medium = medium(64);
    let region = open(&medium);
    for order in [0, 1, 0] {
        region.allocate(A, "a", order).unwrap();
        region.allocate(B, "b", order).unwrap();
    }
    for name in ["1", "2", "3", "4", "5", "6", "7"] {
        region.create_device(&device(name, 1)).unwrap();
    }
    for name in ["1", "3", "5"] {
        region.destroy_device(name).unwrap();
    }
    region.create_device(&device("many", 5)).unwrap();
    medium
}

fn seal(medium: &Simulated, page: u64) {
    let mut bytes: PageBytes = [0; METADATA_PAGE_SIZE as usize];
    medium.read_bytes(page, &mut bytes).unwrap();
    medium.store_u64(page, checksum(&bytes)).unwrap();
}

#[test]
fn a_whole_region_has_no_findings() {
    let medium = sample();
    let report = check(&medium);
    assert_eq!(report.findings, []);
    let region = open(&medium);
    assert_eq!(report.free_pages * PAGE, region.info().free);
    assert_eq!((report.owners, report.devices), (3, 5));
}

#[test]
fn a_damaged_superblock_is_copied_from_the_other() {
    for offset in [0, 4096] {
        let medium = sample();
        let before = everything(&open(&medium));
        medium.store_u64(offset + 48, 5).unwrap();
        let repaired = repair(&medium, false).unwrap();
        assert_eq!(repaired.mended.len(), 1);
        assert!(repaired.left.is_clean() && check(&medium).is_clean());
        assert_eq!(everything(&open(&medium)), before);
    }
}

#[test]
fn nothing_is_dropped_unasked() {
    let medium = sample();
    open(&medium);
    let slot = slot_offset(METADATA_OFFSET + 3 * METADATA_PAGE_SIZE, 0);
    medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
    medium.store_u64(slot + 96, 5).unwrap();
    seal(&medium, METADATA_OFFSET + 3 * METADATA_PAGE_SIZE);
    let before = medium.contents();
    let kept = repair(&medium, false).unwrap();
    assert_eq!(kept.mended, []);
    assert!(kept.left.findings.iter().all(|finding| finding.fix.loses()));
    assert_eq!(medium.contents(), before);
    let dropped = repair(&medium, true).unwrap();
    assert_eq!(dropped.mended[0].fix, Fix::Drop { offset: slot, length: 128 });
    assert!(dropped.left.is_clean());
    assert_eq!(open(&medium).devices().len(), 4);
}

/// The damaged device has the lowest pages of those that overlap, so it is met first.
#[test]
fn a_device_whose_extent_grew_over_others_is_dropped_and_not_the_others() {
    let medium = medium(64);
    let region = open(&medium);
    for name in ["1", "2", "3", "4", "5"] {
        region.create_device(&device(name, 2)).unwrap();
    }
    let slot = medium.load_u64(OWNER_TABLE_OFFSET + 40).unwrap() + 64 + 128;
    let pages = slot + 104;
    assert_eq!(medium.load_u64(pages), Ok(2));
    medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
    medium.store_u64(pages, 8).unwrap();
    seal(&medium, layout::page_of(slot));
    assert!(repair(&medium, true).unwrap().left.is_clean());
    let names: Vec<String> = open(&medium).devices().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["1", "3", "4", "5"]);
}

/// A page can be sealed while a word of it is damaged. Its checksum then asks for the damaged value, also
/// after the known value is back.
#[test]
fn a_known_word_that_was_sealed_with_damage_is_brought_back_and_stays() {
    let whole = sample();
    let before = everything(&open(&whole));
    let whole = whole.contents();
    let headers = (OWNER_TABLE_OFFSET..).step_by(METADATA_PAGE_SIZE as usize).take(5);
    let headers = headers.flat_map(|page| [8, 16, 24, 32, 48, 56].map(|word| page + word));
    let head = (OWNER_TABLE_OFFSET + 64..OWNER_TABLE_OFFSET + 128).step_by(8);
    let records = [40, 64, 72, 1000, 8184].map(|word| METADATA_OFFSET + word);
    for at in headers.chain(head).chain(records) {
        for flips in [1 << 23, 1 << 63, 0xc_0000_0000, u64::MAX] {
            let medium = Arc::new(Simulated::with_contents(&whole));
            medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
            medium.store_u64(at, medium.load_u64(at).unwrap() ^ flips).unwrap();
            seal(&medium, layout::page_of(at));
            let repaired = repair(&medium, false).unwrap();
            assert_eq!(repaired.left.findings, [], "{at:#x} {flips:#x}");
            assert!(repaired.mended.len() <= 3, "{at:#x}: {:?}", repaired.mended);
            assert_eq!(everything(&open(&medium)), before, "{at:#x} {flips:#x}");
        }
    }
}

/// Pages that a repair freed may be another's by then, and no byte that it stored another one.
#[test]
fn whatever_is_changed_after_a_repair_is_seen_in_what_was_saved() {
    for changes in [0, 1, 40] {
        let medium = sample();
        medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
        let page = METADATA_OFFSET + 3 * METADATA_PAGE_SIZE;
        medium.store_u64(slot_offset(page, 0) + 96, 5).unwrap();
        seal(&medium, page);
        let saved = preview_repair(&medium, true).unwrap();
        assert_eq!(repair(&medium, true).unwrap().mended.len(), 1);
        let region = open(&medium);
        for _ in 0..changes {
            let offset = region.allocate(A, "a", 0).unwrap();
            region.free(A, offset, 0).unwrap();
        }
        let is_changed = |saved: &Saved| {
            let mut now = vec![0; saved.after.len()];
            medium.read_bytes(saved.offset, &mut now).unwrap();
            now != saved.after
        };
        assert_eq!(saved.iter().any(is_changed), changes > 0, "{changes}");
    }
}

/// A replay makes no store that an entry of ours cannot have; so the checker must not rely on one.
#[test]
fn an_entry_that_stores_outside_the_metadata_is_none_to_the_checker_either() {
    let medium = sample();
    open(&medium);
    let link = medium.load_u64(OWNER_TABLE_OFFSET + 40).unwrap();
    let sum = medium.load_u64(OWNER_TABLE_OFFSET).unwrap();
    medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
    medium.store_u64(OWNER_TABLE_OFFSET + 40, link + 8).unwrap();
    let mends = [(OWNER_TABLE_OFFSET + 40, link), (OWNER_TABLE_OFFSET, sum)];
    let write = |others: &[(u64, u64)]| {
        let stores = mends.iter().chain(others);
        let stores = stores.map(|&(offset, value)| Store { offset, value }).collect();
        let entry = Entry { seq: 7, last_seq: 7, stores }.encode(Version::Two, Uuid::from_u128(1));
        medium.write_bytes(PAGES_OFFSET, &entry).unwrap();
    };
    write(&[]);
    assert!(check(&medium).is_clean());
    for illegal in [PAGES_OFFSET, 0, OWNER_TABLE_OFFSET + 4, u64::MAX - 7] {
        write(&[(illegal, 1)]);
        assert!(!check(&medium).is_clean(), "{illegal:#x}");
        assert!(Region::open(Arc::clone(&medium), true).is_err());
    }
}

/// No region gets there; so it is a forgery, behind which no entry could have a higher number.
#[test]
fn a_journal_whose_numbers_are_used_up_is_read_and_no_more() {
    let medium = sample();
    let before = everything(&open(&medium));
    let write = |seq: u64| {
        let entry = Entry { seq, last_seq: seq, stores: Vec::new() }
            .encode(Version::Two, Uuid::from_u128(1));
        medium.write_bytes(PAGES_OFFSET, &entry).unwrap();
    };
    for seq in [u64::MAX / 2 + 1, u64::MAX - 1] {
        write(seq);
        let offset = PAGES_OFFSET;
        let fault = Fault::Sequence(seq);
        assert_eq!(repair(&medium, true).unwrap().left.findings[0].fault, fault);
        let opened = Region::open(Arc::clone(&medium), false).map(drop);
        assert_eq!(opened, Err(Error::Damaged { offset, fault }));
        assert_eq!(everything(&Region::open(Arc::clone(&medium), true).unwrap()), before);
    }
    write(u64::MAX / 2);
    assert_eq!(check(&medium).findings, []);
    open(&medium).create_device(&device("new", 1)).unwrap();
}

/// Whatever repair makes of bit rot in the journal, no stale entry is replayed later.
#[test]
fn a_journal_with_bit_rot_is_in_order_after_a_repair() {
    let whole = sample().contents();
    for line in (PAGES_OFFSET..PAGES_OFFSET + 2 * PAGE).step_by(64) {
        let medium = Arc::new(Simulated::with_contents(&whole));
        if medium.load_u64(line) == Ok(0) {
            continue;
        }
        medium.store_u64(line, 0).unwrap();
        assert!(repair(&medium, true).unwrap().left.is_clean());
        for name in ["x", "y", "z"] {
            open(&medium).create_device(&device(name, 2)).unwrap();
            let before = everything(&open(&medium));
            assert_eq!(check(&medium).findings, [], "line {line:#x}");
            assert_eq!(everything(&open(&medium)), before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Words of the metadata are anything, their checksums right or not: a caller that opens or checks it
    /// gets an answer; what is clean opens; a repair makes a region of it, or says that it cannot.
    #[test]
    fn damaged_metadata_are_a_clear_error(
        damage in prop::collection::vec(
            (0u64..6, prop_oneof![0u64..24, 0u64..1024], prop_oneof![
                any::<u64>(), 0u64..5000, (0u64..8).prop_map(|page| page * METADATA_PAGE_SIZE),
                (4090u64..4170, 0u64..22).prop_map(|(first, order)| first | order << 52),
            ]),
            1..5,
        ),
        seals in any::<bool>(),
        empties_journal in any::<bool>(),
    ) {
        let medium = sample();
        if empties_journal {
            medium.zero(PAGES_OFFSET, 2 * PAGE).unwrap();
        }
        for (page, word, value) in damage {
            let page = OWNER_TABLE_OFFSET + page * METADATA_PAGE_SIZE;
            let word = if seals { word.max(1) } else { word };
            medium.store_u64(page + word * 8, value).unwrap();
            if seals {
                seal(&medium, page);
            }
        }
        let clean = check(&medium).is_clean();
        let opened = Region::open(Arc::clone(&medium), true);
        if let Err(error) = &opened {
            prop_assert!(matches!(error, Error::Damaged { .. }), "{}", error);
        }
        // The checker knows more: owner 0 has the journal and nothing else.
        prop_assert!(opened.is_ok() || !clean);
        let before = medium.snapshot();
        let saved = preview_repair(&medium, true).unwrap();
        prop_assert!(medium.snapshot() == before);
        let repaired = repair(&medium, true).unwrap();
        prop_assert_eq!(repaired.left.is_clean(), check(&medium).is_clean());
        let undone = Simulated::of(medium.snapshot());
        for Saved { offset, before, after } in saved {
            let mut now = vec![0; after.len()];
            medium.read_bytes(offset, &mut now).unwrap();
            prop_assert_eq!(now, after);
            undone.write_bytes(offset, &before.unwrap()).unwrap();
        }
        prop_assert!(undone.snapshot() == before, "all that was changed was said before");
        if repaired.left.is_clean() {
            let region = open(&medium);
            for device in region.devices() {
                region.destroy_device(&device.name).unwrap();
            }
            prop_assert!(check(&medium).is_clean());
        }
    }

    #[test]
    fn any_bytes_are_survived(
        words in prop::collection::vec((0u64..(2048 + 66 * 512), any::<u64>()), 1..200),
    ) {
        let medium = sample();
        for (word, value) in words {
            // Superblocks, tables and first pages; then the journal.
            let at = if word < 10_240 { word * 8 } else { PAGES_OFFSET + (word - 10_240) * 8 };
            if at + 8 <= medium.size() {
                medium.store_u64(at, value).unwrap();
            }
        }
        let clean = check(&medium).is_clean();
        let opened = Region::open(Arc::clone(&medium), false);
        prop_assert!(opened.is_ok() || !clean);
        drop(repair(&medium, true));
    }
}
