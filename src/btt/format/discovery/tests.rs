use super::*;
use crate::btt::{CreateOptions, LbaSize, create};
use crate::pmem::simulated::Simulated;

const SIZE: u64 = 32 << 20;
const PAGE: u64 = 4096;

fn options(version: Version) -> CreateOptions {
    CreateOptions {
        lba_size: LbaSize::new(512).unwrap(),
        version,
        uuid: Uuid::from_u128(u128::from(version.numbers().0)),
        parent_uuid: Uuid::from_u128(9),
        arena_size: SIZE,
    }
}

fn created(version: Version) -> Simulated {
    let medium = Simulated::new(SIZE);
    create(&medium, &options(version), |_, _| {}).unwrap();
    medium
}

fn wipe(medium: &Simulated, offset: u64) {
    medium.zero(offset, PAGE).unwrap();
}

fn only(found: Result<Vec<FoundArena>, Error>) -> FoundArena {
    let [arena] = found.unwrap().try_into().unwrap();
    arena
}

#[test]
fn both_versions_are_found_where_they_belong() {
    for version in Version::ALL {
        let medium = created(version);
        let arena = only(find(&medium, None));
        assert_eq!(arena.start, version.first_arena());
        assert_eq!((arena.info.version, arena.copies), (version, Copies::Intact));
        assert_eq!(find(&medium, Some(version)), find(&medium, None));
    }
}

#[test]
fn an_empty_medium_has_none() {
    for size in [0, PAGE, SIZE] {
        assert_eq!(find(&Simulated::new(size), None), Err(Error::NotFound));
    }
    assert_eq!(find(&created(Version::V1_1), Some(Version::V2_0)), Err(Error::NotFound));
}

#[test]
fn either_copy_of_the_info_block_is_enough() {
    for version in Version::ALL {
        let intact = only(find(&created(version), None));
        let medium = created(version);
        wipe(&medium, version.first_arena());
        let arena = only(find(&medium, None));
        assert_eq!(arena.copies, Copies::OnlyBackup(InfoFault::Signature));
        assert_eq!((arena.start, arena.info), (intact.start, intact.info));

        let medium = created(version);
        wipe(&medium, SIZE - PAGE);
        let arena = only(find(&medium, None));
        assert_eq!(arena.copies, Copies::OnlyPrimary(InfoFault::Signature));
        assert_eq!((arena.start, arena.info), (intact.start, intact.info));
    }
}

#[test]
fn a_damaged_info_block_is_no_reason_to_believe_the_other_version() {
    let medium = created(Version::V1_1);
    medium.store_u32(PAGE + 60, 0).unwrap();
    let arena = only(find(&medium, None));
    assert!(matches!(arena.copies, Copies::OnlyBackup(InfoFault::Checksum { .. })));
    medium.store_u32(SIZE - PAGE + 60, 0).unwrap();
    let Err(Error::BadInfo { arena: 0, primary, backup }) = find(&medium, None) else { panic!() };
    assert!(matches!(primary, InfoFault::Checksum { .. }));
    assert!(matches!(backup, InfoFault::Checksum { .. }));
}

#[test]
fn an_unreadable_info_block_is_like_a_damaged_one() {
    let medium = created(Version::V2_0);
    medium.poison(0..64);
    let arena = only(find(&medium, None));
    assert!(matches!(arena.copies, Copies::OnlyBackup(InfoFault::Media(_))));
}

#[test]
fn an_error_flag_in_either_copy_counts() {
    for offset in [PAGE, SIZE - PAGE] {
        let medium = created(Version::V1_1);
        let mut info = only(find(&medium, None)).info;
        info.error = true;
        info.write(&medium, offset).unwrap();
        let arena = only(find(&medium, None));
        assert_eq!((arena.info.error, arena.copies), (true, Copies::Differ));
    }
}

/// A guest can write what it likes into block 0 of a 2.0 BTT, which lies where the first arena of a
/// 1.1 BTT starts.
#[test]
fn an_info_block_that_a_guest_wrote_into_its_data_does_not_pass() {
    let medium = created(Version::V2_0);
    let forged = only(find(&created(Version::V1_1), None)).info;
    forged.write(&medium, PAGE).unwrap();
    let arena = only(find(&medium, None));
    assert_eq!((arena.info.version, arena.copies), (Version::V2_0, Copies::Intact));

    // With its own second info block gone, nothing tells the two apart any more.
    wipe(&medium, SIZE - PAGE);
    assert_eq!(find(&medium, None), Err(Error::TwoVersions));
    assert_eq!(only(find(&medium, Some(Version::V2_0))).start, 0);
    assert_eq!(only(find(&medium, Some(Version::V1_1))).start, PAGE);
}

#[test]
fn all_arenas_are_followed_and_have_to_be_kin() {
    let medium = Simulated::new(3 * SIZE);
    let chained = CreateOptions { arena_size: SIZE, ..options(Version::V1_1) };
    create(&medium, &chained, |_, _| {}).unwrap();
    let found = find(&medium, None).unwrap();
    let starts: Vec<u64> = found.iter().map(|arena| arena.start).collect();
    assert_eq!(starts, [PAGE, PAGE + SIZE, PAGE + 2 * SIZE]);

    // The second info block of an arena in the middle is where its first says, or a full arena ends.
    wipe(&medium, PAGE + 2 * SIZE);
    let found = find(&medium, None).unwrap();
    assert_eq!(found[2].copies, Copies::OnlyBackup(InfoFault::Signature));

    let mut info = found[1].info;
    info.uuid = Uuid::max();
    info.write(&medium, found[1].start).unwrap();
    assert!(matches!(find(&medium, None), Err(Error::NotKin { arena: 1, .. })));

    wipe(&medium, found[1].start);
    wipe(&medium, found[1].start + info.geometry.info2off);
    assert!(matches!(find(&medium, None), Err(Error::BadInfo { arena: 1, .. })));
}

#[test]
fn a_btt_of_another_namespace_is_refused() {
    let found = find(&created(Version::V1_1), None).unwrap();
    assert_eq!(check_parent(&found, Uuid::from_u128(9)), Ok(()));
    assert!(matches!(check_parent(&found, Uuid::max()), Err(Error::NotKin { arena: 0, .. })));
    let mut orphan = found;
    orphan[0].info.parent_uuid = Uuid::nil();
    assert_eq!(check_parent(&orphan, Uuid::max()), Ok(()));
}
