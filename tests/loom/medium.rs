//! A medium as threads see it that run on several CPUs.
//!
//! | bytes | are |
//! |---|---|
//! | map entries that the model is about | atomics of loom's, loaded to acquire and stored to release, as [`PersistentMemory`] promises and no more: a load may return a value that was replaced long ago |
//! | blocks, flog entries, records of groups, info blocks | plain bytes, under a detector of races: two accesses, one of them a store, that nothing orders fail the model at once, whatever bytes the reader would have got |
//! | blocks between a [`write`](PersistentMemory::write) and the fence of its thread that drains | nobody else's to read: streaming stores become visible in any order. [`Streaming`] says which fences drain |
//! | all else, which nobody stores to | plain bytes |
//!
//! Durability is no concern here, so a flush does nothing, and a fence orders no more than it has to.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::thread::{self, ThreadId};
use vhost_user_btt::btt::map::{MapEntry, Mapped};
use vhost_user_btt::btt::{ARENA_MIN_SIZE, Block, FLOG_PAIR_SIZE, Geometry, LaneIndex, Lba};
use vhost_user_btt::pmem::{Access, Cause, Durability, MediaError, PersistentMemory};
use vm_memory::VolatileSlice;

use crate::image::{SECTOR, geometry};

/// The medium; clones are the same one.
#[derive(Clone)]
pub struct Medium(Arc<Inner>);

/// When streaming stores become visible to other threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// Persistent memory: every fence of a thread drains its stores.
    Dax,
    /// The page cache: a fence drains the stores of a thread that has streamed since its last fence.
    PageCache,
    /// A mutant: the fence of the page cache orders ordinary stores and drains nothing.
    Undrained,
    /// A mutant: all threads share the note that something was streamed, and the first fence takes it.
    SharedNote,
}

struct Inner {
    streaming: Streaming,
    /// Changed by every streaming store and fence of the page cache, so that loom takes any two of these for
    /// dependent on each other, and tries both orders.
    streams_and_fences: AtomicUsize,
    geometry: Geometry,
    /// Map entries that threads contend for, by sector.
    map: Vec<(Lba, Entry)>,
    blocks: Vec<Detector>,
    lanes: Vec<Detector>,
    records: Vec<Detector>,
    infos: Detector,
    /// Under a lock that is free whenever it is wanted: the threads of a model take turns, and none
    /// does so while it holds this.
    plain: Mutex<Plain>,
}

/// A map entry.
struct Entry {
    value: AtomicU32,
    /// Changed by every access, so that loom takes any two for dependent on each other. It leaves out
    /// interleavings where one thread loads an atomic that it stores to later, as writers do with map
    /// entries: of the loads before a store, it considers but the last.
    /// (<https://github.com/tokio-rs/loom/issues/166>)
    accesses: AtomicUsize,
}

impl Entry {
    fn new(value: u32) -> Entry {
        Entry { value: AtomicU32::new(value), accesses: AtomicUsize::new(0) }
    }

    fn load(&self) -> u32 {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        self.value.load(Ordering::Acquire)
    }

    fn store(&self, value: u32) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        self.value.store(value, Ordering::Release);
    }
}

/// Detects accesses that nothing orders. Under a lock only because it cannot be shared without.
type Detector = Mutex<UnsafeCell<()>>;

/// The metadata that have changed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Outcome {
    map: Vec<(Lba, u32)>,
    flog: Vec<u8>,
    records: Vec<u8>,
}

struct Plain {
    /// The bytes up to the end of the arena; the rest are zeroes.
    bytes: Vec<u8>,
    /// Blocks that were written by a thread which has not fenced since.
    unfenced: HashMap<Block, ThreadId>,
    /// Threads that have streamed since their last fence.
    streamed: HashSet<ThreadId>,
    poisoned: HashSet<Block>,
    /// What becomes of stores to map entries.
    fault: Fault,
}

/// Which store to a map entry fails.
#[derive(Clone, Copy)]
enum Fault {
    /// None.
    Never,
    /// The next of a write.
    Next,
    /// One that was: its write is committed, and no other store may follow.
    Past,
}

/// Bytes of a record of groups.
const RECORD_SIZE: usize = 64;

/// Where records of groups are: between the last block and the map.
fn slack(geometry: &Geometry) -> Range<usize> {
    let blocks = geometry.internal_nlba as usize * SECTOR;
    geometry.dataoff as usize + blocks..geometry.mapoff as usize
}

