//! Writes that are all or nothing.

use super::*;
use crate::btt::check::{CheckOptions, Verdict, check};
use crate::btt::format::record::{self, Record};
use crate::btt::largest_group;

const SECTOR: usize = 512;

fn open_with(medium: Simulated, queues: usize) -> (Arc<Btt<Simulated>>, Queue<Simulated>) {
    let options = OpenOptions { queues, atomic: 64 << 10, ..OPEN };
    let (btt, mut queues) = Btt::open(medium, &options).unwrap();
    (btt, queues.remove(0))
}

fn new(queues: usize) -> (Arc<Btt<Simulated>>, Queue<Simulated>) {
    open_with(new_medium(512, Version::V1_1), queues)
}

/// The record of set 0 in the first arena.
fn record(btt: &Btt<Simulated>) -> Option<Record> {
    record_of(btt, 0)
}

fn record_of(btt: &Btt<Simulated>, arena: usize) -> Option<Record> {
    let arena = &btt.arenas[arena];
    let mut line = [0; 64];
    let offset = arena.start + arena.info.geometry.record_offset(0);
    btt.medium.read_bytes(offset, &mut line).unwrap();
    Record::decode(&line, record::magic(arena.info.uuid))
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; 8 * SECTOR]
}

/// Opens again what is on the medium, and finds no fault with it.
fn again(btt: &Btt<Simulated>) -> (Arc<Btt<Simulated>>, Queue<Simulated>) {
    let (btt, queue) = open_with(Simulated::of(btt.medium.snapshot()), 3);
    let report = check(&btt.medium, &CheckOptions::default(), &mut |_, _| {});
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!(record(&btt), None, "opening clears it");
    (btt, queue)
}

#[test]
fn a_record_is_there_from_a_group_on_until_the_next_round() {
    let (btt, mut queue) = new(4);
    assert_eq!(btt.atomic_size(), 64 * 512);
    write(&mut queue, 8, &page(1)).unwrap();
    let found = record(&btt).unwrap();
    assert_eq!((found.sets, found.set, found.first, found.count), (4, 0, 0, 8));
    assert_eq!(found.groups(256)[0].len(), 8);
    write(&mut queue, 16, &page(2)).unwrap();
    assert_eq!(record(&btt).unwrap().first, 8);
    write(&mut queue, 3, &[3; SECTOR]).unwrap();
    assert_eq!(record(&btt), None);
    write(&mut queue, 3, &page(4)).unwrap();
    write_part(&mut queue, 30, 8, &[1; 8]).unwrap();
    assert_eq!(record(&btt), None);
    let (_, mut queue) = again(&btt);
    assert_eq!(read(&mut queue, 16, 8).unwrap(), page(2));
}

#[test]
fn a_write_is_cut_at_multiples_of_the_unit_only() {
    let options = OpenOptions { atomic: 4 * 512, ..OPEN };
    let (btt, mut queues) = Btt::open(new_medium(512, Version::V1_1), &options).unwrap();
    assert_eq!(btt.atomic_size(), 4 * 512);
    let mut data = vec![7; 10 * SECTOR];
    let mut batch = queues[0].batch();
    batch.begin_write(3, 10);
    // However the data lie in memory.
    for (first, sectors) in [(3, 2), (5, 1), (6, 7)] {
        batch.write(first, &VolatileSlice::from(&mut data[..sectors * SECTOR]), 0).unwrap();
    }
    batch.commit();
    drop(batch);
    let groups = record(&btt).unwrap().groups(256);
    let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
    assert_eq!(lengths, [4, 4], "and a sector alone at either end");
}

#[test]
fn a_group_that_its_request_does_not_complete_is_not_written() {
    let (btt, mut queue) = new(1);
    let mut batch = queue.batch();
    batch.begin_write(0, 8);
    batch.write(0, &VolatileSlice::from(&mut [1; 3 * SECTOR][..]), 0).unwrap();
    batch.write(20, &VolatileSlice::from(&mut [2; SECTOR][..]), 1).unwrap();
    batch.commit();
    drop(batch);
    assert_eq!(read(&mut queue, 0, 8).unwrap(), page(0));
    assert_eq!(read(&mut queue, 20, 1).unwrap(), [2; SECTOR]);
    again(&btt);
}

