//! Images with nothing wrong.

use super::*;
use crate::btt::NeverWritten;
use crate::btt::format::flog::LogLayout;

#[test]
fn fresh_images_of_all_kinds_are_clean() {
    for version in Version::ALL {
        for lba_size in LbaSize::ALL {
            for size in [SIZE, 2 * SIZE + PAGE] {
                let image = Image::of_arenas(lba_size.external(), version, size, SIZE);
                let report = image.check();
                assert_eq!(faults(&report), [], "{version} {lba_size}");
                assert_eq!(report.verdict(), Verdict::Clean);
                assert_eq!(report.arenas.len() as u64, size / SIZE);
                for arena in &report.arenas {
                    let nlba = u64::from(arena.info.geometry.external_nlba);
                    assert_eq!(arena.lanes.pristine, 256);
                    assert_eq!(arena.map.never_written, nlba);
                    assert_eq!(arena.layout, LogLayout::Standard);
                    assert_eq!((arena.primary, arena.backup), (Ok(arena.info), Ok(arena.info)));
                }
                assert_eq!(report.arenas[0].info, image.info());
                assert_eq!(report.pending_count(), 0);
            }
        }
    }
}

#[test]
fn an_image_that_was_written_trimmed_and_lost_sectors_is_clean() {
    for (version, lbasize) in [(Version::V1_1, 4096), (Version::V2_0, 528)] {
        let image = Image::of_arenas(lbasize, version, 2 * SIZE + PAGE, SIZE);
        let mut queue = image.open();
        let sectors = queue.btt().sectors();
        for round in 0..7 {
            for index in 0..200 {
                write(&mut queue, (index * 37 * (round + 1)) % sectors, round as u8);
            }
        }
        queue.batch().trim(100, 900, NeverWritten::Zero, 0).unwrap();
        queue.batch().trim(sectors - 50, 50, NeverWritten::Leave, 0).unwrap();
        let mut part = [7; 100];
        let mut batch = queue.batch();
        let part = VolatileSlice::from(&mut part[..]);
        for sector in [0, 37, 150, sectors - 1] {
            batch.write_part(sector, 12, &part, 0).unwrap();
        }
        batch.commit();
        drop(batch);

        // A sector whose block is poisoned is marked when it is read.
        write(&mut queue, 5, 5);
        let block = image.map(5).block(Lba(5));
        let offset = image.start + image.geometry.block_offset(block);
        image.medium.poison(offset..offset + 1);
        read(&mut queue, 5).unwrap_err();
        drop(queue);

        let report = image.check();
        assert_eq!(faults(&report), [Fault::SectorError { lba: Lba(5), block }], "a note");
        assert_clean(&report);
        assert_eq!(report.pending_count(), 0);
        assert_eq!(report.arenas[0].map.error, 1);
        assert!(report.arenas[0].map.zero >= 890);
        assert!(report.arenas.iter().all(|arena| arena.map.data > 100));
        assert!(report.arenas.iter().all(|arena| arena.lanes.applied > 0));

        // The mark is cleared by a write, and is left in the lane's old_map.
        write(&mut image.open(), 5, 6);
        let report = image.check();
        assert_eq!(faults(&report), []);
        assert_eq!(report.arenas[0].map.error, 0);
    }
}

#[test]
fn a_lane_whose_sector_was_written_again_is_superseded() {
    let image = Image::fresh();
    image.wrote(0, 9);
    let (old, new) = (image.free(), image.free() + 1);
    image.set_entry(1, 1, [9, old, new, 2]);
    image.set_map(9, MapEntry::data(Block(new)));
    let report = image.check();
    assert_eq!(faults(&report), []);
    let lanes = report.arenas[0].lanes;
    assert_eq!((lanes.superseded, lanes.applied), (1, 1));
    assert_eq!((lanes.pristine, lanes.pending), (254, 0));
}

#[test]
fn entries_in_the_places_of_the_old_layout_are_understood() {
    let image = Image::fresh();
    for lane in 0..3 {
        image.set_entry(lane, 2, [lane, lane, image.free() + lane, 2]);
        image.set_map(lane, MapEntry::data(Block(image.free() + lane)));
    }
    let report = image.check();
    assert_eq!(faults(&report), []);
    assert_eq!(report.arenas[0].layout, LogLayout::Old);
    assert_eq!(report.arenas[0].lanes.applied, 3);
}

/// PMDK and Windows store map entries with their flags, Linux the error flag in `old_map`.
#[test]
fn flags_in_flog_entries_do_not_matter() {
    let image = Image::fresh();
    let (flags, error) = (3 << 30, 1 << 30);
    let free = image.free();
    image.set_entry(0, 0, [0, free | flags, free | flags, 1]);
    image.set_entry(1, 1, [9, 9 | error, (free + 1) | flags, 2]);
    image.set_map(9, MapEntry::data(Block(free + 1)));
    let report = image.check();
    assert_eq!(faults(&report), []);
    assert_eq!(report.arenas[0].lanes.applied, 1);
}

/// As `ndctl check-namespace --rewrite-log` leaves them.
#[test]
fn an_unused_lane_may_have_any_block() {
    let image = Image::fresh();
    image.wrote(0, 9);
    image.set_entry(0, 0, [0, 9, 9, 1]);
    image.set_entry(0, 1, [0; 4]);
    assert_eq!(faults(&image.check()), []);
}

#[test]
fn an_error_flag_is_noted() {
    let image = Image::fresh();
    image.change_infos(|info| info.error = true);
    let report = image.check();
    assert_only(&report, Fault::ArenaError);
    assert_clean(&report);
    assert!(report.arenas[0].info.error);
}

#[test]
fn a_block_number_without_flags_is_noted() {
    let image = Image::fresh();
    image.set_map(9, MapEntry(70));
    let report = image.check();
    let offset = image.map_offset(9);
    let (lba, entry) = (Lba(9), 70);
    assert_only(&report, Fault::MapFlags { lba, entry, offset });
    assert_clean(&report);
}

#[test]
fn progress_counts_the_bytes_of_flogs_and_maps() {
    let image = Image::of_arenas(512, Version::V1_1, 2 * SIZE + PAGE, SIZE);
    let mut told = Vec::new();
    let options = CheckOptions::default();
    let report = check(&image.shared(true), &options, &mut |done, total| {
        told.push((done, total));
    });
    let bytes = |arena: &ArenaReport| {
        let geometry = arena.info.geometry;
        u64::from(geometry.nfree) * 64 + u64::from(geometry.external_nlba) * 4
    };
    let total = report.arenas.iter().map(bytes).sum();
    assert_eq!(told.last(), Some(&(total, total)));
    assert!(told.iter().all(|&(_, of)| of == total));
    assert!(told.is_sorted());
}
