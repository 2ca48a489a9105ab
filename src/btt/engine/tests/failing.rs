//! Media that fail: bytes that cannot be read or stored, lost lanes, full file systems, failed syncs.

use super::*;

#[test]
fn a_sector_that_cannot_be_read_is_marked_and_cleared_by_a_write() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    write(&mut queue, 0, &[1; 1024]).unwrap();
    poison(&btt, 1);
    assert!(matches!(read(&mut queue, 0, 2), Err(Error::Media(_))));
    assert_eq!(read(&mut queue, 0, 1).unwrap(), [1; 512]);
    assert_eq!(read(&mut queue, 1, 1), Err(Error::SectorError { sector: 1 }));

    // The mark is on the medium: without the poison, a new process still refuses.
    let (_, mut again) = open(Simulated::of(btt.medium.snapshot()));
    assert_eq!(read(&mut again, 1, 1), Err(Error::SectorError { sector: 1 }));

    write(&mut queue, 1, &[2; 512]).unwrap();
    assert_eq!(read(&mut queue, 1, 1).unwrap(), [2; 512]);
    // The poisoned block goes round through its lane and is cleared before it holds data again.
    for generation in 0..600u32 {
        write(&mut queue, 3, &[generation as u8; 512]).unwrap();
        assert_eq!(read(&mut queue, 3, 1).unwrap(), [generation as u8; 512]);
    }
}

#[test]
fn poison_under_a_freed_block_is_remembered_across_reopening() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    write(&mut queue, 1, &[1; 512]).unwrap();
    poison(&btt, 1);
    read(&mut queue, 1, 1).unwrap_err();
    write(&mut queue, 1, &[2; 512]).unwrap();
    let (_, lanes) = lanes(&btt.medium, 0, &find(&btt.medium, None).unwrap()[0]).unwrap();
    let with_error: Vec<LaneIndex> = lanes
        .iter()
        .filter(|state| has_error_flag(state.newest.old_map))
        .map(|state| state.lane)
        .collect();
    assert_eq!(with_error.len(), 1);
}

#[test]
fn trimming_an_unreadable_sector_writes_it() {
    let (btt, mut queue) = open(new_medium(4096, Version::V1_1));
    write(&mut queue, 0, &[1; 3 * 4096]).unwrap();
    poison(&btt, 1);
    read(&mut queue, 1, 1).unwrap_err();
    let mut batch = queue.batch();
    batch.trim(0, 3, NeverWritten::Leave, 0).unwrap();
    batch.commit();
    drop(batch);
    assert!(read(&mut queue, 0, 3).unwrap().iter().all(|&byte| byte == 0));
    let entry = btt.arenas[0].load_entry(&btt.medium, Lba(1)).unwrap();
    assert!(matches!(entry.mapped(), crate::btt::format::map::Mapped::Data(_)));
}

#[test]
fn part_of_an_unreadable_sector_cannot_be_written() {
    let (btt, mut queue) = open(new_medium(4096, Version::V1_1));
    write(&mut queue, 7, &[1; 4096]).unwrap();
    poison(&btt, 7);
    assert!(matches!(write_part(&mut queue, 7, 0, &[2; 512]), Err(Error::Media(_))));
    let again = write_part(&mut queue, 7, 0, &[2; 512]);
    assert_eq!(again, Err(Error::SectorError { sector: 7 }));
    write(&mut queue, 7, &[3; 4096]).unwrap();
    write_part(&mut queue, 7, 0, &[2; 512]).unwrap();
    assert_eq!(read(&mut queue, 7, 1).unwrap()[..1024], [[2; 512], [3; 512]].concat());
}

#[test]
fn data_that_cannot_be_stored_fail_their_request_alone() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    write(&mut queue, 0, &[1; 512 * 4]).unwrap();
    // The free blocks of the lanes that come next; the fifth and the sixth.
    let free = btt.lanes(0).arenas[0].lane(5).free;
    let offset = btt.arenas[0].block_offset(free);
    btt.medium.fill_up(offset..offset + 512);
    let mut results = Vec::new();
    for sector in 0..6u8 {
        results.push(write(&mut queue, sector.into(), &[sector + 10; 512]).is_ok());
    }
    assert_eq!(results, [true, false, true, true, true, true]);
    assert_eq!(read(&mut queue, 1, 1).unwrap(), [1; 512], "as it was");
    assert_eq!(read(&mut queue, 2, 1).unwrap(), [12; 512]);
}