#[test]
fn a_group_of_which_a_member_cannot_be_logged_is_not_written() {
    for lost in [0, 3, 7] {
        let (btt, mut queue) = new(1);
        write(&mut queue, 0, &page(1)).unwrap();
        let flog = flog_of(&btt, 8 + lost..9 + lost);
        btt.medium.fill_up(flog.clone());
        btt.medium.poison(flog);
        let mut data = [page(2), page(3)].concat();
        let mut batch = queue.batch();
        batch.begin_write(0, 8);
        batch.write(0, &VolatileSlice::from(&mut data[..8 * SECTOR]), 5).unwrap();
        batch.write(40, &VolatileSlice::from(&mut data[8 * SECTOR..]), 6).unwrap();
        batch.commit();
        let failures: Vec<(usize, Error)> = batch.take_failures().collect();
        drop(batch);
        assert!(matches!(failures[..], [(5, Error::Media(_))]), "{failures:?}");
        assert_eq!(read(&mut queue, 0, 8).unwrap(), page(1));
        assert_eq!(read(&mut queue, 40, 8).unwrap(), page(3));
        assert!(!btt.is_read_only());
        let (_, mut other) = again(&btt);
        assert_eq!(read(&mut other, 0, 8).unwrap(), page(1), "lane {lost}");
        assert_eq!(read(&mut other, 40, 8).unwrap(), page(3));
        // Without the lane, the others go round.
        for byte in 4..200 {
            write(&mut queue, 8, &page(byte)).unwrap();
        }
        let (_, mut other) = again(&btt);
        assert_eq!(read(&mut other, 8, 8).unwrap(), page(199));
    }
}

#[test]
fn a_group_that_was_taken_back_does_not_need_its_record() {
    let (btt, mut queue) = new(1);
    write(&mut queue, 0, &page(1)).unwrap();
    let flog = flog_of(&btt, 11..12);
    btt.medium.fill_up(flog.clone());
    btt.medium.poison(flog);
    assert!(write(&mut queue, 0, &page(2)).is_err());
    write(&mut queue, 60, &[3; SECTOR]).unwrap();
    assert_eq!(record(&btt), None);
    let (_, mut queue) = again(&btt);
    assert_eq!(read(&mut queue, 0, 8).unwrap(), page(1));
}

/// Between the lanes of a group there is one that is out of use: which ones belong together is told all the same.
#[test]
fn a_group_around_a_lost_lane_is_taken_back() {
    let (btt, mut queue) = new(1);
    let lost = flog_of(&btt, 11..12);
    btt.medium.fill_up(lost.clone());
    btt.medium.poison(lost);
    write(&mut queue, 8, &page(1)).unwrap();
    assert!(write(&mut queue, 8, &page(2)).is_err());
    // Through the first eight lanes again, and then through the eight from the lost one's neighbours on.
    write(&mut queue, 8, &page(3)).unwrap();
    let before = btt.medium.snapshot();
    write(&mut queue, 8, &page(4)).unwrap();
    let found = record(&btt).unwrap().groups(256);
    let lanes: Vec<u32> = found[0].iter().map(|(lane, _)| lane.0).collect();
    assert_eq!(lanes, [8, 9, 10, 12, 13, 14, 15, 16]);
    // Of all that comes after the record, only the last entry has become durable.
    let (before, left) = (Simulated::of(before), Simulated::of(btt.medium.snapshot()));
    let geometry = btt.arenas[0].info.geometry;
    let map = btt.arenas[0].start + geometry.mapoff;
    for range in [map..map + 4096, flog_of(&btt, 8..11), flog_of(&btt, 12..16)] {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        before.read_bytes(range.start, &mut bytes).unwrap();
        left.write_bytes(range.start, &bytes).unwrap();
    }
    let (_, mut queue) = open_with(left, 1);
    assert_eq!(read(&mut queue, 8, 8).unwrap(), page(3));
}

