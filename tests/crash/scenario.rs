//! What is done to which disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::btt::flog::LogLayout;
use vhost_user_btt::btt::map::MapEntry;
use vhost_user_btt::btt::{
    Btt, CreateOptions, FLOG_PAIR_SIZE, FoundArena, LaneIndex, Lba, LbaSize, NeverWritten,
    OpenOptions, Opened, Version, create, find,
};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, MediumKind, Simulated};
use vm_memory::VolatileSlice;

use super::value::Value;

/// Bytes of an arena: the least there can be.
pub const ARENA: u64 = 16 << 20;

/// The disk that a scenario begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes of a sector, with metadata.
    pub lba_size: u32,
    pub version: Version,
    pub layout: LogLayout,
    pub arenas: u64,
    /// What it is on.
    pub medium: MediumKind,
}

impl Disk {
    pub const fn of(lba_size: u32) -> Disk {
        let (version, layout) = (Version::V1_1, LogLayout::Standard);
        Disk { lba_size, version, layout, arenas: 1, medium: MediumKind::Dax }
    }

    /// On a file whose every fence is a sync, and whose disk takes `disk_sector` bytes at once.
    pub const fn strict(self, disk_sector: u64) -> Disk {
        Disk { medium: MediumKind::Strict { disk_sector }, ..self }
    }

    /// On a file in the page cache, whose disk takes `disk_sector` bytes at once.
    pub const fn page_cache(self, disk_sector: u64) -> Disk {
        Disk { medium: MediumKind::PageCache { disk_sector }, ..self }
    }

    pub const fn old_layout(self) -> Disk {
        Disk { layout: LogLayout::Old, ..self }
    }

    pub const fn two_arenas(self) -> Disk {
        Disk { arenas: 2, version: Version::V2_0, ..self }
    }

    /// Bytes of a sector that are served.
    pub fn sector_size(&self) -> usize {
        LbaSize::new(self.lba_size).unwrap().data() as usize
    }

    pub fn size(&self) -> u64 {
        self.version.first_arena() + self.arenas * ARENA
    }

    pub fn create_options(&self) -> CreateOptions {
        CreateOptions {
            lba_size: LbaSize::new(self.lba_size).unwrap(),
            version: self.version,
            uuid: Uuid::from_u128(1),
            parent_uuid: Uuid::nil(),
            arena_size: ARENA,
            force: true,
        }
    }

    /// A new one, as [`create`] makes it.
    pub fn create(&self) -> Contents {
        let medium = Simulated::new(self.size());
        create(&medium, &self.create_options(), |_, _| {}).unwrap();
        medium.snapshot()
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = if self.layout == LogLayout::Old { ", old log" } else { "" };
        let arenas = if self.arenas == 1 { "" } else { ", two arenas" };
        write!(f, "{}{old}{arenas}", self.lba_size)?;
        match self.medium {
            MediumKind::Dax => Ok(()),
            MediumKind::Strict { disk_sector } => write!(f, ", strict on {disk_sector}"),
            MediumKind::PageCache { disk_sector } => write!(f, ", page cache on {disk_sector}"),
        }
    }
}

/// Something that a queue does.
#[derive(Debug, Clone)]
pub enum Op {
    Write(Range<u64>),
    Zeroes(Range<u64>),
    Trim(Range<u64>, NeverWritten),
    /// Replaces a quarter of a sector.
    Part(u64, usize),
    Read(Range<u64>),
    /// Commits what was staged, and ends the batch.
    Commit,
    /// Ends the batch, and makes all that was written durable.
    Flush,
}

impl Op {
    pub fn sectors(&self) -> Range<u64> {
        match self {
            Op::Write(sectors) | Op::Zeroes(sectors) | Op::Trim(sectors, _) | Op::Read(sectors) => {
                sectors.clone()
            }
            Op::Part(sector, _) => *sector..sector + 1,
            Op::Commit | Op::Flush => 0..0,
        }
    }
}

