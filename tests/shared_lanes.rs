//! More queues than lanes: they share, and every sector stays whole.

use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;
use vhost_user_btt::btt::flog::FlogEntry;
use vhost_user_btt::btt::{
    Btt, Geometry, InfoBlock, LaneIndex, LbaSize, OpenOptions, Queue, Version, check,
};
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt::pmem::{DurabilityRequest, Mapping, PersistentMemory, Protection};
use vm_memory::VolatileSlice;

const SIZE: u64 = 17 << 20;

/// A new BTT with few lanes, as the format allows and nobody makes.
fn create(medium: &impl PersistentMemory, nfree: u32) {
    let mut geometry = Geometry::new(SIZE, LbaSize::new(4096).unwrap(), true);
    geometry.nfree = nfree;
    geometry.internal_nlba = geometry.external_nlba + nfree;
    for lane in 0..nfree {
        let lane = LaneIndex(lane);
        let [place, commit] = FlogEntry::initial(lane, geometry.external_nlba).halves();
        let offset = geometry.flog_offset(lane);
        medium.store_u64(offset, place).unwrap();
        medium.store_u64(offset + 8, commit).unwrap();
    }
    let (uuid, parent_uuid) = (Uuid::max(), Uuid::nil());
    let info = InfoBlock { uuid, parent_uuid, error: false, version: Version::V2_0, geometry };
    info.write(medium, geometry.info2off).unwrap();
    info.write(medium, 0).unwrap();
}

fn open<M: PersistentMemory>(medium: M, queues: usize) -> (std::sync::Arc<Btt<M>>, Vec<Queue<M>>) {
    let options =
        OpenOptions { version: None, namespace: None, read_only: false, queues, atomic: 0 };
    Btt::open(medium, &options).unwrap()
}

fn write<M: PersistentMemory>(queue: &mut Queue<M>, sector: u64, words: u64) {
    let mut data = words.to_le_bytes().repeat(512);
    let mut batch = queue.batch();
    batch.write(sector, &VolatileSlice::from(&mut data[..]), 0).unwrap();
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

/// The word that a sector consists of.
fn read<M: PersistentMemory>(queue: &mut Queue<M>, sector: u64) -> u64 {
    let mut data = [0; 4096];
    queue.batch().read(sector, &VolatileSlice::from(&mut data[..])).unwrap();
    let word = data[..8].try_into().map(u64::from_le_bytes).unwrap();
    assert!(data.chunks(8).all(|chunk| chunk == &data[..8]), "sector {sector} is torn");
    word
}

#[test]
fn queues_that_share_one_lane_write_one_after_another() {
    let medium = Simulated::new(SIZE);
    create(&medium, 1);
    let (_btt, mut queues) = open(medium, 4);
    for round in 0..20 {
        for (number, queue) in queues.iter_mut().enumerate() {
            write(queue, number as u64, round);
        }
    }
    for number in 0..4 {
        assert_eq!(read(&mut queues[3 - number], number as u64), 19);
    }
}

#[test]
fn a_request_of_more_sectors_than_lanes_is_written_in_several_rounds() {
    let medium = Simulated::new(SIZE);
    create(&medium, 3);
    let (_btt, mut queues) = open(medium, 2);
    let mut data: Vec<u8> = (0..20 * 4096u32).map(|i| (i / 4096) as u8 + 1).collect();
    let expected = data.clone();
    let mut batch = queues[0].batch();
    batch.write(0, &VolatileSlice::from(&mut data[..]), 0).unwrap();
    batch.commit();
    drop(batch);
    let mut found = vec![0; 20 * 4096];
    queues[1].batch().read(0, &VolatileSlice::from(&mut found[..])).unwrap();
    assert!(found == expected);
}

#[test]
fn eight_queues_on_two_lanes_keep_every_sector_whole() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let map = |request| {
        Mapping::new(file.try_clone().unwrap(), 0..SIZE, Protection::ReadWrite, request).unwrap()
    };
    create(&map(DurabilityRequest::Auto), 2);
    for request in [DurabilityRequest::Auto, DurabilityRequest::Dax] {
        let (_btt, mut queues) = open(map(request), 8);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (readers, writers) = queues.split_at_mut(3);
            let reading: Vec<_> = readers
                .iter_mut()
                .map(|queue| {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            for sector in 0..4 {
                                read(queue, sector);
                            }
                        }
                    })
                })
                .collect();
            let writing: Vec<_> = writers
                .iter_mut()
                .zip(1u64..)
                .map(|(queue, number)| {
                    scope.spawn(move || {
                        for round in 0..400 {
                            write(queue, round % 4, number << 32 | round);
                        }
                    })
                })
                .collect();
            for thread in writing {
                thread.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            for thread in reading {
                thread.join().unwrap();
            }
        });
        drop(queues);
        let report = check::check(&map(request), &check::CheckOptions::default(), &mut |_, _| {});
        assert_eq!(report.verdict(), check::Verdict::Clean);
    }
}
