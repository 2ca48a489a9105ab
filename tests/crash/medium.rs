//! The medium that the engine runs on: a recorder, with errors of its own where a mutant wants them.
//!
//! What an engine that forgets a flush or a fence does to its medium is what an engine that has it
//! does, less that: so these mutants need no place in the engine. Which flush or fence it is, is told
//! by where the thread stored before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, ThreadId};

use vhost_user_btt::btt::{Geometry, find};
use vhost_user_btt::pmem::simulated::{Contents, Recorder, Simulated};
use vhost_user_btt::pmem::{Durability, MediaError, PersistentMemory};
use vm_memory::VolatileSlice;

/// An error in what is done to the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumMutant {
    /// Data are not fenced before the flog.
    NoDataFence,
    /// The flog is not fenced before the map.
    NoFlogFence,
    /// The map is not fenced before the next write.
    NoMapFence,
    /// Flog entries are not flushed.
    NoFlogFlush,
    /// Map entries are not flushed.
    NoMapFlush,
    /// Of the flog entries between two fences, only the first is flushed.
    OnlyFirstFlogFlushed,
    /// The half of a flog entry that commits is stored first.
    HalvesSwapped,
    /// The half that commits is stored as two words, the sequence number first.
    CommitInTwoStores,
    /// The half that commits is streamed, past the cache line of the other half.
    CommitStreamed,
    /// Flog entries are stored after the map entries.
    MapBeforeFlog,
    /// Freed blocks are filled before the write that freed them is durable: neither flog nor map are
    /// fenced, the next round's data are on their way.
    ReusedEarly,
    /// Info blocks are not fenced.
    NoInfoFence,
}

impl MediumMutant {
    pub const ALL: [MediumMutant; 12] = [
        MediumMutant::NoDataFence,
        MediumMutant::NoFlogFence,
        MediumMutant::NoMapFence,
        MediumMutant::NoFlogFlush,
        MediumMutant::NoMapFlush,
        MediumMutant::OnlyFirstFlogFlushed,
        MediumMutant::HalvesSwapped,
        MediumMutant::CommitInTwoStores,
        MediumMutant::CommitStreamed,
        MediumMutant::MapBeforeFlog,
        MediumMutant::ReusedEarly,
        MediumMutant::NoInfoFence,
    ];
}

/// The parts of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Info,
    Data,
    Map,
    Flog,
}

/// What a thread did since its last fence.
#[derive(Debug, Default)]
struct Since {
    last: Option<Part>,
    flog_flushes: usize,
    /// Flog stores that are held back.
    held: Vec<(u64, u64)>,
}

/// A recorder, and the mutant.
pub struct Medium {
    pub recorder: Recorder,
    mutant: Option<MediumMutant>,
    arenas: Vec<(u64, Geometry)>,
    threads: Mutex<HashMap<ThreadId, Since>>,
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
            Some(_) => find(&Simulated::of(layout.clone()), None).unwrap(),
        };
        Arc::new(Medium {
            recorder,
            mutant,
            arenas: arenas.iter().map(|arena| (arena.start, arena.info.geometry)).collect(),
            threads: Mutex::default(),
            watcher: OnceLock::new(),
        })
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

    /// Whether the mutant leaves out a fence after stores to `part`.
    fn drops_fence(&self, part: Option<Part>) -> bool {
        use MediumMutant::{NoDataFence, NoFlogFence, NoInfoFence, NoMapFence, ReusedEarly};
        match part {
            Some(Part::Data) => self.is(NoDataFence),
            Some(Part::Flog) => self.is(NoFlogFence) || self.is(ReusedEarly),
            Some(Part::Map) => self.is(NoMapFence) || self.is(ReusedEarly),
            Some(Part::Info) => self.is(NoInfoFence),
            None => false,
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
        self.note(offset);
        self.recorder.store_u32(offset, value)
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.look();
        match self.note(offset) {
            Some(Part::Flog) => self.store_flog(offset, value),
            _ => self.recorder.store_u64(offset, value),
        }
    }

    fn store_u64_pair(&self, offset: u64, first: u64, second: u64) -> Result<(), MediaError> {
        if self.mutant.is_some() || self.watcher.get().is_some() {
            self.store_u64(offset, first)?;
            return self.store_u64(offset + 8, second);
        }
        self.recorder.store_u64_pair(offset, first, second)
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.recorder.read(offset, into)
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.look();
        self.note(offset);
        self.recorder.write(offset, from)
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.look();
        let dropped = match self.part(offset) {
            Some(Part::Flog) => {
                let earlier = self.with_since(|since| {
                    since.flog_flushes += 1;
                    since.flog_flushes - 1
                });
                self.is(MediumMutant::NoFlogFlush)
                    || self.is(MediumMutant::OnlyFirstFlogFlushed) && earlier > 0
            }
            Some(Part::Map) => self.is(MediumMutant::NoMapFlush),
            _ => false,
        };
        if dropped { Ok(()) } else { self.recorder.flush(offset, length) }
    }

    fn fence(&self) -> Result<(), MediaError> {
        self.look();
        let last = self.with_since(|since| {
            since.flog_flushes = 0;
            since.last.take()
        });
        if self.is(MediumMutant::MapBeforeFlog) && last == Some(Part::Map) {
            self.recorder.fence()?;
            self.release_held()?;
        }
        if self.drops_fence(last) { Ok(()) } else { self.recorder.fence() }
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.recorder.zero(offset, length)
    }

    fn sync(&self) -> Result<(), MediaError> {
        if let Some(watcher) = self.watcher.get() {
            watcher.before_sync();
        }
        self.recorder.sync()
    }

    fn sync_takes_time(&self) -> bool {
        self.recorder.sync_takes_time()
    }

    fn sync_failure(&self) -> Option<MediaError> {
        self.recorder.sync_failure()
    }

    fn sync_has_failed(&self) -> bool {
        self.recorder.sync_has_failed()
    }

    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.look();
        self.recorder.touch_u32(offset)
    }

    fn is_cached(&self, offset: u64) -> bool {
        self.recorder.is_cached(offset)
    }

    fn next_stored(&self, offset: u64) -> u64 {
        self.recorder.next_stored(offset)
    }
}
