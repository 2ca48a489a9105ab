//! The medium that the engine runs on: a recorder, with errors of its own where a mutant wants them.
//!
//! Which flush or fence a mutant leaves out is told by where the thread stored before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, ThreadId};

use vhost_user_btt::btt::{Geometry, find};
use vhost_user_btt::dax::{PAGE_SIZE, PAGES_OFFSET};
use vhost_user_btt::pmem::simulated::{Contents, Recorder, Simulated};
use vhost_user_btt::pmem::{CACHE_LINE, Durability, MediaError, PersistentMemory};
use vm_memory::VolatileSlice;

use super::medium_mutants::MediumMutant;

/// The parts of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Info,
    Data,
    /// The records of groups, between the last block and the map.
    Record,
    Map,
    Flog,
}

/// What a thread did since its last fence.
#[derive(Debug, Default)]
struct Since {
    last: Option<Part>,
    flog: Flushes,
    map: Flushes,
    /// Flog stores that are held back.
    held: Vec<(u64, u64)>,
    /// Data that are held back.
    held_data: Vec<(u64, Vec<u8>)>,
    /// Words of records of groups that are held back.
    held_records: Vec<(u64, u64)>,
    /// Cache lines of the map that were flushed.
    map_lines: Vec<u64>,
}

/// Flushes of a part since the last fence.
#[derive(Debug, Default, Clone, Copy)]
struct Flushes {
    count: usize,
    last: Option<(u64, u64)>,
}

impl Flushes {
    /// Counts a flush. Returns those before it.
    fn next(&mut self, offset: u64, length: u64) -> Flushes {
        let earlier = *self;
        *self = Flushes { count: earlier.count + 1, last: Some((offset, length)) };
        earlier
    }
}

/// A recorder, and the mutant.
pub struct Medium {
    pub recorder: Recorder,
    mutant: Option<MediumMutant>,
    arenas: Vec<(u64, Geometry)>,
    threads: Mutex<HashMap<ThreadId, Since>>,
    /// The disk is being opened.
    is_opening: AtomicBool,
    fences: AtomicU64,
    watcher: OnceLock<Box<dyn Watcher>>,
}

/// Somebody who looks at what else there is, whenever something is about to be done to the medium.
pub trait Watcher: Send + Sync {
    /// A store, a flush or a fence.
    fn before(&self);

    /// A sync.
    fn before_sync(&self);
}

impl Medium {
    /// With what is done kept by `recorder`; where the arenas are is known from `layout`.
    pub fn new(recorder: Recorder, layout: &Contents, mutant: Option<MediumMutant>) -> Arc<Medium> {
        let arenas = match mutant {
            None => Vec::new(),
            // There are none on a medium with a region of DAX devices.
            Some(_) => find(&Simulated::of(layout.clone()), None).unwrap_or_default(),
        };
        Arc::new(Medium {
            recorder,
            mutant,
            arenas: arenas.iter().map(|arena| (arena.start, arena.info.geometry)).collect(),
            threads: Mutex::default(),
            is_opening: AtomicBool::new(false),
            fences: AtomicU64::new(0),
            watcher: OnceLock::new(),
        })
    }

    /// Opens a disk on the medium.
    pub fn open<T>(&self, open: impl FnOnce() -> T) -> T {
        self.is_opening.store(true, Ordering::Relaxed);
        let opened = open();
        self.is_opening.store(false, Ordering::Relaxed);
        opened
    }

    /// Returns whether the mutant is `mutant`, and a disk is being opened.
    fn opens_with(&self, mutant: MediumMutant) -> bool {
        self.is(mutant) && self.is_opening.load(Ordering::Relaxed)
    }

    /// Lets `watcher` look from now on; there is none yet.
    pub fn watch(&self, watcher: impl Watcher + 'static) {
        assert!(self.watcher.set(Box::new(watcher)).is_ok(), "watched already");
    }

