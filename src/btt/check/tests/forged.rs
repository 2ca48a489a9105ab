//! Which info blocks are believed, where there are those of two BTTs.

use super::info::{spoil, wipe};
use super::*;
use crate::btt::{Copies, Error, InfoFault, find};

/// An info block of a small arena whose backup is at `info2off`.
fn forged(version: Version, info2off: u64) -> InfoBlock {
    let lba_size = LbaSize::new(512).unwrap();
    InfoBlock {
        uuid: Uuid::from_u128(3),
        parent_uuid: Uuid::nil(),
        error: false,
        version,
        geometry: Geometry {
            lba_size,
            internal_lbasize: 512,
            external_nlba: 7,
            internal_nlba: 8,
            nfree: 1,
            nextoff: 0,
            dataoff: PAGE,
            mapoff: 2 * PAGE,
            logoff: 3 * PAGE,
            info2off,
        },
    }
}

#[test]
fn an_info_block_that_a_guest_wrote_into_its_data_is_ignored() {
    let image = Image::new(4096, Version::V2_0);
    let forged = forged(Version::V1_1, 5 * PAGE).encode();
    image.medium.write_bytes(PAGE, &forged).unwrap();
    let report = image.check();
    assert_only(&report, Fault::InfoInData { offset: PAGE });
    assert_clean(&report);
    assert_eq!(report.arenas[0].info.version, Version::V2_0);

    // A trace of one is nothing at all.
    spoil(&image, PAGE);
    assert_eq!(faults(&image.check()), []);
}

/// The guest wrote both info blocks of a small arena.
#[test]
fn a_btt_that_a_guest_wrote_whole_into_its_data_is_ignored() {
    let image = Image::new(4096, Version::V2_0);
    let info = forged(Version::V1_1, 5 * PAGE).encode();
    image.medium.write_bytes(PAGE, &info).unwrap();
    image.medium.write_bytes(6 * PAGE, &info).unwrap();
    let report = image.check();
    assert_only(&report, Fault::InfoInData { offset: PAGE });
    assert_clean(&report);
    image.try_open().unwrap();
}

#[test]
fn two_btts_are_not_chosen_between() {
    // Neither is complete.
    let image = Image::new(4096, Version::V1_1);
    wipe(&image, image.backup_offset());
    let mut info = forged(Version::V2_0, 6 * PAGE);
    (info.geometry.dataoff, info.geometry.mapoff) = (2 * PAGE, 4 * PAGE);
    info.geometry.logoff = 5 * PAGE;
    image.medium.write_bytes(0, &info.encode()).unwrap();
    let old_may_be_data = false;
    assert_only(&image.check(), Fault::TwoBtts { old_may_be_data });
    assert_eq!(image.try_open().unwrap_err(), Error::TwoVersions);
}

/// The one that is complete is believed; the other is a problem all the same.
#[test]
fn an_info_block_where_no_guest_can_write_is_a_problem() {
    let image = Image::new(4096, Version::V1_1);
    let info = forged(Version::V2_0, 5 * PAGE).encode();
    image.medium.write_bytes(0, &info).unwrap();
    let report = image.check();
    let (offset, fault) = (0, None);
    assert_only(&report, Fault::OtherBtt { offset, fault });
    assert_eq!(report.verdict(), Verdict::Problems);
    assert_eq!(report.arenas[0].info.version, Version::V1_1);

    spoil(&image, 0);
    let report = image.check();
    assert!(matches!(
        faults(&report)[..],
        [Fault::OtherBtt { offset: 0, fault: Some(InfoFault::Checksum { .. }) }]
    ));
}

