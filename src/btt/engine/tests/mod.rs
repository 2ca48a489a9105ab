//! The engine on the simulated medium, single-threaded.

mod cost;
mod failing;
mod groups;
mod killed;

use std::sync::Arc;

use uuid::Uuid;
use vm_memory::VolatileSlice;

use super::btt::Place;
use crate::btt::format::discovery;
use crate::btt::map::has_error_flag;
use crate::btt::{
    Btt, CreateOptions, Error, InfoBlock, LaneIndex, Lba, LbaSize, NeverWritten, OpenOptions,
    Queue, Version, create, find, lanes,
};
use crate::pmem::PersistentMemory;
use crate::pmem::simulated::{Fault, Simulated};

const SIZE: u64 = 17 << 20;

fn new_medium(lbasize: u32, version: Version) -> Simulated {
    let medium = Simulated::new(SIZE);
    create(&medium, &options(lbasize, version, SIZE), |_, _| {}).unwrap();
    medium
}

fn options(lbasize: u32, version: Version, arena_size: u64) -> CreateOptions {
    CreateOptions {
        lba_size: LbaSize::new(lbasize).unwrap(),
        version,
        uuid: Uuid::max(),
        parent_uuid: Uuid::nil(),
        arena_size,
    }
}

const OPEN: OpenOptions =
    OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 0 };

fn open(medium: Simulated) -> (Arc<Btt<Simulated>>, Queue<Simulated>) {
    let (btt, mut queues) = Btt::open(medium, &OPEN).unwrap();
    (btt, queues.remove(0))
}

/// The medium of a BTT that is closed by this.
fn close(btt: Arc<Btt<Simulated>>, queue: Queue<Simulated>) -> Simulated {
    drop(queue);
    Simulated::of(Arc::into_inner(btt).unwrap().medium.snapshot())
}