    fn look(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.before();
        }
    }

    fn part(&self, offset: u64) -> Option<Part> {
        let (start, geometry) = self.arenas.iter().rfind(|(start, _)| *start <= offset)?;
        let offset = offset - start;
        Some(match offset {
            _ if offset < geometry.dataoff || offset >= geometry.info2off => Part::Info,
            _ if offset >= geometry.logoff => Part::Flog,
            _ if offset >= geometry.mapoff => Part::Map,
            _ if offset >= end_of_blocks(geometry) => Part::Record,
            _ => Part::Data,
        })
    }

    /// Notes that the current thread stores at `offset`, and returns where that is.
    fn note(&self, offset: u64) -> Option<Part> {
        let part = self.part(offset)?;
        self.with_since(|since| since.last = Some(part));
        Some(part)
    }

    fn with_since<R>(&self, act: impl FnOnce(&mut Since) -> R) -> R {
        act(self.threads.lock().unwrap().entry(thread::current().id()).or_default())
    }

    fn is(&self, mutant: MediumMutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn write_data(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        let is_metadata = bytes.len() < 512;
        match self.mutant {
            Some(MediumMutant::DataAfterFlog) => {
                self.with_since(|since| since.held_data.push((offset, bytes)));
                Ok(())
            }
            Some(MediumMutant::DataCutOff) if !is_metadata => {
                self.recorder.write_bytes(offset, &bytes[..bytes.len() - CACHE_LINE as usize])
            }
            Some(MediumMutant::MetadataKept) if is_metadata => Ok(()),
            _ => self.recorder.write(offset, from),
        }
    }

    /// Stores the data that were held back.
    fn release_data(&self) -> Result<(), MediaError> {
        for (offset, bytes) in self.with_since(|since| std::mem::take(&mut since.held_data)) {
            self.recorder.write_bytes(offset, &bytes)?;
        }
        Ok(())
    }

    fn flush_flog(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        use MediumMutant::{LastFlogUnflushed, NoFlogFlush, OnlyFirstFlogFlushed};
        let earlier = self.with_since(|since| since.flog.next(offset, length));
        if self.is(LastFlogUnflushed) {
            return self.flush_held(earlier);
        }
        let is_dropped = self.is(NoFlogFlush)
            || self.opens_with(MediumMutant::OpenedFlogUnflushed)
            || self.is(OnlyFirstFlogFlushed) && earlier.count > 0;
        if is_dropped { Ok(()) } else { self.recorder.flush(offset, length) }
    }

    fn flush_map(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        use MediumMutant::{LastMapUnflushed, NoMapFlush, OnlyFirstMapFlushed};
        let earlier = self.with_since(|since| since.map.next(offset, length));
        if self.is(LastMapUnflushed) {
            return self.flush_held(earlier);
        }
        let is_dropped = self.is(NoMapFlush)
            || self.is(MediumMutant::FlushedTooSoon)
            || self.opens_with(MediumMutant::OpenedMapUnflushed)
            || self.is(OnlyFirstMapFlushed) && earlier.count > 0;
        if is_dropped { Ok(()) } else { self.recorder.flush(offset, length) }
    }

    /// Returns whether the mutant does not flush the info block at `offset`.
    fn forgets_info(&self, offset: u64) -> bool {
        let is_primary = self.arenas.iter().any(|(start, _)| *start == offset);
        let (primary, backup) =
            (MediumMutant::OpenedPrimaryUnflushed, MediumMutant::OpenedBackupUnflushed);
        self.opens_with(if is_primary { primary } else { backup })
    }

    /// Flushes what was flushed last.
    fn flush_held(&self, earlier: Flushes) -> Result<(), MediaError> {
        let flush = |(offset, length)| self.recorder.flush(offset, length);
        earlier.last.map_or(Ok(()), flush)
    }

    /// What a thread was about when it fences: where it stored last. It begins anew.
    fn end_fence(&self) -> Option<Part> {
        self.with_since(|since| {
            (since.flog, since.map) = (Flushes::default(), Flushes::default());
            since.map_lines.clear();
            since.last.take()
        })
    }

    /// Returns whether the engine hears of failed syncs.
    fn sees_failure(&self) -> bool {
        !self.is(MediumMutant::FailureForgotten) && !self.is(MediumMutant::FailureUnseen)
    }

    /// Returns whether the mutant leaves out a fence after stores to `part`.
    fn drops_fence(&self, part: Option<Part>) -> bool {
        use MediumMutant::{NoDataFence, NoFlogFence, NoInfoFence, NoMapFence, ReusedEarly};
        if self.is(MediumMutant::FenceUnsynced) {
            return true;
        }
        match part {
            Some(Part::Data | Part::Record) => self.is(NoDataFence),
            Some(Part::Flog) => self.is(NoFlogFence) || self.is(ReusedEarly),
            Some(Part::Map) => self.is(NoMapFence) || self.is(ReusedEarly),
            Some(Part::Info) => self.is(NoInfoFence),
            None => false,
        }
    }

    /// Flushes the line of a map entry that was stored, if it is the first of its line since the last fence.
    fn flush_first_of_line(&self, offset: u64) -> Result<(), MediaError> {
        let line = offset / CACHE_LINE * CACHE_LINE;
        let is_first = self.with_since(|since| {
            let is_first = !since.map_lines.contains(&line);
            since.map_lines.push(line);
            is_first
        });
        if is_first { self.recorder.flush(line, CACHE_LINE) } else { Ok(()) }
    }

    fn store_record(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        if !self.is(MediumMutant::RecordAfterFence) || self.is_opening.load(Ordering::Relaxed) {
            return self.recorder.store_u64(offset, value);
        }
        self.with_since(|since| since.held_records.push((offset, value)));
        Ok(())
    }

    /// Stores the words of records that were held back.
    fn release_records(&self) -> Result<(), MediaError> {
        for (offset, value) in self.with_since(|since| std::mem::take(&mut since.held_records)) {
            self.recorder.store_u64(offset, value)?;
            self.recorder.flush(offset, 8)?;
        }
        Ok(())
    }

    /// Returns whether the mutant does not make the page at `offset` dirty.
    fn trusts_clean(&self, offset: u64) -> bool {
        match self.mutant {
            Some(MediumMutant::TouchForgotten) => true,
            Some(MediumMutant::CleanSuperblockTrusted) => offset < 2 * PAGE_SIZE,
            Some(MediumMutant::CleanEntryTrusted) => offset >= PAGES_OFFSET,
            _ => false,
        }
    }

    /// Stores the halves of flog entries that were held back.
    fn release_held(&self) -> Result<(), MediaError> {
        for (offset, value) in self.with_since(|since| std::mem::take(&mut since.held)) {
            self.recorder.store_u64(offset, value)?;
            self.recorder.flush(offset, 8)?;
        }
        Ok(())
    }

    /// A fence, or the sync of a part of the file, with what the mutant makes of it.
    fn fence_with(&self, fence: impl FnOnce() -> Result<(), MediaError>) -> Result<(), MediaError> {
        self.look();
        let last = self.end_fence();
        let number = self.fences.fetch_add(1, Ordering::Relaxed);
        if self.is(MediumMutant::MapBeforeFlog) && last == Some(Part::Map) {
            self.recorder.fence()?;
            self.release_held()?;
        }
        let is_dropped = self.drops_fence(last)
            || self.opens_with(MediumMutant::OpenedUnfenced)
            || self.opens_with(MediumMutant::ReplayUnfenced) && last == Some(Part::Map)
            || self.opens_with(MediumMutant::UndoUnfenced) && last == Some(Part::Flog)
            || self.is(MediumMutant::EveryOtherFenceUnsynced) && number % 2 == 1;
        let fenced = if is_dropped { Ok(()) } else { fence() };
        if last == Some(Part::Flog) {
            self.release_data()?;
        }
        self.release_records()?;
        match self.mutant {
            Some(MediumMutant::FailedFenceGood | MediumMutant::FailureForgotten) => Ok(()),
            _ => fenced,
        }
    }

    fn store_flog(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        let commits = !offset.is_multiple_of(16);
        match self.mutant {
            Some(MediumMutant::HalvesSwapped) if !commits => {
                self.with_since(|since| since.held.push((offset, value)));
                Ok(())
            }
            Some(MediumMutant::HalvesSwapped) => {
                self.recorder.store_u64(offset, value)?;
                self.release_held()
            }
            Some(MediumMutant::CommitInTwoStores) if commits => {
                self.recorder.store_u32(offset + 4, (value >> 32) as u32)?;
                self.recorder.store_u32(offset, value as u32)
            }
            Some(MediumMutant::CommitStreamed) if commits => {
                self.recorder.write_bytes(offset, &value.to_le_bytes())
            }
            Some(MediumMutant::MapBeforeFlog) => {
                self.with_since(|since| since.held.push((offset, value)));
                Ok(())
            }
            _ => self.recorder.store_u64(offset, value),
        }
    }
}

