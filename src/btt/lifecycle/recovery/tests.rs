//! Flogs written by hand, one scenario each.

use super::*;
use crate::btt::format::lba_size::LbaSize;
use crate::btt::{CreateOptions, Version, create};
use crate::pmem::simulated::Simulated;
use uuid::Uuid;

const SIZE: u64 = 17 << 20;

/// A medium with a new BTT that starts at byte 0.
fn medium() -> (Simulated, Geometry) {
    let medium = Simulated::new(SIZE);
    let options = CreateOptions {
        lba_size: LbaSize::new(4096).unwrap(),
        version: Version::V2_0,
        uuid: Uuid::max(),
        parent_uuid: Uuid::nil(),
        arena_size: SIZE,
    };
    create(&medium, &options, |_, _| {}).unwrap();
    (medium, Geometry::new(SIZE, options.lba_size, true))
}

fn put_entry(medium: &Simulated, geometry: &Geometry, lane: u32, place: u64, entry: FlogEntry) {
    let offset = geometry.flog_offset(LaneIndex(lane)) + place * ENTRY_SIZE;
    let [low, high] = entry.halves();
    medium.store_u64(offset, low).unwrap();
    medium.store_u64(offset + 8, high).unwrap();
}

fn put_map(medium: &Simulated, geometry: &Geometry, lba: u32, entry: u32) {
    medium.store_u32(geometry.map_entry_offset(Lba(lba)), entry).unwrap();
}

fn entry(lba: u32, old_map: u32, new_map: u32, seq: u32) -> FlogEntry {
    FlogEntry { lba, old_map, new_map, seq }
}

