//! Damage to info blocks.

use super::*;
use crate::btt::{Error, GeometryFault, InfoFault, find};

pub(super) fn wipe(image: &Image, offset: u64) {
    image.medium.zero(offset, PAGE).unwrap();
}

/// Makes the checksum wrong.
pub(super) fn spoil(image: &Image, offset: u64) {
    let word = image.medium.load_u32(offset + 60).unwrap();
    image.medium.store_u32(offset + 60, word ^ 1).unwrap();
}

#[test]
fn a_missing_copy_is_found_and_the_other_one_used() {
    for version in Version::ALL {
        let image = Image::new(4096, version);
        let intact = image.check().arenas[0];
        for (copy, offset) in
            [(InfoCopy::Primary, image.primary_offset()), (InfoCopy::Backup, image.backup_offset())]
        {
            let image = image.copy();
            wipe(&image, offset);
            let report = image.check();
            let fault = InfoFault::Signature;
            assert_only(&report, Fault::InfoBad { copy, offset, fault });
            assert_eq!(report.verdict(), Verdict::Problems);
            let arena = report.arenas[0];
            assert_eq!(arena.info, intact.info);
            assert_eq!((arena.start, arena.map), (intact.start, intact.map));
        }
    }
}

#[test]
fn a_wrong_checksum_is_found_in_either_copy() {
    let image = Image::fresh();
    for offset in [image.primary_offset(), image.backup_offset()] {
        let image = image.copy();
        spoil(&image, offset);
        let [Fault::InfoBad { offset: found, fault, .. }] = faults(&image.check())[..] else {
            panic!()
        };
        assert_eq!(found, offset);
        assert!(matches!(fault, InfoFault::Checksum { .. }));
    }
}

#[test]
fn an_unreadable_copy_is_found() {
    let image = Image::new(4096, Version::V2_0);
    image.medium.poison(0..64);
    let report = image.check();
    assert!(matches!(
        faults(&report)[..],
        [Fault::InfoBad { copy: InfoCopy::Primary, fault: InfoFault::Media(_), .. }]
    ));
    assert_eq!(report.arenas.len(), 1);
}

#[test]
fn copies_that_differ_are_found() {
    let image = Image::fresh();
    image.change_info(image.backup_offset(), |info| info.error = true);
    let report = image.check();
    let (primary, backup) = (image.primary_offset(), image.backup_offset());
    assert_eq!(
        faults(&report),
        [Fault::InfoDiffers { primary, backup, byte: 48 }, Fault::ArenaError]
    );
    assert!(report.arenas[0].info.error);
    assert_ne!(report.arenas[0].primary, report.arenas[0].backup);
}

/// Such a difference is none that decoding shows.
#[test]
fn bytes_without_a_meaning_have_to_be_zero_and_the_same() {
    let image = Image::fresh();
    let offset = image.backup_offset();
    for byte in [50, 120, 4087] {
        let image = image.copy();
        let mut bytes = image.info_bytes(offset);
        bytes[byte] = 0x80;
        let sum = crate::pmem::fletcher64_without_field(&bytes, 4088);
        bytes[4088..].copy_from_slice(&sum.to_le_bytes());
        image.medium.write_bytes(offset, &bytes).unwrap();
        let (primary, backup) = (image.primary_offset(), offset);
        assert_eq!(
            faults(&image.check()),
            [
                Fault::InfoReserved { offset, byte, value: 0x80 },
                Fault::InfoDiffers { primary, backup, byte }
            ]
        );
    }
}

#[test]
fn without_either_copy_there_is_nothing_to_check() {
    for version in Version::ALL {
        let image = Image::new(4096, version);
        wipe(&image, image.primary_offset());
        wipe(&image, image.backup_offset());
        let report = image.check();
        assert_only(&report, Fault::NoBtt);
        assert_eq!(report.arenas, []);

        let image = Image::new(4096, version);
        spoil(&image, image.primary_offset());
        spoil(&image, image.backup_offset());
        let report = image.check();
        let [Fault::InfoLost { version: found, start, .. }] = faults(&report)[..] else {
            panic!("{:#?}", lines(&report))
        };
        assert_eq!((found, start), (version, image.start));
        assert_eq!(report.findings.iter().next().unwrap().arena, Some(0));
    }
}

