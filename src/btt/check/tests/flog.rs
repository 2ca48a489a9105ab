//! Damage to the flog.

use super::*;
use crate::btt::format::flog::LogLayout;
use crate::btt::{Error, FlogFault, PlacesInUse};

#[test]
fn sequence_numbers_that_never_occur_together_are_damage() {
    let pairs = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (4, 3), (2, 0), (3, 0), (0, 2), (0, 3)];
    for (first, second) in pairs {
        let image = Image::fresh();
        image.wrote(0, 3);
        let free = image.free();
        image.set_entry(7, 0, [7, free + 7, free + 7, first]);
        image.set_entry(7, 1, [7, 7, free + 7, second]);
        if second == 0 {
            image.set_entry(7, 1, [0; 4]);
        }
        if first == 0 {
            image.set_entry(7, 0, [0; 4]);
        }
        let report = image.check();
        let (lane, offset) = (LaneIndex(7), image.lane_offset(7));
        assert_eq!(
            faults(&report),
            [
                Fault::LanePair { lane, offset, first, second },
                // The block that the lane had.
                Fault::BlockMissing { block: Block(free + 7) }
            ],
            "{first} {second}"
        );
        assert_eq!(report.arenas[0].lanes.undecided, 1);
        assert!(image.try_open().is_err());
    }
}

#[test]
fn a_mirrored_pair_is_as_good() {
    let image = Image::fresh();
    let free = image.free();
    image.set_map(3, MapEntry::data(Block(free)));
    image.set_map(4, MapEntry::data(Block(free + 1)));
    image.set_entry(0, 0, [3, 3, free, 2]);
    image.set_entry(0, 1, [0, free, free, 1]);
    image.set_entry(1, 0, [4, 4, free + 1, 1]);
    image.set_entry(1, 1, [9, 8, 7, 3]);
    assert_eq!(faults(&image.check()), []);
}

#[test]
fn a_stray_entry_in_one_lane_hides_nothing_of_the_others() {
    for place in [2, 3] {
        let image = Image::fresh();
        image.wrote(0, 3);
        image.wrote(1, 4);
        image.set_entry(9, place, [0, 0, 1, 0]);
        let report = image.check();
        let mut used = [true, true, false, false];
        used[place as usize] = true;
        let (places, layout) = (PlacesInUse(used), LogLayout::Standard);
        let (lane, offset) = (LaneIndex(9), image.lane_offset(9) + place * 16);
        let place = place as usize;
        assert_eq!(
            faults(&report),
            [Fault::FlogPlaces { places, layout }, Fault::LanePadding { lane, place, offset }]
        );
        assert_eq!(report.arenas[0].lanes.applied, 2);
        assert!(matches!(
            image.try_open(),
            Err(Error::BadFlog { fault: FlogFault::Places(_), .. })
        ));
    }
}

#[test]
fn the_old_layout_survives_a_stray_entry() {
    let image = Image::fresh();
    for lane in 0..3 {
        image.set_entry(lane, 2, [lane, lane, image.free() + lane, 2]);
        image.set_map(lane, MapEntry::data(Block(image.free() + lane)));
    }
    image.set_entry(9, 1, [1; 4]);
    let report = image.check();
    assert_eq!(report.arenas[0].layout, LogLayout::Old);
    let kinds: Vec<Kind> = faults(&report).iter().map(Fault::kind).collect();
    assert_eq!(kinds, [Kind::FlogPlaces, Kind::LanePadding]);
}

/// The engine has no reason to look at it.
#[test]
fn a_slot_that_was_never_written_is_zero_but_for_the_first_half_of_an_entry() {
    let image = Image::fresh();
    let entry = |lba, old_map, new_map| image.set_entry(9, 1, [lba, old_map, new_map, 0]);
    let free = image.free();
    let (lane, offset, place) = (LaneIndex(9), image.lane_offset(9) + 16, 1);
    let fault = Fault::LanePadding { lane, place, offset };
    entry(free - 1, free + 255, 0);
    assert_eq!(faults(&image.check()), []);
    for (lba, old_map, new_map) in [(0, 0, 1), (free, 0, 0), (0, free + 256, 0)] {
        entry(lba, old_map, new_map);
        assert_only(&image.check(), fault);
    }
}

#[test]
fn a_flog_of_zeroes_is_damage_to_all_lanes() {
    let image = Image::fresh();
    image.medium.zero(image.lane_offset(0), 256 * 64).unwrap();
    let report = image.check();
    assert_eq!(report.findings.count(Kind::FlogPlaces), 1);
    assert_eq!(report.findings.count(Kind::LanePair), 256);
    assert_eq!(report.findings.count(Kind::BlockMissing), 256);
    assert_eq!(report.arenas[0].lanes.undecided, 256);
    let listed = faults(&report);
    assert_eq!(listed.len(), 1 + 100 + 100);
    assert!(listed.contains(&Fault::BlockMissing { block: Block(image.free()) }));
}