fn fault(medium: &Simulated, geometry: &Geometry) -> FlogFault {
    match recover(medium, 0, 0, Uuid::max(), geometry) {
        Err(Error::BadFlog { arena: 0, fault }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_flog_has_nothing_pending_and_every_lane_its_own_block() {
    let (medium, geometry) = medium();
    let recovered = recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap();
    assert_eq!(recovered.layout, LogLayout::Standard);
    assert_eq!(recovered.pending, []);
    let free: Vec<u32> = recovered.lanes.iter().map(|lane| lane.free.0).collect();
    let expected: Vec<u32> = (geometry.external_nlba..geometry.internal_nlba).collect();
    assert_eq!(free, expected);
    assert_eq!(recovered.lanes[3].slot, Slot::Second);
    assert_eq!(recovered.lanes[3].sequence.get(), 2);
}

#[test]
fn a_committed_write_that_is_not_in_the_map_is_completed() {
    let (medium, geometry) = medium();
    let new = geometry.external_nlba;
    put_entry(&medium, &geometry, 0, 1, entry(5, 5, new, 2));
    let recovered = recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap();
    assert_eq!(recovered.pending, [(Lba(5), MapEntry::data(Block(new)))]);
    assert_eq!(recovered.lanes[0].free, Block(5), "the old block is the free one");
    assert_eq!((recovered.lanes[0].slot, recovered.lanes[0].sequence.get()), (Slot::First, 3));
}

#[test]
fn a_write_that_is_in_the_map_is_left_alone() {
    let (medium, geometry) = medium();
    let new = geometry.external_nlba;
    put_entry(&medium, &geometry, 0, 1, entry(5, 5, new, 2));
    put_map(&medium, &geometry, 5, MapEntry::data(Block(new)).0);
    assert_eq!(recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap().pending, []);
}

#[test]
fn a_write_overtaken_by_a_later_one_is_left_alone() {
    let (medium, geometry) = medium();
    put_entry(&medium, &geometry, 0, 1, entry(5, 5, geometry.external_nlba, 2));
    put_map(&medium, &geometry, 5, MapEntry::data(Block(77)).0);
    assert_eq!(recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap().pending, []);
}

/// Two writes of one sector through two lanes, the later one in the lower lane: one pass over the
/// lanes would complete only the earlier.
#[test]
fn writes_that_build_on_each_other_are_completed_to_the_last() {
    let (medium, geometry) = medium();
    let (first, second) = (geometry.external_nlba + 9, geometry.external_nlba + 2);
    put_entry(&medium, &geometry, 9, 1, entry(5, 5, first, 2));
    put_entry(&medium, &geometry, 2, 1, entry(5, first, second, 2));
    let recovered = recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap();
    assert_eq!(recovered.pending, [(Lba(5), MapEntry::data(Block(second)))]);
    assert_eq!(recovered.lanes[9].free, Block(5));
    assert_eq!(recovered.lanes[2].free, Block(first));
}

#[test]
fn writes_that_chase_each_other_are_corrupt() {
    let (medium, geometry) = medium();
    let (first, second) = (100, 200);
    put_map(&medium, &geometry, 5, MapEntry::data(Block(first)).0);
    put_entry(&medium, &geometry, 1, 1, entry(5, first, second, 2));
    put_entry(&medium, &geometry, 2, 1, entry(5, second, first, 2));
    assert_eq!(fault(&medium, &geometry), FlogFault::EndlessReplay { lba: Lba(5) });
}

#[test]
fn flags_in_flog_entries_do_not_count() {
    let (medium, geometry) = medium();
    let new = geometry.external_nlba;
    let flags = 0xc000_0000;
    put_entry(&medium, &geometry, 0, 1, entry(5, 5 | flags, new | flags, 2));
    let recovered = recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap();
    assert_eq!(recovered.pending, [(Lba(5), MapEntry::data(Block(new)))]);
    assert_eq!(recovered.lanes[0].free, Block(5));
    assert!(!recovered.lanes[0].free_has_error);
    put_entry(&medium, &geometry, 0, 1, entry(5, 5 | 0x4000_0000, new, 2));
    assert!(recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap().lanes[0].free_has_error);
}

/// A pending write of a sector that was trimmed or had an error: the entry's flags are not part of
/// the block's number.
#[test]
fn flags_in_the_map_do_not_hide_a_pending_write() {
    for flags in [0x8000_0000, 0x4000_0000] {
        let (medium, geometry) = medium();
        let new = geometry.external_nlba;
        put_map(&medium, &geometry, 5, 5 | flags);
        put_entry(&medium, &geometry, 0, 1, entry(5, 5, new, 2));
        let recovered = recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap();
        assert_eq!(recovered.pending, [(Lba(5), MapEntry::data(Block(new)))]);
    }
}

#[test]
fn the_old_layout_is_recognised() {
    let (medium, geometry) = medium();
    let new = geometry.external_nlba;
    put_entry(&medium, &geometry, 0, 2, entry(5, 5, new, 2));
    let recovered = recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap();
    assert_eq!(recovered.layout, LogLayout::Old);
    assert_eq!(recovered.pending, [(Lba(5), MapEntry::data(Block(new)))]);
}

#[test]
fn entries_in_places_that_do_not_belong_together_are_corrupt() {
    let (medium, geometry) = medium();
    put_entry(&medium, &geometry, 0, 1, entry(5, 5, geometry.external_nlba, 2));
    put_entry(&medium, &geometry, 1, 2, entry(6, 6, geometry.external_nlba + 1, 2));
    let used = PlacesInUse([true, true, true, false]);
    assert_eq!(fault(&medium, &geometry), FlogFault::Places(used));
}

#[test]
fn illegal_sequence_numbers_are_corrupt() {
    for (first, second) in [(0, 0), (1, 1), (3, 0), (0, 2), (4, 1)] {
        let (medium, geometry) = medium();
        let free = geometry.external_nlba + 7;
        put_entry(&medium, &geometry, 7, 0, entry(7, free, free, first));
        put_entry(&medium, &geometry, 7, 1, entry(5, 5, free, second));
        let lane = LaneIndex(7);
        assert_eq!(fault(&medium, &geometry), FlogFault::Sequences { lane, first, second });
    }
}

#[test]
fn newest_entries_out_of_range_are_corrupt_and_older_ones_are_not() {
    let bad = |geometry: &Geometry| {
        let (sectors, blocks) = (geometry.external_nlba, geometry.internal_nlba);
        [entry(sectors, 5, sectors, 2), entry(5, blocks, sectors, 2), entry(5, 5, blocks, 2)]
    };
    let (_, geometry) = medium();
    for entry in bad(&geometry) {
        let (medium, geometry) = medium();
        put_entry(&medium, &geometry, 0, 1, entry);
        assert!(matches!(fault(&medium, &geometry), FlogFault::OutOfRange { .. }));
    }
    for mut entry in bad(&geometry) {
        let (medium, geometry) = medium();
        entry.seq = 3;
        put_entry(&medium, &geometry, 0, 1, entry);
        assert!(recover(&medium, 0, 0, Uuid::max(), &geometry).is_ok());
    }
}

#[test]
fn two_lanes_with_one_free_block_are_corrupt() {
    let (medium, geometry) = medium();
    put_entry(&medium, &geometry, 0, 1, entry(5, 5, geometry.external_nlba, 2));
    put_entry(&medium, &geometry, 1, 1, entry(6, 5, geometry.external_nlba + 1, 2));
    let expected =
        FlogFault::SharedFreeBlock { first: LaneIndex(0), second: LaneIndex(1), block: Block(5) };
    assert_eq!(fault(&medium, &geometry), expected);
}

#[test]
fn a_map_entry_out_of_range_does_not_keep_the_rest_from_opening() {
    let (medium, geometry) = medium();
    put_entry(&medium, &geometry, 0, 1, entry(5, 5, geometry.external_nlba, 2));
    put_map(&medium, &geometry, 5, 0xffff_ffff);
    assert_eq!(recover(&medium, 0, 0, Uuid::max(), &geometry).unwrap().pending, []);
}