#[test]
fn a_lane_whose_flog_is_lost_is_given_up_and_the_others_go_on() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    write(&mut queue, 0, &[1; 512]).unwrap();
    let flog = flog_of(&btt, 1..2);
    btt.medium.fill_up(flog.clone());
    btt.medium.poison(flog);
    assert!(matches!(write(&mut queue, 0, &[2; 512]), Err(Error::Media(_))));
    assert_eq!(read(&mut queue, 0, 1).unwrap(), [1; 512], "as it was");
    // Once round all lanes.
    for generation in 0..600u32 {
        write(&mut queue, 0, &[generation as u8; 512]).unwrap();
    }
    assert!(!btt.is_read_only());
    drop((btt, queue));
}

#[test]
fn without_a_lane_left_nothing_is_written_and_all_is_read() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    write(&mut queue, 0, &[1; 512]).unwrap();
    let flog = flog_of(&btt, 0..256);
    btt.medium.fill_up(flog.clone());
    btt.medium.poison(flog);
    let failures = (0..300).map(|_| write(&mut queue, 0, &[2; 512]).unwrap_err());
    let last = failures.last();
    assert_eq!(last, Some(Error::NoLane { arena: 0 }));
    assert_eq!(read(&mut queue, 0, 1).unwrap(), [1; 512]);
}

/// The file system may have copied on write, and need space for what it had space for already.
#[test]
fn a_full_file_system_fails_writes_until_there_is_space_again() {
    for what in ["data", "map", "flog"] {
        let (btt, mut queue) = open(new_medium(4096, Version::V1_1));
        write(&mut queue, 0, &[1; 4096]).unwrap();
        let geometry = &btt.infos().next().unwrap().geometry;
        let start = btt.arenas[0].start;
        let (from, to) = match what {
            "data" => (geometry.dataoff, geometry.mapoff),
            "map" => (geometry.mapoff, geometry.logoff),
            _ => (geometry.logoff, geometry.info2off),
        };
        btt.medium.fill_up(start + from..start + to);
        for sector in 0..600 {
            let sector = sector % 300;
            assert!(
                matches!(write(&mut queue, sector, &[2; 4096]), Err(Error::Media(_))),
                "{what}"
            );
        }
        assert!(matches!(write_part(&mut queue, 0, 0, &[2]), Err(Error::Media(_))), "{what}");
        assert_eq!(read(&mut queue, 0, 1).unwrap(), [1; 4096], "as it was");
        btt.medium.make_room();
        for sector in 0..600 {
            let sector = sector % 300;
            write(&mut queue, sector, &[3; 4096]).unwrap();
        }
        assert_eq!(read(&mut queue, 0, 1).unwrap(), [3; 4096]);
        assert!(!btt.infos().next().unwrap().error);
        let (_, mut queue) = open(Simulated::of(btt.medium.snapshot()));
        write(&mut queue, 0, &[4; 4096]).unwrap();
    }
}

#[test]
fn after_a_failed_sync_the_disk_is_only_read_until_it_is_opened_again() {
    let (btt, mut queue) = open(new_medium(4096, Version::V1_1));
    write(&mut queue, 0, &[1; 4096]).unwrap();
    btt.medium.fail_next_sync();
    write(&mut queue, 1, &[1; 4096]).unwrap();
    let failure = btt.sync().unwrap_err();
    let before = btt.medium.contents();
    for sector in 0..300 {
        assert_eq!(write(&mut queue, sector, &[2; 4096]), Err(Error::Media(failure)));
        let part = write_part(&mut queue, sector, 0, &[2; 512]);
        assert_eq!(part, Err(Error::Media(failure)));
        let trim = queue.batch().trim(sector, 1, NeverWritten::Zero, 0);
        assert_eq!(trim, Err(Error::Media(failure)));
    }
    assert_eq!(btt.sync(), Err(failure));
    assert_eq!(read(&mut queue, 0, 2).unwrap(), [1; 8192]);
    // Not even free blocks are filled: they may not be free by what is on the storage device.
    assert!(btt.medium.contents() == before, "the medium was stored to");

    let (btt, mut queue) = open(close(btt, queue));
    assert_eq!(read(&mut queue, 0, 2).unwrap(), [1; 8192]);
    write(&mut queue, 1, &[2; 4096]).unwrap();
    btt.sync().unwrap();
}