#[cfg(feature = "mutants")]
mod mutants {
    use super::*;
    use crate::btt::mutant::{Mutant, activate};

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_group_whose_first_members_stay_is_noticed() {
        activate(Some(Mutant::MembersLeft));
        a_group_that_was_taken_back_does_not_need_its_record();
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_group_that_is_logged_before_it_is_looked_up_is_noticed() {
        activate(Some(Mutant::MembersSeenLate));
        a_group_with_a_bad_map_entry_is_not_written();
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_record_that_does_not_count_lost_lanes_is_noticed() {
        activate(Some(Mutant::LostLanesUncounted));
        a_group_around_a_lost_lane_is_taken_back();
    }
}

#[test]
fn a_group_with_a_bad_map_entry_is_not_written() {
    let (btt, mut queue) = new(1);
    write(&mut queue, 0, &page(1)).unwrap();
    let offset = btt.arenas[0].start + btt.arenas[0].info.geometry.map_entry_offset(Lba(5));
    let entry = btt.medium.load_u32(offset).unwrap();
    btt.medium.store_u32(offset, 0xffff_ffff).unwrap();
    assert!(matches!(write(&mut queue, 0, &page(2)), Err(Error::BadMapEntry { .. })));
    btt.medium.store_u32(offset, entry).unwrap();
    assert_eq!(read(&mut queue, 0, 8).unwrap(), page(1));
    // The record is cleared, and nothing of the group can be taken back any more.
    write(&mut queue, 60, &[3; SECTOR]).unwrap();
    let (_, mut queue) = again(&btt);
    assert_eq!(read(&mut queue, 0, 8).unwrap(), page(1));
}

#[test]
fn a_set_that_has_lost_too_many_lanes_refuses_a_group_and_writes_sectors() {
    let (btt, mut queue) = new(24);
    assert_eq!(btt.atomic_size(), 8 * 512);
    for lane in [24, 72, 240] {
        let flog = flog_of(&btt, lane..lane + 1);
        btt.medium.fill_up(flog.clone());
        btt.medium.poison(flog);
    }
    for _ in 0..22 {
        let _ = write(&mut queue, 30, &[1; SECTOR]);
    }
    // Eleven lanes are eight now: these are enough.
    write(&mut queue, 0, &page(2)).unwrap();
    let flog = flog_of(&btt, 0..1);
    btt.medium.fill_up(flog.clone());
    btt.medium.poison(flog);
    for _ in 0..22 {
        let _ = write(&mut queue, 30, &[1; SECTOR]);
    }
    assert_eq!(write(&mut queue, 0, &page(3)), Err(Error::NoLane { arena: 0 }));
    assert_eq!(read(&mut queue, 0, 8).unwrap(), page(2));
    write(&mut queue, 0, &page(3)[..4 * SECTOR]).unwrap();
    again(&btt);
}

#[test]
fn where_a_record_cannot_be_stored_nothing_is_written() {
    let (btt, mut queue) = new(1);
    write(&mut queue, 0, &page(1)).unwrap();
    let offset = btt.arenas[0].start + btt.arenas[0].info.geometry.record_offset(0);
    btt.medium.fill_up(offset..offset + 64);
    assert!(write(&mut queue, 0, &page(2)).is_err());
    assert_eq!(read(&mut queue, 0, 8).unwrap(), page(1));
    assert!(!btt.is_read_only());
    again(&btt);
}

/// Each arena has a record of its own: what lies in both is two groups.
#[test]
fn a_group_ends_where_its_arena_does() {
    let medium = Simulated::new(2 * SIZE);
    create(&medium, &options(512, Version::V1_1, SIZE), |_, _| {}).unwrap();
    let (btt, mut queue) = open_with(medium, 1);
    let end = u64::from(btt.arenas[0].info.geometry.external_nlba);
    let unit = u64::from(btt.atomic_size()) / 512;
    let (before, after) = (end % unit, unit - end % unit);
    assert!(before > 1 && after > 1, "the end is inside a page");
    let all = unit as usize * SECTOR;
    write(&mut queue, end - before, &vec![1; all]).unwrap();
    let lengths = [0, 1].map(|arena| {
        let record = record_of(&btt, arena).unwrap();
        record.groups(256).iter().map(Vec::len).collect::<Vec<_>>()
    });
    assert_eq!(lengths, [vec![before as usize], vec![after as usize]]);

    // Of the second arena, the power failure has left all flog entries but the first, and no map entry.
    let left = Simulated::of(btt.medium.snapshot());
    let arena = &btt.arenas[1];
    let flog = arena.start + arena.info.geometry.flog_offset(LaneIndex(0));
    left.write_bytes(flog + 16, &[0; 16]).unwrap();
    let map = arena.start + arena.info.geometry.mapoff;
    left.write_bytes(map, &vec![0; 4 * after as usize]).unwrap();
    let (btt, mut queue) = again(&open_with(left, 1).0);
    assert_eq!(btt.atomic_size(), 32 << 10);
    let found = read(&mut queue, end - before, unit as usize).unwrap();
    let mut expected = vec![0; all];
    expected[..before as usize * SECTOR].fill(1);
    assert_eq!(found, expected);
}

#[test]
fn the_largest_group_follows_from_lanes_records_and_rounds() {
    let geometry = |lba_size: u32| {
        let (btt, _) = open(new_medium(lba_size, Version::V1_1));
        btt.arenas[0].info.geometry
    };
    let (small, large) = (geometry(512), geometry(4096));
    assert_eq!(largest_group(&[small], 1), 32 << 10);
    assert_eq!(largest_group(&[small], 4), 32 << 10);
    assert_eq!(largest_group(&[small], 5), 16 << 10);
    assert_eq!(largest_group(&[large], 4), 256 << 10);
    assert_eq!(largest_group(&[large], 16), 64 << 10);
    assert_eq!(largest_group(&[small], 256), 512, "there are not so many records");
    assert_eq!(largest_group(&[], 1), 0);
}