impl Medium {
    /// A medium that holds `bytes`, an image with `lanes` lanes, of which threads contend for the
    /// map entries of `contended`.
    pub fn new(bytes: &[u8], lanes: u32, contended: &[u32], streaming: Streaming) -> Medium {
        let geometry = geometry(lanes);
        let detectors = |count| (0..count).map(|_| Mutex::new(UnsafeCell::new(()))).collect();
        let entry = |lba| {
            let place = geometry.map_entry_offset(lba) as usize;
            Entry::new(u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap()))
        };
        Medium(Arc::new(Inner {
            streaming,
            streams_and_fences: AtomicUsize::new(0),
            geometry,
            map: contended.iter().map(|&lba| (Lba(lba), entry(Lba(lba)))).collect(),
            blocks: detectors(geometry.internal_nlba),
            lanes: detectors(lanes),
            records: detectors(slack(&geometry).len() as u32 / RECORD_SIZE as u32),
            infos: Mutex::new(UnsafeCell::new(())),
            plain: Mutex::new(Plain {
                bytes: bytes.to_vec(),
                unfenced: HashMap::new(),
                streamed: HashSet::new(),
                poisoned: HashSet::new(),
                fault: Fault::Never,
            }),
        }))
    }

    /// Lets every read of a block fail until it is zeroed.
    pub fn poison(&self, block: Block) {
        self.plain().poisoned.insert(block);
    }

    /// Lets the next write fail when it comes to its map entry.
    pub fn fail_next_map_store(&self) {
        self.plain().fault = Fault::Next;
    }

    /// Lets stores succeed again after one has failed.
    pub fn accept_stores(&self) {
        self.plain().fault = Fault::Never;
    }

    /// What has come of the map entries that threads contend for, and of the flog, after the last
    /// access.
    pub fn outcome(&self) -> Outcome {
        let geometry = &self.0.geometry;
        let entry = |(lba, entry): &(Lba, Entry)| (*lba, entry.load());
        let flog = geometry.logoff as usize..geometry.info2off as usize;
        let used = geometry.nfree as usize * FLOG_PAIR_SIZE as usize;
        let map = self.0.map.iter().map(entry).collect();
        let bytes = &self.plain().bytes;
        Outcome {
            map,
            flog: bytes[flog][..used].to_vec(),
            records: bytes[slack(geometry)].to_vec(),
        }
    }

    /// All bytes, with the map entries of `outcome`.
    pub fn contents(&self, outcome: &Outcome) -> Vec<u8> {
        let mut bytes = self.plain().bytes.clone();
        for (lba, entry) in &outcome.map {
            let place = self.0.geometry.map_entry_offset(*lba) as usize;
            bytes[place..place + 4].copy_from_slice(&entry.to_le_bytes());
        }
        bytes.resize(ARENA_MIN_SIZE as usize, 0);
        bytes
    }

    fn plain(&self) -> MutexGuard<'_, Plain> {
        self.0.plain.lock().unwrap()
    }

    /// Lets loom try other orders of a streaming store or fence of the page cache, whose note of what was
    /// streamed it does not see.
    fn note_order(&self) {
        if self.0.streaming != Streaming::Dax {
            self.0.streams_and_fences.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The map entry at `offset`, if threads contend for it.
    fn contended(&self, offset: u64) -> Option<&Entry> {
        let geometry = &self.0.geometry;
        let is_there = |lba| geometry.map_entry_offset(lba) == offset;
        self.0.map.iter().find(|(lba, _)| is_there(*lba)).map(|(_, entry)| entry)
    }

    /// The block that `length` bytes at `offset` belong to.
    fn block(&self, offset: u64, length: u64) -> Option<Block> {
        let geometry = &self.0.geometry;
        let index = offset.checked_sub(geometry.dataoff)? / SECTOR as u64;
        let block = Block(index as u32);
        assert!(
            offset + length <= geometry.block_offset(block) + SECTOR as u64
                || offset >= geometry.mapoff,
            "an access to several blocks"
        );
        (block.0 < geometry.internal_nlba).then_some(block)
    }

    /// The lane that the flog entry at `offset` belongs to.
    fn lane(&self, offset: u64) -> Option<LaneIndex> {
        let geometry = &self.0.geometry;
        let mut lanes = (0..geometry.nfree).map(LaneIndex);
        lanes.find(|lane| {
            let start = geometry.flog_offset(*lane);
            (start..start + FLOG_PAIR_SIZE).contains(&offset)
        })
    }

    /// What notices races for the flog entry or the record at `offset`.
    fn detector(&self, offset: u64) -> &Detector {
        if let Some(lane) = self.lane(offset) {
            return &self.0.lanes[lane.0 as usize];
        }
        let slack = slack(&self.0.geometry);
        assert!(slack.contains(&(offset as usize)), "neither a flog entry nor a record");
        &self.0.records[(offset as usize - slack.start) / RECORD_SIZE]
    }

    fn copy_out(&self, offset: u64, into: &mut [u8]) {
        let plain = self.plain();
        let stored = plain.bytes.get(offset as usize..).unwrap_or_default();
        let count = stored.len().min(into.len());
        into[..count].copy_from_slice(&stored[..count]);
        into[count..].fill(0);
    }

    fn copy_in(&self, offset: u64, from: &[u8]) {
        let offset = offset as usize;
        self.plain().bytes[offset..offset + from.len()].copy_from_slice(from);
    }
}

impl PersistentMemory for Medium {
    fn size(&self) -> u64 {
        ARENA_MIN_SIZE
    }

    fn durability(&self) -> Durability {
        match self.0.streaming {
            Streaming::Dax => Durability::Dax,
            _ => Durability::PageCache,
        }
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        if let Some(entry) = self.contended(offset) {
            return Ok(entry.load());
        }
        let mut word = [0; 4];
        self.copy_out(offset, &mut word);
        Ok(u32::from_le_bytes(word))
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        let mut word = [0; 8];
        self.copy_out(offset, &mut word);
        Ok(u64::from_le_bytes(word))
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        let entry = self.contended(offset).expect("only contended map entries are stored to");
        let fault = self.plain().fault;
        let is_write = matches!(MapEntry(value).mapped(), Mapped::Data(_));
        match fault {
            Fault::Never => entry.store(value),
            Fault::Next if !is_write => entry.store(value),
            Fault::Next => {
                self.plain().fault = Fault::Past;
                let (access, length) = (Access::Write, 4);
                return Err(MediaError { access, offset, length, cause: Cause::Medium });
            }
            Fault::Past => panic!("a map entry is stored after another could not be"),
        }
        Ok(())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        let detector = self.detector(offset).lock().unwrap();
        detector.with_mut(|_| self.copy_in(offset, &value.to_le_bytes()));
        Ok(())
    }

    /// Blocks that follow one another are read one after another.
    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let in_data = (self.0.geometry.dataoff..self.0.geometry.mapoff).contains(&offset);
        if in_data && into.len() > SECTOR {
            let rest = into.offset(SECTOR).unwrap();
            self.read(offset, &into.subslice(0, SECTOR).unwrap())?;
            return self.read(offset + SECTOR as u64, &rest);
        }
        let length = into.len() as u64;
        let mut bytes = vec![0; into.len()];
        let Some(block) = self.block(offset, length) else {
            self.copy_out(offset, &mut bytes);
            into.copy_from(&bytes);
            return Ok(());
        };
        if self.plain().poisoned.contains(&block) {
            return Err(MediaError { access: Access::Read, offset, length, cause: Cause::Medium });
        }
        let writer = self.plain().unfenced.get(&block).copied();
        assert!(
            writer.is_none_or(|writer| writer == thread::current().id()),
            "{block} is read before its writer's fence"
        );
        let detector = self.0.blocks[block.0 as usize].lock().unwrap();
        detector.with(|_| self.copy_out(offset, &mut bytes));
        into.copy_from(&bytes);
        Ok(())
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        let Some(block) = self.block(offset, from.len() as u64) else {
            let geometry = &self.0.geometry;
            assert!([0, geometry.info2off].contains(&offset), "neither a block nor an info block");
            let detector = self.0.infos.lock().unwrap();
            detector.with_mut(|_| self.copy_in(offset, &bytes));
            return Ok(());
        };
        self.note_order();
        let this = thread::current().id();
        let mut plain = self.plain();
        plain.unfenced.insert(block, this);
        plain.streamed.insert(this);
        drop(plain);
        let detector = self.0.blocks[block.0 as usize].lock().unwrap();
        detector.with_mut(|_| self.copy_in(offset, &bytes));
        Ok(())
    }

    fn flush(&self, _offset: u64, _length: u64) -> Result<(), MediaError> {
        Ok(())
    }

    fn fence(&self) -> Result<(), MediaError> {
        self.note_order();
        let this = thread::current().id();
        let mut plain = self.plain();
        let drains = match self.0.streaming {
            Streaming::Dax => true,
            Streaming::PageCache => plain.streamed.remove(&this),
            Streaming::Undrained => false,
            Streaming::SharedNote => !mem::take(&mut plain.streamed).is_empty(),
        };
        if drains {
            plain.unfenced.retain(|_, writer| *writer != this);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let block = self.block(offset, length).expect("only blocks are zeroed");
        let detector = self.0.blocks[block.0 as usize].lock().unwrap();
        detector.with_mut(|_| self.copy_in(offset, &vec![0; length as usize]));
        self.plain().poisoned.remove(&block);
        Ok(())
    }

    fn sync(&self) -> Result<(), MediaError> {
        self.fence()
    }
}
