//! Images that were cut off in the middle of writes.

use super::*;

/// The image after `image` was written to, but without what `image` has in the bytes of `lost`.
fn without(image: &Image, written: &Image, lost: std::ops::Range<u64>) -> Image {
    let (before, mut after) = (image.medium.contents(), written.medium.contents());
    let lost = lost.start as usize..lost.end as usize;
    after[lost.clone()].copy_from_slice(&before[lost]);
    Image::of(&Contents::from(&after[..]), image.start)
}

fn map_range(image: &Image) -> std::ops::Range<u64> {
    image.map_offset(0)..image.lane_offset(0)
}

#[test]
fn writes_whose_map_entries_are_missing_are_pending_and_no_fault() {
    for version in Version::ALL {
        let image = Image::new(512, version);
        let mut queue = image.open();
        (0..600).for_each(|sector| write(&mut queue, sector % 20, 1));
        drop(queue);

        let written = image.copy();
        let mut data = vec![0x55; 3 * 512];
        let mut queue = written.open();
        let mut batch = queue.batch();
        batch.write(7, &VolatileSlice::from(&mut data[..]), 0).unwrap();
        batch.commit();
        drop(batch);
        drop(queue);
        assert_eq!(written.check().pending_count(), 0);

        let crashed = without(&image, &written, map_range(&image));
        let report = crashed.check();
        assert_eq!(faults(&report), []);
        assert_clean(&report);
        assert_eq!(report.arenas[0].lanes.pending, 3);
        assert_eq!(report.pending.len(), 3);
        for (write, lba) in report.pending.iter().zip(7..) {
            assert_eq!((write.arena, write.lba), (0, Lba(lba)));
            assert_eq!(write.old, image.map(lba).block(Lba(lba)));
            assert_eq!(write.new, written.map(lba).block(Lba(lba)));
        }

        // The engine does what the checker said.
        let before = report;
        let mut queue = crashed.open();
        (7..10).for_each(|sector| assert_eq!(read(&mut queue, sector), Ok(vec![0x55; 512])));
        let report = crashed.check();
        assert_eq!(report.pending_count(), 0);
        assert_eq!(report.arenas[0].map, before.arenas[0].map);
        assert_eq!(faults(&report), []);
        assert!(crashed.medium.snapshot() == written.medium.snapshot());

        // I9: there is nothing more to do.
        drop(crashed.open());
        assert!(crashed.medium.snapshot() == written.medium.snapshot());
    }
}

#[test]
fn a_flog_entry_cut_off_between_its_halves_was_not_made() {
    let image = Image::fresh();
    let mut queue = image.open();
    for round in 0..4 {
        let before = image.copy();
        write(&mut queue, 9, round);
        let lane = (0..256)
            .flat_map(|lane| [0, 16].map(|slot| image.lane_offset(lane) + slot))
            .find(|&slot| before.medium.load_u64(slot + 8) != image.medium.load_u64(slot + 8))
            .unwrap();
        let mut crashed = without(&before, &image, map_range(&image));
        crashed = without(&before, &crashed, lane + 8..lane + 16);
        let report = crashed.check();
        assert_eq!(faults(&report), [], "round {round}");
        assert_eq!(report.pending_count(), 0);
        drop(crashed.open());
        assert_eq!(faults(&crashed.check()), []);
    }
}

/// A never-written sector becomes one with data where the whole page of the map is zero otherwise.
#[test]
fn a_first_write_is_pending_in_an_empty_map() {
    let image = Image::fresh();
    image.wrote(3, 1500);
    image.set_map(1500, MapEntry(0));
    let report = image.check();
    assert_eq!(faults(&report), []);
    let map = report.arenas[0].map;
    assert_eq!((map.data, report.pending_count()), (1, 1));
    assert_eq!(map.never_written, u64::from(image.geometry.external_nlba) - 1);
    assert_eq!(
        report.pending,
        [PendingWrite {
            arena: 0,
            lane: LaneIndex(3),
            lba: Lba(1500),
            old: Block(1500),
            new: Block(image.free() + 3),
        }]
    );
}

/// A trimmed or lost sector is written: its flag goes with the replay.
#[test]
fn flags_do_not_hide_a_pending_write() {
    for entry in [MapEntry::zero, MapEntry::error] {
        let image = Image::fresh();
        image.wrote(3, 9);
        image.set_map(9, entry(Block(9)));
        let report = image.check();
        assert_eq!(faults(&report), []);
        assert_eq!((report.pending_count(), report.arenas[0].map.data), (1, 1));
    }
}

/// A trim after the write is no reason to write again.
#[test]
fn flags_do_not_make_a_write_pending() {
    for entry in [MapEntry::zero, MapEntry::error] {
        let image = Image::fresh();
        image.wrote(3, 9);
        image.set_map(9, entry(Block(image.free() + 3)));
        let report = image.check();
        assert_clean(&report);
        assert_eq!(report.pending_count(), 0);
        assert_eq!(report.arenas[0].lanes.applied, 1);
    }
}