/// Offset of the byte behind the last block of an arena.
fn end_of_blocks(geometry: &Geometry) -> u64 {
    geometry.dataoff + u64::from(geometry.internal_nlba) * u64::from(geometry.internal_lbasize)
}

impl PersistentMemory for Medium {
    fn size(&self) -> u64 {
        self.recorder.size()
    }

    fn durability(&self) -> Durability {
        self.recorder.durability()
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.recorder.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.recorder.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.look();
        let part = self.note(offset);
        self.recorder.store_u32(offset, value)?;
        if part == Some(Part::Map) && self.is(MediumMutant::FlushedTooSoon) {
            return self.flush_first_of_line(offset);
        }
        Ok(())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.look();
        match self.note(offset) {
            Some(Part::Flog) => self.store_flog(offset, value),
            Some(Part::Record) => self.store_record(offset, value),
            _ => self.recorder.store_u64(offset, value),
        }
    }

    fn store_u64_pair(&self, offset: u64, first: u64, second: u64) -> Result<(), MediaError> {
        use MediumMutant::{CommitInTwoStores, CommitStreamed, HalvesSwapped, MapBeforeFlog};
        let splits = [HalvesSwapped, CommitInTwoStores, CommitStreamed, MapBeforeFlog];
        if splits.iter().any(|mutant| self.is(*mutant)) {
            self.store_u64(offset, first)?;
            return self.store_u64(offset + 8, second);
        }
        self.look();
        self.note(offset);
        self.recorder.store_u64_pair(offset, first, second)
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.recorder.read(offset, into)
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.look();
        if self.note(offset) == Some(Part::Data) {
            return self.write_data(offset, from);
        }
        self.recorder.write(offset, from)
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.look();
        match self.part(offset) {
            Some(Part::Flog) => self.flush_flog(offset, length),
            Some(Part::Map) => self.flush_map(offset, length),
            Some(Part::Info) if self.forgets_info(offset) => Ok(()),
            Some(Part::Record) if self.is(MediumMutant::RecordUnflushed) => Ok(()),
            _ => self.recorder.flush(offset, length),
        }
    }