fn write(queue: &mut Queue<Simulated>, first: u64, data: &[u8]) -> Result<(), Error> {
    let mut data = data.to_vec();
    let mut batch = queue.batch();
    batch.write(first, &VolatileSlice::from(&mut data[..]), 0)?;
    batch.commit();
    batch.take_failures().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn write_part(
    queue: &mut Queue<Simulated>,
    sector: u64,
    offset: usize,
    data: &[u8],
) -> Result<(), Error> {
    let mut data = data.to_vec();
    let mut batch = queue.batch();
    batch.write_part(sector, offset, &VolatileSlice::from(&mut data[..]), 0)?;
    batch.commit();
    batch.take_failures().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn read(queue: &mut Queue<Simulated>, first: u64, count: usize) -> Result<Vec<u8>, Error> {
    let mut data = vec![0xee; count * queue.btt().sector_size() as usize];
    queue.batch().read(first, &VolatileSlice::from(&mut data[..]))?;
    Ok(data)
}

fn sector_of(queue: &Queue<Simulated>, byte: u8) -> Vec<u8> {
    vec![byte; queue.btt().sector_size() as usize]
}

/// Poisons the block of a sector and returns its offset.
fn poison(btt: &Btt<Simulated>, sector: u64) -> u64 {
    let Place { arena, lba, .. } = btt.locate(sector);
    let block = arena.load_entry(&btt.medium, lba).unwrap().block(lba);
    let offset = arena.block_offset(block);
    btt.medium.poison(offset..offset + 64);
    offset
}

/// Bytes of the flog that belong to `lanes` of the first arena.
fn flog_of(btt: &Btt<Simulated>, lanes: std::ops::Range<u32>) -> std::ops::Range<u64> {
    let arena = &btt.arenas[0];
    let offset = |lane| arena.start + arena.info.geometry.flog_offset(LaneIndex(lane));
    offset(lanes.start)..offset(lanes.end)
}

#[test]
fn every_sector_size_and_version_keeps_what_is_written() {
    for lba_size in LbaSize::ALL {
        for version in Version::ALL {
            let (btt, mut queue) = open(new_medium(lba_size.external(), version));
            assert_eq!(btt.sector_size(), lba_size.data());
            let last = btt.sectors() - 1;
            for (sector, byte) in [(0, 1), (1, 2), (last, 3), (1, 4)] {
                let data = sector_of(&queue, byte);
                write(&mut queue, sector, &data).unwrap();
            }
            let (btt, mut queue) = open(close(btt, queue));
            assert_eq!(btt.sectors(), last + 1);
            for (sector, byte) in [(0, 1), (1, 4), (2, 0), (last, 3)] {
                assert_eq!(read(&mut queue, sector, 1).unwrap(), sector_of(&queue, byte));
            }
        }
    }
}

#[test]
fn sectors_that_were_never_written_read_as_zeroes_whatever_the_medium_held() {
    let medium = Simulated::with_contents(&vec![0xaa; SIZE as usize]);
    create(&medium, &options(512, Version::V1_1, SIZE), |_, _| {}).unwrap();
    let (btt, mut queue) = open(medium);
    let all = read(&mut queue, 0, btt.sectors() as usize).unwrap();
    assert!(all.iter().all(|&byte| byte == 0));
}

#[test]
fn opening_and_closing_changes_nothing() {
    let (btt, mut queue) = open(new_medium(4096, Version::V2_0));
    write(&mut queue, 5, &[1; 4096]).unwrap();
    let medium = close(btt, queue);
    let before = medium.snapshot();
    let (btt, queue) = open(medium);
    assert!(close(btt, queue).snapshot() == before);
}

#[test]
fn metadata_bytes_are_written_as_zeroes() {
    let medium = Simulated::with_contents(&vec![0xaa; SIZE as usize]);
    create(&medium, &options(520, Version::V2_0, SIZE), |_, _| {}).unwrap();
    let (btt, mut queue) = open(medium);
    write(&mut queue, 0, &[1; 512]).unwrap();
    let entry = btt.arenas[0].load_entry(&btt.medium, Lba(0)).unwrap();
    let mut block = [0; 520];
    btt.medium.read_bytes(btt.arenas[0].block_offset(entry.block(Lba(0))), &mut block).unwrap();
    assert_eq!(block[..512], [1; 512]);
    assert_eq!(block[512..], [0; 8]);
}

#[test]
fn requests_longer_than_a_round_are_written_whole() {
    let (_, mut queue) = open(new_medium(512, Version::V1_1));
    let data: Vec<u8> = (0..300 * 512u32).map(|i| (i / 512 % 251) as u8).collect();
    write(&mut queue, 7, &data).unwrap();
    assert!(read(&mut queue, 7, 300).unwrap() == data);
    write(&mut queue, 7, &data).unwrap();
    assert!(read(&mut queue, 7, 300).unwrap() == data);
}

#[test]
fn writes_of_one_sector_in_one_batch_take_effect_in_order() {
    let (_, mut queue) = open(new_medium(512, Version::V1_1));
    let (mut first, mut second) = ([1; 512], [2; 512]);
    let mut batch = queue.batch();
    batch.write(9, &VolatileSlice::from(&mut first[..]), 0).unwrap();
    batch.write(9, &VolatileSlice::from(&mut second[..]), 1).unwrap();
    let mut data = [0; 512];
    batch.read(9, &VolatileSlice::from(&mut data[..])).unwrap();
    assert_eq!(data, second, "a read sees what the batch staged");
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
    drop(batch);
    assert_eq!(read(&mut queue, 9, 1).unwrap(), second);
}

#[test]
fn a_batch_dropped_before_its_commit_writes_nothing() {
    let (_, mut queue) = open(new_medium(512, Version::V1_1));
    let mut data = [1; 512];
    queue.batch().write(9, &VolatileSlice::from(&mut data[..]), 0).unwrap();
    assert_eq!(read(&mut queue, 9, 1).unwrap(), [0; 512]);
    write(&mut queue, 10, &[2; 512]).unwrap();
    assert_eq!(read(&mut queue, 9, 2).unwrap(), [[0; 512], [2; 512]].concat());
}

#[test]
fn many_rewrites_go_through_every_lane_and_survive_reopening() {
    let (mut btt, mut queue) = open(new_medium(512, Version::V1_1));
    for generation in 0..40u32 {
        for sector in 0..50 {
            let data = vec![(generation * 3 + sector) as u8; 512];
            write(&mut queue, u64::from(sector), &data).unwrap();
        }
        (btt, queue) = open(close(btt, queue));
        for sector in 0..50 {
            let expected = vec![(generation * 3 + sector) as u8; 512];
            assert_eq!(read(&mut queue, u64::from(sector), 1).unwrap(), expected);
        }
    }
}

#[test]
fn part_of_a_sector_is_replaced_and_the_rest_stays() {
    let (_, mut queue) = open(new_medium(4096, Version::V2_0));
    write_part(&mut queue, 3, 512, &[1; 512]).unwrap();
    write_part(&mut queue, 3, 1024, &[2; 1024]).unwrap();
    write_part(&mut queue, 3, 4095, &[3]).unwrap();
    let mut expected = [0; 4096];
    expected[512..1024].fill(1);
    expected[1024..2048].fill(2);
    expected[4095] = 3;
    assert_eq!(read(&mut queue, 3, 1).unwrap(), expected);
    let mut part = [0; 1024];
    queue.batch().read_part(3, 768, &VolatileSlice::from(&mut part[..])).unwrap();
    assert_eq!(part, expected[768..1792]);
    write_part(&mut queue, 3, 0, &[4; 4096]).unwrap();
    assert_eq!(read(&mut queue, 3, 1).unwrap(), [4; 4096]);
}

#[test]
fn arenas_follow_each_other_without_a_gap() {
    let medium = Simulated::new(3 * SIZE);
    create(&medium, &options(4096, Version::V1_1, SIZE), |_, _| {}).unwrap();
    let (btt, mut queue) = open(medium);
    let per_arena: Vec<u64> =
        btt.infos().map(|info| u64::from(info.geometry.external_nlba)).collect();
    assert_eq!(per_arena.len(), 3);
    assert_eq!(btt.sectors(), per_arena.iter().sum::<u64>());
    let boundary = per_arena[0];
    let data: Vec<u8> = (0..8u8).flat_map(|sector| [sector + 1; 4096]).collect();
    write(&mut queue, boundary - 4, &data).unwrap();
    let last = btt.sectors() - 1;
    write(&mut queue, last, &[9; 4096]).unwrap();
    let (_, mut queue) = open(close(btt, queue));
    assert!(read(&mut queue, boundary - 4, 8).unwrap() == data);
    assert_eq!(read(&mut queue, last, 1).unwrap(), [9; 4096]);
}

#[test]
fn sectors_beyond_the_end_are_refused() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    let end = btt.sectors();
    for (first, count) in [(end, 1), (end - 1, 2), (u64::MAX, 1)] {
        let data = vec![0; count * 512];
        assert!(matches!(write(&mut queue, first, &data), Err(Error::OutOfRange { .. })));
        assert!(matches!(read(&mut queue, first, count), Err(Error::OutOfRange { .. })));
        let trimmed = queue.batch().trim(first, count as u64, NeverWritten::Leave, 0);
        assert!(matches!(trimmed, Err(Error::OutOfRange { .. })));
    }
    assert!(matches!(write(&mut queue, 0, &[0; 100]), Err(Error::BadLength { .. })));
    assert!(matches!(write_part(&mut queue, 0, 500, &[0; 13]), Err(Error::BadLength { .. })));
}

#[test]
fn trimmed_sectors_read_as_zeroes_and_can_be_written_again() {
    for never_written in [NeverWritten::Leave, NeverWritten::Zero] {
        let (btt, mut queue) = open(new_medium(512, Version::V2_0));
        write(&mut queue, 0, &vec![1; 512 * 100]).unwrap();
        queue.batch().trim(10, 200, never_written, 0).unwrap();
        let (btt, mut queue) = open(close(btt, queue));
        assert_eq!(read(&mut queue, 0, 10).unwrap(), [1; 5120]);
        assert!(read(&mut queue, 10, 200).unwrap().iter().all(|&byte| byte == 0));
        let flagged = btt.arenas[0].load_entry(&btt.medium, Lba(150)).unwrap().0 != 0;
        assert_eq!(flagged, never_written == NeverWritten::Zero);
        write(&mut queue, 20, &[2; 512]).unwrap();
        assert_eq!(read(&mut queue, 20, 1).unwrap(), [2; 512]);
    }
}

#[test]
fn zeroes_can_be_written_as_data() {
    let (btt, mut queue) = open(new_medium(512, Version::V2_0));
    write(&mut queue, 0, &vec![1; 512 * 100]).unwrap();
    let mut batch = queue.batch();
    batch.write_zeroes(10, 80, 0).unwrap();
    batch.commit();
    drop(batch);
    assert!(read(&mut queue, 10, 80).unwrap().iter().all(|&byte| byte == 0));
    assert_eq!(read(&mut queue, 90, 10).unwrap(), [1; 5120]);
    let entry = btt.arenas[0].load_entry(&btt.medium, Lba(50)).unwrap();
    assert!(matches!(entry.mapped(), crate::btt::format::map::Mapped::Data(_)));
}

/// A medium on which lane 0 has committed a write of sector 5 that is not in the map.
fn interrupted() -> Simulated {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    write(&mut queue, 5, &[5; 512]).unwrap();
    let medium = close(btt, queue);
    let geometry = discovery::find(&medium, None).unwrap()[0].info.geometry;
    medium.store_u32(4096 + geometry.map_entry_offset(Lba(5)), 0).unwrap();
    medium
}

#[test]
fn an_interrupted_write_is_completed_once() {
    let (btt, mut queue) = open(interrupted());
    assert_eq!(read(&mut queue, 5, 1).unwrap(), [5; 512]);
    let medium = close(btt, queue);
    let once = medium.snapshot();
    let (btt, queue) = open(medium);
    assert!(close(btt, queue).snapshot() == once);
}

#[test]
fn a_read_only_btt_shows_interrupted_writes_and_changes_nothing() {
    let medium = interrupted();
    let before = medium.snapshot();
    let options = OpenOptions { read_only: true, ..OPEN };
    let (btt, mut queues) = Btt::open(medium, &options).unwrap();
    assert_eq!(read(&mut queues[0], 5, 1).unwrap(), [5; 512]);
    assert_eq!(write(&mut queues[0], 5, &[1; 512]), Err(Error::ReadOnly));
    assert_eq!(write_part(&mut queues[0], 5, 0, &[1; 5]), Err(Error::ReadOnly));
    let trimmed = queues[0].batch().trim(5, 1, NeverWritten::Zero, 0);
    assert_eq!(trimmed, Err(Error::ReadOnly));
    poison(&btt, 5);
    assert!(matches!(read(&mut queues[0], 5, 1), Err(Error::Media(_))));
    assert!(btt.medium.snapshot() == before);
}

#[test]
fn an_arena_with_the_error_flag_is_read_only() {
    let medium = interrupted();
    let mut info = discovery::find(&medium, None).unwrap()[0].info;
    info.error = true;
    info.write(&medium, 4096).unwrap();
    let before = medium.snapshot();
    let (btt, mut queue) = open(medium);
    assert!(btt.is_read_only());
    assert_eq!(read(&mut queue, 5, 1).unwrap(), [5; 512]);
    assert_eq!(write(&mut queue, 5, &[1; 512]), Err(Error::ArenaReadOnly { arena: 0 }));
    assert!(close(btt, queue).snapshot() == before);
}

#[test]
fn a_map_entry_that_names_no_block_fails_its_sector_alone() {
    let (btt, mut queue) = open(new_medium(512, Version::V1_1));
    let arena = &btt.arenas[0];
    arena.store_entry(&btt.medium, Lba(8), crate::btt::format::map::MapEntry(0xffff_ffff)).unwrap();
    assert!(matches!(read(&mut queue, 8, 1), Err(Error::BadMapEntry { .. })));
    assert!(matches!(write(&mut queue, 8, &[1; 512]), Err(Error::BadMapEntry { .. })));
    write(&mut queue, 9, &[1; 512]).unwrap();
    assert_eq!(read(&mut queue, 9, 1).unwrap(), [1; 512]);
}

#[test]
fn creation_replaces_a_btt_of_either_version() {
    for old in Version::ALL {
        for new in Version::ALL {
            for is_destroyed in [false, true] {
                let medium = new_medium(512, old);
                if is_destroyed {
                    medium.zero(old.first_arena(), 4096).unwrap();
                }
                create(&medium, &options(4096, new, SIZE), |_, _| {}).unwrap();
                let (btt, _queue) = open(medium);
                assert_eq!(btt.infos().next().unwrap().version, new);
                assert_eq!(btt.sector_size(), 4096);
            }
        }
    }
}

#[test]
fn creation_needs_room_and_reports_its_progress() {
    let small = Simulated::new((16 << 20) + 4095);
    let refused = create(&small, &options(512, Version::V1_1, SIZE), |_, _| {});
    assert!(matches!(refused, Err(Error::TooSmall { .. })));
    let smallest = Simulated::new(16 << 20);
    let mut reports = Vec::new();
    create(&smallest, &options(512, Version::V2_0, SIZE), |done, total| {
        reports.push((done, total));
    })
    .unwrap();
    let (done, total) = *reports.last().unwrap();
    assert_eq!(done, total);
}