#[test]
fn a_newest_entry_out_of_range_is_damage() {
    let image = Image::fresh();
    let free = image.free();
    for (lba, old, new) in [
        (free, 9, free + 7),
        (u32::MAX, 9, free + 7),
        (9, free + 256, free + 7),
        (9, 9, free + 256),
        (9, 9, (1 << 30) - 1),
    ] {
        let image = image.copy();
        image.set_entry(7, 1, [lba, old, new, 2]);
        let report = image.check();
        let (lane, offset) = (LaneIndex(7), image.lane_offset(7) + 16);
        let (lba, old, new) = (Lba(lba), Block(old), Block(new));
        let fault = Fault::LaneRange { lane, offset, lba, old, new };
        assert_eq!(faults(&report)[0], fault);
        assert_eq!(report.arenas[0].lanes.undecided, 1);
        assert!(image.try_open().is_err());

        // As the older entry, it is of no interest.
        image.set_entry(7, 0, [9, 9, free + 7, 3]);
        image.set_map(9, MapEntry::data(Block(free + 7)));
        assert_eq!(faults(&image.check()), []);
    }
}

#[test]
fn lanes_that_share_a_free_block_are_damage() {
    let image = Image::fresh();
    let free = image.free();
    for lane in [7, 8] {
        image.set_entry(lane, 0, [lane, free + 6, free + 6, 1]);
    }
    let [first, second, third] = [6, 7, 8].map(|lane| Owner::Lane(LaneIndex(lane)));
    let shared = |second| Fault::BlockShared { block: Block(free + 6), first, second };
    let missing = [7, 8].map(|index| Fault::BlockMissing { block: Block(free + index) });
    let report = image.check();
    let expected = [shared(second), shared(third), missing[0], missing[1]];
    assert_eq!(faults(&report), expected);
    assert!(image.try_open().is_err());
}

#[test]
fn a_used_lane_that_replaces_a_block_by_itself_is_degraded() {
    let image = Image::fresh();
    let free = image.free();
    for (place, pair) in [
        (1, [[7, 7, 7, 1], [7, free + 7, free + 7, 2]]),
        (0, [[7, free + 7, free + 7, 1], [7, 7, 7, 3]]),
    ] {
        let image = image.copy();
        image.set_entry(7, 0, pair[0]);
        image.set_entry(7, 1, pair[1]);
        let report = image.check();
        let (lane, offset) = (LaneIndex(7), image.lane_offset(7) + 16 * place);
        assert_only(&report, Fault::LaneIdle { lane, offset, lba: Lba(7), block: Block(free + 7) });
        assert_eq!(report.verdict(), Verdict::Problems);
    }
}

#[test]
fn poison_in_the_flog_costs_only_the_lanes_it_hits() {
    let image = Image::fresh();
    image.wrote(0, 3);
    image.wrote(20, 4);
    image.medium.poison(image.lane_offset(7)..image.lane_offset(9));
    let report = image.check();
    let lanes = [7, 8].map(|lane| Fault::LaneUnreadable {
        lane: LaneIndex(lane),
        offset: image.lane_offset(lane),
    });
    let blocks = [7, 8].map(|lane| Fault::BlockMissing { block: Block(image.free() + lane) });
    assert_eq!(faults(&report), [lanes[0], lanes[1], blocks[0], blocks[1]]);
    let lanes = report.arenas[0].lanes;
    assert_eq!((lanes.applied, lanes.undecided), (2, 2));
    assert!(image.try_open().is_err());
}

#[test]
fn a_lane_whose_sector_has_no_usable_map_entry_is_undecided() {
    let image = Image::fresh();
    image.wrote(3, 2000);
    let block = Block(image.free() + 256);
    image.set_map(2000, MapEntry::data(block));
    let fault = Fault::LaneUndecided {
        lane: LaneIndex(3),
        lba: Lba(2000),
        old: Block(2000),
        new: Block(image.free() + 3),
    };
    let report = image.check();
    assert_eq!(faults(&report)[0], fault);
    assert_eq!(report.findings.count(Kind::MapRange), 1);

    image.wrote(3, 2000);
    image.medium.poison(image.map_offset(2000)..image.map_offset(2001));
    let report = image.check();
    assert_eq!(faults(&report)[0], fault);
    assert_eq!(report.findings.count(Kind::MapUnreadable), 1);
}
