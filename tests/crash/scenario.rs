//! What is done to which disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::btt::flog::LogLayout;
use vhost_user_btt::btt::map::{MapEntry, Mapped};
use vhost_user_btt::btt::{
    Block, Btt, CreateOptions, FLOG_PAIR_SIZE, FoundArena, Geometry, InfoBlock, LaneIndex, Lba,
    LbaSize, NeverWritten, OpenOptions, Opened, Version, create, find, layout,
};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, MediumKind, Random, Simulated};
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

    /// Number of sectors.
    pub fn sectors(&self) -> u64 {
        self.arenas().map(|arena| u64::from(arena.external_nlba)).sum()
    }

    /// Its arenas, in order.
    pub fn arenas(&self) -> impl Iterator<Item = Geometry> {
        let raw = self.size() - self.version.first_arena();
        let options = self.create_options();
        layout(raw, options.arena_size, options.lba_size).map(|(_, arena)| arena)
    }

    pub fn create_options(&self) -> CreateOptions {
        CreateOptions {
            lba_size: LbaSize::new(self.lba_size).unwrap(),
            version: self.version,
            uuid: Uuid::from_u128(1),
            parent_uuid: Uuid::nil(),
            arena_size: ARENA,
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
    /// Moves sectors of the first arena to the blocks whose number is so much more, and other sectors out of
    /// their way, of those that something is done to.
    Defragment(u32),
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
            Op::Defragment(_) | Op::Commit | Op::Flush => 0..0,
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
    /// Sectors of the largest write that is all or nothing; 0: only sectors are.
    pub atomic: u64,
    /// Between the power failure and the next opening, an implementation that does not know groups has the
    /// disk for a while.
    pub linux: bool,
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
        let name = name.to_owned();
        let (lanes, atomic, linux) = (4, 0, false);
        Scenario { name, disk, prepared, poisoned, watched, lanes, atomic, linux, queues }
    }

    pub fn is_of_one_queue(&self) -> bool {
        self.queues.len() == 1
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

    pub fn atomic(self, atomic: u64) -> Scenario {
        Scenario { atomic, ..self }
    }

    pub fn then_linux(self) -> Scenario {
        Scenario { linux: true, ..self }
    }

    /// How the disk is opened.
    pub fn options(&self, read_only: bool) -> OpenOptions {
        let atomic = self.atomic as u32 * self.disk.sector_size() as u32;
        let queues = self.queue_count();
        OpenOptions { version: None, namespace: None, read_only, queues, atomic }
    }

    pub fn open<M: PersistentMemory>(
        &self,
        medium: M,
    ) -> Result<Opened<M>, vhost_user_btt::btt::Error> {
        Btt::open(medium, &self.options(false))
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
        // A neighbour on either side, which nobody writes.
        let (least, most) = (sectors.iter().min().copied(), sectors.iter().max().copied());
        sectors.extend(least.and_then(|least| least.checked_sub(1)));
        sectors.extend(most.map(|most| most + 1).filter(|next| *next < self.disk.sectors()));
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
        self.litter(&medium);
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
        let written = "what is poisoned was written";
        let poison = self.poisoned.iter();
        let poison = poison.map(|sector| data_block_of(&medium, &arenas, *sector).expect(written));
        (medium.snapshot(), poison.collect())
    }
}

impl Scenario {
    /// Lets the blocks that are going to be used, and those that sectors have which were never written, hold
    /// what an earlier user of the file has left.
    fn litter(&self, medium: &Simulated) {
        let arenas = find(medium, None).unwrap();
        let mut random = Random::new(3);
        let mut fill = |block: Range<u64>| {
            let words = block.step_by(8).map(|_| random.any() | 1);
            words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
        };
        for FoundArena { start, info, .. } in &arenas {
            let free = info.geometry.external_nlba..info.geometry.internal_nlba;
            for block in free.map(|block| range_of(*start, info, Block(block))) {
                medium.write_bytes(block.start, &fill(block)).unwrap();
            }
        }
        for sector in self.sectors() {
            let (start, info, lba) = place_of(&arenas, sector);
            let block = range_of(start, info, Block(lba.0));
            medium.write_bytes(block.start, &fill(block)).unwrap();
        }
    }
}

pub fn open<M: PersistentMemory>(
    medium: M,
    queues: usize,
) -> Result<Opened<M>, vhost_user_btt::btt::Error> {
    Btt::open(
        medium,
        &OpenOptions { version: None, namespace: None, read_only: false, queues, atomic: 0 },
    )
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

/// Where the data of `sector` are, if it has any.
pub fn data_block_of(medium: &Simulated, arenas: &[FoundArena], sector: u64) -> Option<Range<u64>> {
    let (start, info, lba) = place_of(arenas, sector);
    let entry = MapEntry(medium.load_u32(start + info.geometry.map_entry_offset(lba)).ok()?);
    let Mapped::Data(block) = entry.mapped() else { return None };
    Some(range_of(start, info, block))
}

/// The arena of a sector, and its number there.
fn place_of(arenas: &[FoundArena], mut sector: u64) -> (u64, &InfoBlock, Lba) {
    for FoundArena { start, info, .. } in arenas {
        let sectors = u64::from(info.geometry.external_nlba);
        if sector < sectors {
            return (*start, info, Lba(sector as u32));
        }
        sector -= sectors;
    }
    panic!("a sector beyond the end")
}

fn range_of(start: u64, info: &InfoBlock, block: Block) -> Range<u64> {
    let offset = start + info.geometry.block_offset(block);
    offset..offset + u64::from(info.geometry.internal_lbasize)
}
