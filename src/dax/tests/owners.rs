use super::*;
use crate::dax::format::layout::{METADATA_OFFSET, METADATA_PAGES, RECORDS};

#[test]
fn an_owner_finds_its_pages_again() {
    let region = region(64);
    let first = region.allocate(A, "ours", 3).unwrap();
    let second = region.allocate(A, "", 0).unwrap();
    let other = region.allocate(B, "theirs", 2).unwrap();
    let region = reopened(&region);
    let block = |offset, order| OwnedBlock { offset, order };
    let mut ours = vec![block(first, 3), block(second, 0)];
    ours.sort_unstable();
    assert_eq!(region.pages_of(A).unwrap(), ours);
    assert_eq!(region.pages_of(B).unwrap(), [block(other, 2)]);
    assert_eq!(region.owners()[1].label, "ours");
    assert!(first.is_multiple_of(8 * PAGE) && other.is_multiple_of(4 * PAGE));
}

#[test]
fn freeing_needs_the_right_owner_offset_and_order() {
    let region = region(64);
    let ours = region.allocate(A, "", 2).unwrap();
    let theirs = region.allocate(B, "", 2).unwrap();
    region.create_device(&device("d", 1)).unwrap();
    let at_device = region.device("d").unwrap().extents[0].start;
    let journal = region.info().journal.start;
    let set = region.info().uuid;
    let before = everything(&region);
    let nobody = Uuid::from_u128(0xc);
    let cases = [
        (nobody, ours, 2, Error::UnknownOwner(nobody)),
        (A, theirs, 2, Error::NotYours { offset: theirs, owner: B }),
        (A, theirs + PAGE, 0, Error::NotYours { offset: theirs + PAGE, owner: B }),
        (A, journal, 1, Error::NotYours { offset: journal, owner: set }),
        (A, at_device, 0, Error::NotYours { offset: at_device, owner: uuid_of("d") }),
        (A, ours + PAGE, 0, Error::NoBlock { offset: ours + PAGE }),
        (A, ours + 8, 2, Error::NoBlock { offset: ours + 8 }),
        (A, 0, 2, Error::NoBlock { offset: 0 }),
        (A, u64::MAX, 2, Error::NoBlock { offset: u64::MAX }),
        (A, ours, 3, Error::WrongOrder { offset: ours, order: 2, asked: 3 }),
        (set, journal, 1, Error::UnknownOwner(set)),
    ];
    for (owner, offset, order, error) in cases {
        assert_eq!(region.free(owner, offset, order), Err(error));
    }
    assert_eq!(before, everything(&region));
    region.free(A, ours, 2).unwrap();
    assert_eq!(region.free(A, ours, 2), Err(Error::UnknownOwner(A)));
}

#[test]
fn a_double_free_is_detected() {
    let region = region(64);
    let first = region.allocate(A, "", 2).unwrap();
    region.allocate(A, "", 2).unwrap();
    region.free(A, first, 2).unwrap();
    assert_eq!(region.free(A, first, 2), Err(Error::AlreadyFree { offset: first }));
}

#[test]
fn running_out_of_pages_is_no_space_with_nothing_changed() {
    let region = region(6);
    region.allocate(A, "", 2).unwrap();
    let before = everything(&region);
    let full = Error::NoSpace { needed: 4 * PAGE, available: 0, largest: 0 };
    assert_eq!(region.allocate(A, "", 2), Err(full.clone()));
    assert_eq!(region.allocate(B, "", 2), Err(full));
    assert_eq!(before, everything(&region));
    assert_eq!(before, everything(&reopened(&region)));
    region.allocate(B, "", 1).unwrap();
}

#[test]
fn running_out_of_owners_is_no_space_with_nothing_changed() {
    let region = region(256);
    for owner in 1..OWNERS as u128 {
        region.allocate(Uuid::from_u128(owner << 8), "", 0).unwrap();
    }
    let before = everything(&region);
    let full = Err(Error::NoRoomFor(Space::Owners));
    assert_eq!(region.allocate(A, "", 0), full);
    assert_eq!(before, everything(&reopened(&region)));
    let one = Uuid::from_u128(5 << 8);
    let block = region.pages_of(one).unwrap()[0];
    region.free(one, block.offset, 0).unwrap();
    region.allocate(A, "", 0).unwrap();
}

