//! The checker on the simulated medium, one file for each part of a BTT.
//!
//! The engine serves as a source of images, and as the one to disagree with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::VolatileSlice;

use super::*;
use crate::btt::format::flog::FlogEntry;
use crate::btt::format::map::MapEntry;
use crate::btt::{
    Block, Btt, CreateOptions, Geometry, INFO_SIZE, InfoBlock, LaneIndex, Lba, LbaSize, Opened,
    Queue, create,
};
use crate::pmem::simulated::{Contents, Simulated};
use crate::pmem::{Durability, MediaError};

mod clean;
mod flog;
mod forged;
mod groups;
mod hostile;
mod info;
mod map;
mod pending;
mod random;
mod repair;

const SIZE: u64 = 17 << 20;
const PAGE: u64 = 4096;

/// A medium that several have, and that fails the test when a checker writes to it.
#[derive(Debug, Clone)]
struct Shared {
    medium: Arc<Simulated>,
    is_read_only: bool,
    /// How many more stores reach the medium, before the power fails.
    stores_left: Arc<AtomicU64>,
}

impl Shared {
    /// The medium, if it is still there to be written to.
    fn writable(&self) -> Option<&Simulated> {
        assert!(!self.is_read_only, "the checker wrote");
        let one_less = |left: u64| left.checked_sub(1);
        let left = self.stores_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        left.is_ok().then_some(&*self.medium)
    }
}

impl PersistentMemory for Shared {
    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn durability(&self) -> Durability {
        self.medium.durability()
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.medium.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.medium.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.writable().map_or(Ok(()), |medium| medium.store_u32(offset, value))
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.writable().map_or(Ok(()), |medium| medium.store_u64(offset, value))
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.medium.read(offset, into)
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.writable().map_or(Ok(()), |medium| medium.write(offset, from))
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.flush(offset, length)
    }

    fn fence(&self) -> Result<(), MediaError> {
        self.medium.fence()
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.writable().map_or(Ok(()), |medium| medium.zero(offset, length))
    }

    fn sync(&self) -> Result<(), MediaError> {
        self.medium.sync()
    }
}

/// A BTT on a medium, to be damaged.
#[derive(Debug, Clone)]
struct Image {
    medium: Arc<Simulated>,
    /// Offset of the first arena.
    start: u64,
    geometry: Geometry,
}

impl Image {
    /// A fresh one of one arena.
    fn new(sector: u32, version: Version) -> Image {
        Image::of_arenas(sector, version, SIZE, SIZE)
    }

    fn of_arenas(sector: u32, version: Version, size: u64, arena_size: u64) -> Image {
        let medium = Simulated::new(size);
        let lba_size = LbaSize::new(sector).unwrap();
        let options = CreateOptions {
            lba_size,
            version,
            uuid: Uuid::from_u128(1),
            parent_uuid: Uuid::from_u128(2),
            arena_size,
        };
        create(&medium, &options, |_, _| {}).unwrap();
        Image::of(&medium.snapshot(), version.first_arena())
    }

    fn of(contents: &Contents, start: u64) -> Image {
        let mut info = [0; 4096];
        contents.read(start, &mut info);
        let geometry = InfoBlock::decode(&info).unwrap().geometry;
        Image { medium: Arc::new(Simulated::of(contents.clone())), start, geometry }
    }

    /// The one that most tests begin with.
    fn fresh() -> Image {
        Image::new(4096, Version::V1_1)
    }

    /// A copy on a medium of its own.
    fn copy(&self) -> Image {
        Image { medium: Arc::new(Simulated::of(self.medium.snapshot())), ..self.clone() }
    }