/// Where the backup stands, it may be that of either version.
#[test]
fn a_trace_of_a_backup_alone_is_one_of_both_versions() {
    let image = Image::fresh();
    wipe(&image, image.primary_offset());
    spoil(&image, image.backup_offset());
    let versions: Vec<Version> = faults(&image.check())
        .iter()
        .map(|fault| match fault {
            Fault::InfoLost { version, .. } => *version,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(versions, Version::ALL);
}

#[test]
fn an_empty_medium_has_no_btt() {
    for size in [0, PAGE, SIZE] {
        let medium = Simulated::new(size);
        let report = check(&medium, &CheckOptions::default(), &mut |_, _| {});
        assert_only(&report, Fault::NoBtt);
    }
}

#[test]
fn the_version_asked_for_is_checked() {
    let image = Image::fresh();
    let version = |version| CheckOptions { version: Some(version), ..CheckOptions::default() };
    assert_clean(&image.check_with(&version(Version::V1_1)));
    assert_only(&image.check_with(&version(Version::V2_0)), Fault::NoBtt);
}

#[test]
fn a_btt_of_another_namespace_is_found() {
    let image = Image::fresh();
    let of = |namespace| CheckOptions {
        namespace: Some(Uuid::from_u128(namespace)),
        ..CheckOptions::default()
    };
    assert_clean(&image.check_with(&of(2)));
    assert_only(
        &image.check_with(&of(3)),
        Fault::NamespaceForeign { parent: Uuid::from_u128(2), namespace: Uuid::from_u128(3) },
    );
    image.change_infos(|info| info.parent_uuid = Uuid::nil());
    assert_clean(&image.check_with(&of(3)));
}

fn chain() -> Image {
    Image::of_arenas(4096, Version::V1_1, 3 * SIZE + PAGE, SIZE)
}

#[test]
fn all_arenas_are_followed_as_far_as_their_info_blocks_go() {
    let image = chain();
    let middle = image.start + SIZE;
    assert_eq!(image.check().arenas.len(), 3);

    // The backup of an arena in the middle, which is not of the largest size, is not where it would
    // be looked for without the primary.
    wipe(&image, middle + image.geometry.info2off);
    let report = image.check();
    assert_eq!(report.arenas.len(), 3);
    assert_eq!(report.findings.iter().next().unwrap().arena, Some(1));
    wipe(&image, middle);
    let report = image.check();
    assert_eq!(report.arenas.len(), 1);
    let [Fault::InfoLost { start, .. }] = faults(&report)[..] else { panic!() };
    assert_eq!(start, middle);
    assert!(matches!(image.try_open(), Err(Error::BadInfo { arena: 1, .. })));
}

#[test]
fn arenas_of_another_btt_are_found_and_checked_all_the_same() {
    type Change = fn(&mut InfoBlock);
    let changes: [(&str, Change); 2] = [
        ("uuid", |info| info.uuid = Uuid::max()),
        ("parent uuid", |info| info.parent_uuid = Uuid::max()),
    ];
    for (what, change) in changes {
        let image = chain();
        let middle = image.start + SIZE;
        image.change_info(middle, change);
        image.change_info(middle + image.geometry.info2off, change);
        let report = image.check();
        assert_only(&report, Fault::ArenaForeign { what });
        assert_eq!(report.arenas.len(), 3);
    }
}

#[test]
fn arenas_have_to_start_on_a_page() {
    // The second arena of the two is moved by 512 bytes.
    let image = Image::of_arenas(4096, Version::V2_0, 2 * SIZE + PAGE, SIZE);
    let mut bytes = image.medium.contents();
    bytes.copy_within(SIZE as usize..2 * SIZE as usize, SIZE as usize + 512);
    let image = Image::of(&Contents::from(&bytes[..]), 0);
    image.change_infos(|info| info.geometry.nextoff += 512);
    let report = image.check();
    assert_eq!(report.verdict(), Verdict::Problems);
    assert!(report.findings.count(Kind::InfoLost) > 0, "{:?}", lines(&report));
}

#[test]
fn numbers_that_describe_no_arena_are_refused() {
    type Change = fn(&mut Geometry);
    let changes: [(&str, Change); 9] = [
        ("nfree", |geometry| geometry.nfree = 0),
        ("nfree", |geometry| geometry.nfree = u32::MAX),
        ("blocks", |geometry| geometry.internal_nlba = u32::MAX),
        ("blocks", |geometry| geometry.external_nlba = 0),
        ("mapoff", |geometry| geometry.mapoff = 0),
        ("logoff", |geometry| geometry.logoff = u64::MAX - 4095),
        ("nextoff", |geometry| geometry.nextoff = 4096),
        ("nextoff", |geometry| {
            geometry.nextoff = 0u64.wrapping_sub(4096);
        }),
        ("nextoff", |geometry| geometry.nextoff = SIZE),
    ];
    for (what, change) in changes {
        let image = Image::fresh();
        image.change_infos(|info| change(&mut info.geometry));
        let report = image.check();
        let [Fault::InfoLost { primary: InfoFault::Geometry(fault), .. }] = faults(&report)[..]
        else {
            panic!("{what} {:#?}", lines(&report))
        };
        assert!(!matches!(fault, GeometryFault::LbaSize(_)), "{what}");
        assert!(image.try_open().is_err());
    }
}

#[test]
fn a_truncated_medium_has_lost_its_last_arena() {
    let image = chain();
    for (size, arenas) in [(3 * SIZE, 2), (2 * SIZE, 1), (SIZE, 0), (PAGE + 100, 0)] {
        let mut contents = image.medium.contents();
        contents.truncate(size as usize);
        let medium = Simulated::with_contents(&contents);
        let report = check(&medium, &CheckOptions::default(), &mut |_, _| {});
        assert_eq!(report.arenas.len(), arenas, "{size:#x}");
        assert_eq!(report.verdict(), Verdict::Problems);
        assert!(find(&medium, None).is_err());
    }
}
