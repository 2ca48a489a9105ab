//! Damage to the map.

use super::*;

fn sector(lba: u32) -> Owner {
    Owner::Sector(Lba(lba))
}

fn shared(block: u32, first: Owner, second: Owner) -> Fault {
    Fault::BlockShared { block: Block(block), first, second }
}

fn missing(block: u32) -> Fault {
    Fault::BlockMissing { block: Block(block) }
}

#[test]
fn a_block_that_does_not_exist_is_found() {
    let image = Image::fresh();
    let blocks = image.geometry.internal_nlba;
    for entry in [MapEntry::data, MapEntry::zero, MapEntry::error] {
        let image = image.copy();
        image.set_map(9, entry(Block(blocks)));
        let (lba, offset) = (Lba(9), image.map_offset(9));
        let block = Block(blocks);
        let range = Fault::MapRange { lba, block, blocks, offset };
        let report = image.check();
        let mut found = faults(&report);
        found.retain(|fault| fault.kind() != Kind::SectorError);
        assert_eq!(found, [range, missing(9)]);
        assert_eq!(report.arenas[0].map.out_of_range, 1);
    }
    let image = image.copy();
    image.set_map(9, MapEntry(u32::MAX));
    assert_eq!(image.check().findings.count(Kind::MapRange), 1);
}

#[test]
fn sectors_that_do_not_lie_behind_the_one_before_are_counted() {
    let image = Image::fresh();
    for (lba, block) in [(10, 10), (11, 11), (12, 20), (13, 21), (15, 40), (16, 5)] {
        image.set_map(lba, MapEntry::data(Block(block)));
    }
    // Behind sector 14, which has no data, any place is as good as another.
    image.set_map(14, MapEntry::zero(Block(22)));
    let map = image.check().arenas[0].map;
    assert_eq!((map.data, map.zero, map.out_of_order), (6, 1, 2));
    image.set_map(14, MapEntry::data(Block(22)));
    assert_eq!(image.check().arenas[0].map.out_of_order, 3);
}

#[test]
fn two_sectors_of_one_block_are_found_and_named() {
    let image = Image::fresh();
    // Below and above the other owner, which was never written, and in the next page of the map.
    for lba in [9, 2000] {
        let image = image.copy();
        image.set_map(lba, MapEntry::data(Block(1030)));
        let owners = [sector(lba.min(1030)), sector(lba.max(1030))];
        assert_eq!(faults(&image.check()), [missing(lba), shared(1030, owners[0], owners[1])]);
    }
    image.set_map(9, MapEntry::data(Block(5)));
    image.set_map(2000, MapEntry::zero(Block(5)));
    image.set_map(2001, MapEntry::error(Block(5)));
    let report = image.check();
    let error = Fault::SectorError { lba: Lba(2001), block: Block(5) };
    assert_eq!(
        faults(&report),
        [
            error,
            missing(9),
            missing(2000),
            missing(2001),
            shared(5, sector(5), sector(9)),
            shared(5, sector(5), sector(2000)),
            shared(5, sector(5), sector(2001)),
        ]
    );
    assert_eq!(report.findings.count(Kind::BlockShared), 3);
}

#[test]
fn a_sector_with_the_free_block_of_a_lane_is_found_and_named() {
    let image = Image::fresh();
    let free = image.free();
    image.set_map(9, MapEntry::data(Block(free + 7)));
    let lane = Owner::Lane(LaneIndex(7));
    assert_eq!(faults(&image.check()), [missing(9), shared(free + 7, lane, sector(9))]);
}

#[test]
fn a_free_block_that_a_sector_never_left_is_found() {
    let image = Image::fresh();
    image.set_entry(7, 0, [7, 9, 9, 1]);
    let lane = Owner::Lane(LaneIndex(7));
    assert_eq!(faults(&image.check()), [missing(image.free() + 7), shared(9, lane, sector(9))]);
}

#[test]
fn owners_are_those_after_replay() {
    let image = Image::fresh();
    // Lane 3 is about to give block 9 away, and has it free: no two owners.
    image.wrote(3, 9);
    image.set_map(9, MapEntry(0));
    assert_eq!(faults(&image.check()), []);
    // But the block that it fills must not be anyone else's.
    image.set_map(2000, MapEntry::data(Block(image.free() + 3)));
    assert_eq!(
        faults(&image.check()),
        [missing(2000), shared(image.free() + 3, sector(9), sector(2000))]
    );
}