/// What is done to which disk.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: String,
    pub disk: Disk,
    /// Sectors written before, in this order.
    pub prepared: Vec<u64>,
    /// Of these, those whose blocks are poisoned then.
    pub poisoned: Vec<u64>,
    /// Sectors that are looked at besides those that something is done to.
    pub watched: Vec<u64>,
    /// Lanes of each arena that a queue has.
    pub lanes: usize,
    /// What each queue does.
    pub queues: Vec<Vec<Op>>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Scenario {
    pub fn new(name: &str, disk: Disk, queues: Vec<Vec<Op>>) -> Scenario {
        let prepared = vec![0, 1, 2, 3, 0, 1];
        let (poisoned, watched) = (Vec::new(), Vec::new());
        Scenario { name: name.to_owned(), disk, prepared, poisoned, watched, lanes: 4, queues }
    }

    pub fn prepared(self, prepared: &[u64]) -> Scenario {
        Scenario { prepared: prepared.to_vec(), ..self }
    }

    pub fn poisoned(self, poisoned: &[u64]) -> Scenario {
        Scenario { poisoned: poisoned.to_vec(), ..self }
    }

    pub fn watched(self, watched: impl IntoIterator<Item = u64>) -> Scenario {
        Scenario { watched: watched.into_iter().collect(), ..self }
    }

    pub fn lanes(self, lanes: usize) -> Scenario {
        Scenario { lanes, ..self }
    }

    /// Queues to open the disk with, so that each has as many lanes as it should: most are not used.
    pub fn queue_count(&self) -> usize {
        256 / self.lanes
    }

    /// All sectors that the scenario knows the contents of, in order.
    pub fn sectors(&self) -> Vec<u64> {
        let ops = self.queues.iter().flatten().flat_map(Op::sectors);
        let others = self.prepared.iter().chain(&self.watched).copied();
        let mut sectors: Vec<u64> = ops.chain(others).collect();
        sectors.sort_unstable();
        sectors.dedup();
        sectors
    }

    /// What `sector` holds when the scenario begins.
    pub fn initial(&self, sector: u64) -> Value {
        let size = self.disk.sector_size();
        if self.poisoned.contains(&sector) {
            return Value::Error;
        }
        match self.prepared.iter().rposition(|prepared| *prepared == sector) {
            Some(position) => Value::stamp(sector, position as u64 + 1, size),
            None => Value::zeroes(size),
        }
    }

    /// The medium when the scenario begins, and the poison in it.
    pub fn begin(&self) -> (Contents, Vec<Range<u64>>) {
        let medium = Arc::new(Simulated::of(self.disk.create()));
        let (_, mut queues) = open(medium.clone(), 1).unwrap();
        for (position, sector) in self.prepared.iter().enumerate() {
            let value = Value::stamp(*sector, position as u64 + 1, self.disk.sector_size());
            let mut batch = queues[0].batch();
            let mut bytes = value.bytes().to_vec();
            batch.write(*sector, &VolatileSlice::from(&mut bytes[..]), 0).unwrap();
            batch.commit();
        }
        let arenas = find(&*medium, None).unwrap();
        if self.disk.layout == LogLayout::Old {
            for arena in &arenas {
                to_old_layout(&medium, arena);
            }
        }
        let poison = self.poisoned.iter().map(|sector| block_of(&medium, &arenas, *sector));
        (medium.snapshot(), poison.collect())
    }
}

pub fn open<M: PersistentMemory>(
    medium: M,
    queues: usize,
) -> Result<Opened<M>, vhost_user_btt::btt::Error> {
    Btt::open(medium, &OpenOptions { version: None, namespace: None, read_only: false, queues })
}

/// Moves the second slot of each lane to where Linux before 4.15 had it.
fn to_old_layout(medium: &Simulated, arena: &FoundArena) {
    for lane in 0..arena.info.geometry.nfree {
        let offset = arena.start + arena.info.geometry.flog_offset(LaneIndex(lane));
        let mut lane = [0; FLOG_PAIR_SIZE as usize];
        medium.read_bytes(offset, &mut lane).unwrap();
        lane.copy_within(16..32, 32);
        lane[16..32].fill(0);
        medium.write_bytes(offset, &lane).unwrap();
    }
}

/// Where the block of `sector`, which was written, is.
fn block_of(medium: &Simulated, arenas: &[FoundArena], mut sector: u64) -> Range<u64> {
    let arena = arenas.iter().find(|arena| {
        let here = sector < u64::from(arena.info.geometry.external_nlba);
        sector -= if here { 0 } else { u64::from(arena.info.geometry.external_nlba) };
        here
    });
    let FoundArena { start, info, .. } = arena.unwrap();
    let lba = Lba(sector as u32);
    let entry = MapEntry(medium.load_u32(start + info.geometry.map_entry_offset(lba)).unwrap());
    let block = start + info.geometry.block_offset(entry.block(lba));
    block..block + u64::from(info.geometry.internal_lbasize)
}