/// A BTT of two arenas, with sector 5 of the first and the first of the second written; the number of
/// the latter; and where the map entry of the former is.
fn two_arenas() -> (Arc<Btt<Simulated>>, Queue<Simulated>, u64, std::ops::Range<u64>) {
    let medium = Simulated::new(2 * SIZE);
    create(&medium, &options(512, Version::V1_1, SIZE), |_, _| {}).unwrap();
    let (btt, mut queue) = open(medium);
    let second = u64::from(btt.infos().next().unwrap().geometry.external_nlba);
    write(&mut queue, 5, &[1; 512]).unwrap();
    write(&mut queue, second, &[1; 512]).unwrap();
    let entry = btt.arenas[0].start + btt.arenas[0].info.geometry.map_entry_offset(Lba(5));
    (btt, queue, second, entry..entry + 4)
}

#[test]
fn a_write_that_is_committed_and_cannot_be_mapped_makes_its_arena_read_only() {
    for fault in [Fault::Full, Fault::Poison] {
        let (btt, mut queue, second, entry) = two_arenas();
        btt.medium.fail_after_touch(entry, fault);
        assert!(matches!(write(&mut queue, 5, &[2; 512]), Err(Error::Media(_))));
        assert_eq!(write(&mut queue, 6, &[2; 512]), Err(Error::ArenaReadOnly { arena: 0 }));
        assert_eq!(write_part(&mut queue, 6, 0, &[2]), Err(Error::ArenaReadOnly { arena: 0 }));
        assert_eq!(read(&mut queue, 5, 1).is_ok(), fault == Fault::Full);
        assert!(!btt.is_read_only(), "the other arena is not concerned");
        write(&mut queue, second, &[2; 512]).unwrap();

        // The next opening sees the write completed. If the medium is bad, either info block says so.
        let info = btt.arenas[0].info;
        let failed = fault == Fault::Poison;
        for offset in [4096, 4096 + info.geometry.info2off] {
            let kept = InfoBlock::read(&btt.medium, offset, Version::V1_1, 2 * SIZE - 4096);
            assert_eq!(kept, Ok(InfoBlock { error: failed, ..info }));
        }
        let (_, mut queue) = open(Simulated::of(btt.medium.snapshot()));
        assert_eq!(read(&mut queue, 5, 1).unwrap(), [2; 512]);
        let refused = Err(Error::ArenaReadOnly { arena: 0 });
        assert_eq!(write(&mut queue, 6, &[2; 512]), if failed { refused } else { Ok(()) });
        write(&mut queue, second, &[3; 512]).unwrap();
    }
}

#[test]
fn a_request_fails_as_a_whole_and_its_neighbours_do_not() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    let entry = btt.arenas[0].start + btt.arenas[0].info.geometry.map_entry_offset(Lba(20));
    // A map entry that cannot be read: the write of its sector is not logged.
    btt.medium.poison(entry..entry + 4);
    let mut data = [7; 512 * 8];
    let mut batch = queue.batch();
    for (tag, first) in [(0, 0), (1, 16), (2, 40)] {
        batch.write(first, &VolatileSlice::from(&mut data[..]), tag).unwrap();
    }
    batch.commit();
    let mut failed: Vec<usize> = batch.take_failures().map(|(tag, _)| tag).collect();
    failed.dedup();
    assert_eq!(failed, [1]);
    drop(batch);
    assert_eq!(read(&mut queue, 40, 8).unwrap(), [7; 512 * 8]);
}