#[test]
fn a_lost_block_is_found() {
    let image = Image::fresh();
    let free = image.free();
    image.set_entry(7, 0, [7, free + 7, free + 7, 1]);
    // Lane 7 and sector 9 exchanged blocks, and sector 9's is forgotten for another's.
    image.wrote(7, 9);
    image.set_map(9, MapEntry::data(Block(free + 7)));
    image.set_entry(7, 1, [9, 8, free + 7, 2]);
    assert_eq!(
        faults(&image.check()),
        [missing(9), shared(8, Owner::Lane(LaneIndex(7)), sector(8))]
    );
}

#[test]
fn poison_in_the_map_costs_only_the_entries_it_hits() {
    let image = Image::fresh();
    let per_line = 16;
    image.wrote(0, 3);
    // Two lines together, and one in another page.
    image.medium.poison(image.map_offset(1600)..image.map_offset(1600 + per_line + 1));
    image.medium.poison(image.map_offset(3200)..image.map_offset(3201));
    let report = image.check();
    let gap = |first, sectors| Fault::MapUnreadable {
        first: Lba(first),
        sectors,
        offset: image.map_offset(first),
    };
    let found = faults(&report);
    assert_eq!(found[..2], [gap(1600, 32), gap(3200, 16)]);
    let lost = (1600..1632).chain(3200..3216).map(missing);
    assert!(found[2..].iter().copied().eq(lost));
    let map = report.arenas[0].map;
    assert_eq!((map.unreadable, map.data), (48, 1));
    assert_eq!(
        map.never_written + map.data + map.unreadable,
        u64::from(image.geometry.external_nlba)
    );
}

#[test]
fn a_map_that_ends_in_poison_is_reported_to_its_end() {
    let image = Image::fresh();
    let last = image.geometry.external_nlba - 1;
    image.medium.poison(image.map_offset(last)..image.map_offset(last) + 1);
    let report = image.check();
    let Fault::MapUnreadable { first, sectors, .. } = faults(&report)[0] else { panic!() };
    assert_eq!(u64::from(first.0) + sectors, u64::from(last) + 1);
}

#[test]
fn more_findings_than_are_listed_are_counted() {
    let image = Image::new(512, Version::V2_0);
    let nlba = image.geometry.external_nlba;
    (0..nlba).for_each(|lba| image.set_map(lba, MapEntry::error(Block(77))));
    let options = CheckOptions { most_findings: 5, ..CheckOptions::default() };
    let report = image.check_with(&options);
    let counts: Vec<(Kind, u64)> = report.findings.counts().collect();
    let (all, rest) = (u64::from(nlba), u64::from(nlba) - 1);
    assert_eq!(
        counts,
        [(Kind::SectorError, all), (Kind::BlockShared, rest), (Kind::BlockMissing, rest)]
    );
    let found = faults(&report);
    assert_eq!(found.len(), 15);
    assert_eq!(found[10], shared(77, sector(0), sector(1)));
    assert_eq!(found[14], shared(77, sector(0), sector(5)));

    let none = image.check_with(&CheckOptions { most_findings: 0, ..options });
    assert_eq!(faults(&none), []);
    assert!(none.findings.counts().eq(counts));
    assert_eq!(none.verdict(), Verdict::Problems);
}

/// The second pass over the map is short if the owners are found early, and is reported.
#[test]
fn progress_grows_with_the_second_pass() {
    let image = Image::fresh();
    image.set_map(9, MapEntry::data(Block(5)));
    let mut told = Vec::new();
    let options = CheckOptions::default();
    check(&image.shared(true), &options, &mut |done, total| {
        told.push((done, total));
    });
    let (one, other) = (told[0].1, told[told.len() - 1].1);
    assert_eq!(other - one, u64::from(image.geometry.external_nlba) * 4);
    assert!(told.iter().all(|(done, total)| done <= total));
    assert_eq!(told[told.len() - 1].0, other);
}

#[test]
fn every_finding_is_one_line_that_names_its_arena() {
    let image = Image::of_arenas(4096, Version::V1_1, 2 * SIZE + PAGE, SIZE);
    let second = Image { start: image.start + SIZE, ..image.clone() };
    second.set_map(9, MapEntry::data(Block(u32::MAX >> 2)));
    let report = image.check();
    let offset = second.map_offset(9);
    assert_eq!(
        lines(&report),
        [
            format!(
                "arena 1: LBA 9 is mapped to block 1073741823, of {} (map entry at {offset:#x})",
                image.geometry.internal_nlba
            ),
            "arena 1: block 9 belongs to no sector and no lane".to_owned(),
        ]
    );
}