    fn shared(&self, is_read_only: bool) -> Shared {
        Shared {
            medium: self.medium.clone(),
            is_read_only,
            stores_left: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    fn check_with(&self, options: &CheckOptions) -> Report {
        check(&self.shared(true), options, &mut |_, _| {})
    }

    fn check(&self) -> Report {
        self.check_with(&CheckOptions::default())
    }

    fn try_open(&self) -> Result<Opened<Shared>, crate::btt::Error> {
        open_on(self.shared(false))
    }

    fn open(&self) -> Queue<Shared> {
        self.try_open().unwrap().1.remove(0)
    }

    fn lane_offset(&self, lane: u32) -> u64 {
        self.start + self.geometry.flog_offset(LaneIndex(lane))
    }

    fn set_entry(&self, lane: u32, place: u64, [lba, old_map, new_map, seq]: [u32; 4]) {
        let entry = FlogEntry { lba, old_map, new_map, seq };
        let offset = self.lane_offset(lane) + 16 * place;
        for (index, half) in (0..).zip(entry.halves()) {
            self.medium.store_u64(offset + 8 * index, half).unwrap();
        }
    }

    fn map_offset(&self, lba: u32) -> u64 {
        self.start + self.geometry.map_entry_offset(Lba(lba))
    }

    fn map(&self, lba: u32) -> MapEntry {
        MapEntry(self.medium.load_u32(self.map_offset(lba)).unwrap())
    }

    fn set_map(&self, lba: u32, entry: MapEntry) {
        self.medium.store_u32(self.map_offset(lba), entry.0).unwrap();
    }

    /// The first free block of a fresh image, that of lane 0; the others' follow.
    fn free(&self) -> u32 {
        self.geometry.external_nlba
    }

    /// As if the fresh `lane` had written the fresh `lba`.
    fn wrote(&self, lane: u32, lba: u32) {
        let new = self.free() + lane;
        self.set_entry(lane, 1, [lba, lba, new, 2]);
        self.set_map(lba, MapEntry::data(Block(new)));
    }

    fn primary_offset(&self) -> u64 {
        self.start
    }

    fn backup_offset(&self) -> u64 {
        self.start + self.geometry.info2off
    }

    fn info_bytes(&self, offset: u64) -> [u8; INFO_SIZE as usize] {
        let mut bytes = [0; INFO_SIZE as usize];
        self.medium.read_bytes(offset, &mut bytes).unwrap();
        bytes
    }

    fn info(&self) -> InfoBlock {
        InfoBlock::decode(&self.info_bytes(self.start)).unwrap()
    }

    /// Changes the info block at `offset`, checksum and all.
    fn change_info(&self, offset: u64, change: impl FnOnce(&mut InfoBlock)) {
        let mut info = InfoBlock::decode(&self.info_bytes(offset)).unwrap();
        change(&mut info);
        self.medium.write_bytes(offset, &info.encode()).unwrap();
    }

    /// Changes both info blocks of the first arena.
    fn change_infos(&self, change: impl Fn(&mut InfoBlock)) {
        self.change_info(self.primary_offset(), &change);
        self.change_info(self.backup_offset(), &change);
    }
}

fn open_on(medium: Shared) -> Result<Opened<Shared>, crate::btt::Error> {
    let options = crate::btt::OpenOptions {
        version: None,
        namespace: None,
        read_only: false,
        queues: 1,
        atomic: 0,
    };
    Btt::open(medium, &options)
}

fn write(queue: &mut Queue<Shared>, sector: u64, byte: u8) {
    let mut data = vec![byte; queue.btt().sector_size() as usize];
    let mut batch = queue.batch();
    batch.write(sector, &VolatileSlice::from(&mut data[..]), 0).unwrap();
    batch.commit();
    assert_eq!(batch.take_failures().next(), None);
}

fn read(queue: &mut Queue<Shared>, sector: u64) -> Result<Vec<u8>, crate::btt::Error> {
    let mut data = vec![0xee; queue.btt().sector_size() as usize];
    queue.batch().read(sector, &VolatileSlice::from(&mut data[..]))?;
    Ok(data)
}

/// What was found, notes included.
fn faults(report: &Report) -> Vec<Fault> {
    report.findings.iter().map(|found| found.fault).collect()
}

/// What was found, as lines.
fn lines(report: &Report) -> Vec<String> {
    report.findings.iter().map(Finding::to_string).collect()
}

#[track_caller]
fn assert_clean(report: &Report) {
    assert_eq!(report.verdict(), Verdict::Clean, "{:#?}", lines(report));
}

/// The report has this as its only fault.
#[track_caller]
fn assert_only(report: &Report, fault: Fault) {
    assert_eq!(faults(report), [fault], "{:#?}", lines(report));
}