#[test]
fn a_lane_pending_behind_another_is_degraded_and_replayed_after_it() {
    // The lane to be replayed first comes second.
    let image = Image::fresh();
    let free = image.free();
    image.set_entry(4, 1, [9, 9, free + 4, 2]);
    image.set_entry(1, 1, [9, free + 4, free + 1, 2]);
    let report = image.check();
    let (lba, first, second) = (Lba(9), LaneIndex(4), LaneIndex(1));
    assert_only(&report, Fault::PendingBehind { lba, first, second });
    assert_eq!(report.verdict(), Verdict::Problems);
    let order: Vec<LaneIndex> = report.pending.iter().map(|write| write.lane).collect();
    assert_eq!(order, [first, second]);
    assert_eq!(report.arenas[0].lanes.pending, 2);

    // Which is what the engine does.
    drop(image.open());
    assert_eq!(image.map(9), MapEntry::data(Block(free + 1)));
    assert_eq!(faults(&image.check()), []);
}

#[test]
fn two_lanes_pending_for_one_sector_are_damage() {
    let image = Image::fresh();
    let free = image.free();
    image.set_entry(4, 1, [9, 9, free + 4, 2]);
    image.set_entry(1, 1, [9, 9, free + 1, 2]);
    let report = image.check();
    let (lba, first, second) = (Lba(9), LaneIndex(1), LaneIndex(4));
    let (block, both) = (Block(9), [first, second].map(Owner::Lane));
    assert_eq!(
        faults(&report),
        [
            Fault::PendingTwice { lba, first, second },
            Fault::BlockShared { block, first: both[0], second: both[1] },
            Fault::BlockMissing { block: Block(free + 4) },
        ]
    );
    let lanes = report.arenas[0].lanes;
    assert_eq!((lanes.pending, lanes.undecided), (1, 1));
    assert!(image.try_open().is_err());
}

#[test]
fn writes_that_chase_each_other_are_found_out() {
    for length in [2, 3, 200] {
        let image = Image::fresh();
        let free = image.free();
        image.set_map(9, MapEntry::data(Block(free)));
        for lane in 0..length {
            image.set_entry(lane, 1, [9, free + lane, free + (lane + 1) % length, 2]);
        }
        let report = image.check();
        let (lba, lane) = (Lba(9), LaneIndex(0));
        assert!(faults(&report).contains(&Fault::ReplayEndless { lba, lane }));
        assert_eq!(report.pending_count(), 0, "nothing can be replayed");
        assert_eq!(report.arenas[0].lanes.undecided, length);
        assert_eq!(report.findings.count(Kind::ReplayUnstable), 0);
        assert!(image.try_open().is_err());
    }
}

/// A lane with two lanes behind it, one of which leads back.
#[test]
fn lanes_in_doubt_are_counted_once() {
    let image = Image::fresh();
    let free = image.free();
    image.set_entry(1, 1, [9, 9, free + 1, 2]);
    image.set_entry(2, 1, [9, free + 1, free + 2, 2]);
    image.set_entry(3, 1, [9, free + 1, 9, 2]);
    let report = image.check();
    let lanes = report.arenas[0].lanes;
    assert_eq!(lanes.applied + lanes.superseded, 0);
    assert_eq!((lanes.pending, lanes.undecided), (2, 1));
    let (lba, lanes) = (Lba(9), [2, 3].map(LaneIndex));
    let (first, second) = (lanes[0], lanes[1]);
    assert!(faults(&report).contains(&Fault::PendingTwice { lba, first, second }));
}

#[test]
fn more_pending_writes_than_are_listed_are_counted() {
    let image = Image::fresh();
    for lane in 0..50 {
        image.set_entry(lane, 1, [lane, lane, image.free() + lane, 2]);
    }
    let report = image.check_with(&CheckOptions { most_findings: 10, ..CheckOptions::default() });
    assert_eq!((report.pending.len(), report.pending_count()), (10, 50));
    assert_clean(&report);
}

#[test]
fn a_medium_that_changes_under_the_check_is_found_out() {
    /// A medium on which a sector is mapped back as soon as its entry was read.
    struct Restless(Image);
    impl PersistentMemory for Restless {
        fn size(&self) -> u64 {
            self.0.medium.size()
        }
        fn durability(&self) -> Durability {
            unreachable!("the check only reads bytes")
        }
        fn load_u32(&self, _: u64) -> Result<u32, MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn load_u64(&self, _: u64) -> Result<u64, MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn store_u32(&self, _: u64, _: u32) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn store_u64(&self, _: u64, _: u64) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
            self.0.medium.read(offset, into)?;
            if offset == self.0.map_offset(9) && into.len() == 4 {
                self.0.set_map(9, MapEntry(0));
            }
            Ok(())
        }
        fn write(&self, _: u64, _: &VolatileSlice<'_>) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn flush(&self, _: u64, _: u64) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn fence(&self) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn zero(&self, _: u64, _: u64) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
        fn sync(&self) -> Result<(), MediaError> {
            unreachable!("the check only reads bytes")
        }
    }
    let image = Image::fresh();
    image.wrote(3, 9);
    let report = check(&Restless(image), &CheckOptions::default(), &mut |_, _| {});
    let (lba, lane) = (Lba(9), LaneIndex(3));
    assert!(faults(&report).contains(&Fault::ReplayUnstable { lba, lane }));
}