/// The case for it: a BTT of version 2.0 has lost its backup, and a guest wrote both info blocks of
/// one of version 1.1 into its data.
#[test]
fn a_forged_btt_beside_a_damaged_one_is_no_clean_one() {
    let image = Image::new(4096, Version::V2_0);
    wipe(&image, image.backup_offset());
    let info = forged(Version::V1_1, 5 * PAGE).encode();
    image.medium.write_bytes(PAGE, &info).unwrap();
    image.medium.write_bytes(6 * PAGE, &info).unwrap();
    assert_eq!(find(&*image.medium, None), Err(Error::TwoVersions));
    let old_may_be_data = true;
    assert_only(&image.check(), Fault::TwoBtts { old_may_be_data });
    // Nor if nothing but a trace is left of the primary.
    spoil(&image, 0);
    assert_eq!(find(&*image.medium, None), Err(Error::TwoVersions));
    assert_only(&image.check(), Fault::TwoBtts { old_may_be_data });
    let chosen = CheckOptions { version: Some(Version::V1_1), ..CheckOptions::default() };
    assert_eq!(image.check_with(&chosen).arenas[0].info.version, Version::V1_1);
}

/// What can happen to a place of an info block.
const DAMAGES: [fn(&Image, u64); 5] = [
    |_, _| {},
    wipe,
    spoil,
    |image, offset| image.medium.poison(offset..offset + 1),
    |image, offset| image.change_info(offset, |info| info.error = true),
];

/// What can stand where the other version's info blocks belong.
const OTHERS: [fn(&Image, Version); 4] = [
    |_, _| {},
    |image, version| {
        let info = forged(version, 5 * PAGE).encode();
        image.medium.write_bytes(version.first_arena(), &info).unwrap();
    },
    |image, version| {
        OTHERS[1](image, version);
        let info = forged(version, 5 * PAGE).encode();
        let offset = version.first_arena() + 5 * PAGE;
        image.medium.write_bytes(offset, &info).unwrap();
    },
    |image, version| {
        OTHERS[1](image, version);
        spoil(image, version.first_arena());
    },
];

#[test]
fn checker_and_engine_believe_the_same_info_blocks() {
    for (version, other) in [(Version::V1_1, Version::V2_0), (Version::V2_0, Version::V1_1)] {
        let pristine = Image::new(4096, version);
        for (first, damage_primary) in DAMAGES.iter().enumerate() {
            for (second, damage_backup) in DAMAGES.iter().enumerate() {
                for (beside, add_other) in OTHERS.iter().enumerate() {
                    let image = pristine.copy();
                    damage_primary(&image, image.primary_offset());
                    damage_backup(&image, image.backup_offset());
                    add_other(&image, other);
                    let case = format!("{version} {first} {second} {beside}");
                    assert_same_belief(&image, &case);
                }
            }
        }
    }
}

fn assert_same_belief(image: &Image, case: &str) {
    let report = image.check();
    let case = format!("{case}: {:#?}", lines(&report));
    match find(&*image.medium, None) {
        Ok(found) => {
            let [arena] = report.arenas[..] else { panic!("{case}") };
            assert_eq!(arena.start, found[0].start, "{case}");
            assert_eq!(arena.info, found[0].info, "{case}");
            let (primary, backup) = match found[0].copies {
                Copies::Intact => {
                    assert_eq!(arena.primary, arena.backup, "{case}");
                    return;
                }
                Copies::Differ => (None, None),
                Copies::OnlyPrimary(fault) => (None, Some(fault)),
                Copies::OnlyBackup(fault) => (Some(fault), None),
            };
            assert_eq!(arena.primary.err(), primary, "{case}");
            assert_eq!(arena.backup.err(), backup, "{case}");
            assert_eq!(report.verdict(), Verdict::Problems, "{case}");
        }
        Err(error) => {
            assert_eq!(report.arenas, [], "{case}");
            let expected = match error {
                Error::NotFound => Kind::NoBtt,
                Error::TwoVersions => Kind::TwoBtts,
                Error::BadInfo { .. } => Kind::InfoLost,
                other => panic!("{case}: {other}"),
            };
            assert!(report.findings.count(expected) > 0, "{case} {error}");
        }
    }
}