    fn fence(&self) -> Result<(), MediaError> {
        self.fence_with(|| self.recorder.fence())
    }

    fn sync_range(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.fence_with(|| self.recorder.sync_range(offset, length))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let half = self.is(MediumMutant::ZeroedInPart);
        self.recorder.zero(offset, if half { length / 2 } else { length })
    }

    fn sync(&self) -> Result<(), MediaError> {
        if let Some(watcher) = self.watcher.get() {
            watcher.before_sync();
        }
        if self.is(MediumMutant::SyncIgnored) { Ok(()) } else { self.recorder.sync() }
    }

    fn sync_takes_time(&self) -> bool {
        self.recorder.sync_takes_time()
    }

    fn sync_failure(&self) -> Option<MediaError> {
        if self.sees_failure() { self.recorder.sync_failure() } else { None }
    }

    fn sync_has_failed(&self) -> bool {
        self.sees_failure() && self.recorder.sync_has_failed()
    }

    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.look();
        if self.trusts_clean(offset) {
            return self.recorder.load_u32(offset);
        }
        self.recorder.touch_u32(offset)
    }

    fn is_cached(&self, offset: u64) -> bool {
        self.recorder.is_cached(offset)
    }

    fn next_stored(&self, offset: u64) -> u64 {
        self.recorder.next_stored(offset)
    }
}