#[test]
fn running_out_of_records_is_no_space_with_nothing_changed() {
    let region = region(8192);
    // As if there were one free metadata page.
    region.change().map(|mut state| state.pool.split_off(&(METADATA_OFFSET + 2 * 8192))).unwrap();
    for _ in 0..RECORDS {
        region.allocate(A, "", 0).unwrap();
    }
    let before = everything(&region);
    assert_eq!(region.allocate(A, "", 0), Err(Error::NoRoomFor(Space::Metadata)));
    assert_eq!(region.allocate(B, "", 0), Err(Error::NoRoomFor(Space::Metadata)));
    assert_eq!(before, everything(&region));
    assert_eq!(region.pages_of(A).unwrap(), reopened(&region).pages_of(A).unwrap());
}

#[test]
fn record_pages_go_with_their_last_record() {
    let region = region(4096);
    let all = region.info().free_metadata_pages;
    assert_eq!(all as u64, METADATA_PAGES - 1);
    let blocks: Vec<u64> =
        (0..RECORDS * 2 + 5).map(|_| region.allocate(A, "", 0).unwrap()).collect();
    assert_eq!(region.info().free_metadata_pages, all - 3);
    // The page in the middle of the chain goes first.
    for block in &blocks[RECORDS..RECORDS * 2] {
        region.free(A, *block, 0).unwrap();
    }
    assert_eq!(region.info().free_metadata_pages, all - 2);
    assert_eq!(everything(&region), everything(&reopened(&region)));
    for block in blocks[..RECORDS].iter().chain(&blocks[RECORDS * 2..]) {
        region.free(A, *block, 0).unwrap();
    }
    assert_eq!(region.info().free_metadata_pages, all);
    assert_eq!(region.owners().len(), 1);
    assert_eq!(everything(&region), everything(&reopened(&region)));
}

#[test]
fn freed_pages_are_zero_for_the_next_owner() {
    let medium = medium(8);
    let region = open(&medium);
    let block = region.allocate(A, "", 2).unwrap();
    medium.write_bytes(block + 5, b"secret").unwrap();
    region.free(A, block, 2).unwrap();
    // As if the crash had come before they were zeroed.
    medium.write_bytes(block + 5, b"secret").unwrap();
    let region = reopened(&region);
    assert_eq!(region.allocate(B, "", 2).unwrap(), block);
    let mut bytes = [1; 64];
    medium.read_bytes(block, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 64]);
}

#[test]
fn bad_owners_labels_and_orders_are_refused() {
    let region = region(8);
    region.create_device(&device("d", 1)).unwrap();
    for uuid in [Uuid::nil(), region.info().uuid, uuid_of("d")] {
        assert_eq!(region.allocate(uuid, "", 0), Err(Error::UuidInUse(uuid)));
    }
    assert_eq!(region.allocate(A, "", 21), Err(Error::BadOrder(21)));
    let label = "33 bytes are longer than 32 are.!".to_owned();
    assert_eq!(region.allocate(A, &label, 0), Err(Error::BadLabel(label)));
    assert_eq!(region.allocate(A, "a\nb", 0), Err(Error::BadLabel("a\nb".into())));
}

#[test]
fn all_pages_of_an_owner_that_is_gone_are_freed_at_once() {
    let region = region(2 * RECORDS as u64 + 8);
    let before = everything(&region);
    for _ in 0..RECORDS + 3 {
        region.allocate(A, "gone", 0).unwrap();
    }
    let kept = region.allocate(B, "here", 1).unwrap();
    region.create_device(&device("d", 1)).unwrap();
    region.medium().write_bytes(kept, b"kept").unwrap();
    let blocks = region.free_all(A).unwrap();
    assert_eq!(blocks.len(), RECORDS + 3);
    assert_eq!(region.pages_of(A), Err(Error::UnknownOwner(A)));
    assert_eq!(everything(&region), everything(&reopened(&region)));
    assert!(check::check(region.medium()).is_clean());
    let mut bytes = [0; 4];
    region.medium().read_bytes(kept, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    let set = region.info().uuid;
    for other in [A, set, uuid_of("d"), Uuid::nil()] {
        assert_eq!(region.free_all(other), Err(Error::UnknownOwner(other)));
    }
    region.free_all(B).unwrap();
    region.destroy_device("d").unwrap();
    assert_eq!(everything(&region), before);
}

#[test]
fn what_is_freed_at_once_is_zero_for_the_next_owner() {
    let region = region(8);
    let offset = region.allocate(A, "", 2).unwrap();
    region.medium().write_bytes(offset + PAGE, b"secret").unwrap();
    region.free_all(A).unwrap();
    region.create_device(&device("d", 8)).unwrap();
    for extent in region.device("d").unwrap().extents {
        for page in extent.step_by(PAGE as usize) {
            assert_eq!(region.medium().load_u64(page), Ok(0));
        }
    }
}
