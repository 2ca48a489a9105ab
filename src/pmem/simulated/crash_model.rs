//! What of a medium survives a power failure, and what the death of a process: of persistent memory and of
//! files that are not.

use std::sync::Arc;
use std::thread;

use super::super::Durability;
use super::page_cache::PageCache;
use super::{Contents, Effort, Event, File, Images, Random, Recorder, Simulated, Unfenced};

/// The media that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumKind {
    /// Persistent memory: what was flushed and fenced is durable.
    Dax,
    /// A file whose every fence is a sync.
    Strict {
        /// Bytes that its disk takes at once.
        disk_sector: u64,
    },
    /// A file that is synced by [`sync`](crate::pmem::PersistentMemory::sync) alone.
    PageCache {
        /// Bytes that its disk takes at once.
        disk_sector: u64,
    },
}

/// A medium as it is to those who see all that was stored, and to those who come after a power failure.
#[derive(Debug, Clone)]
pub enum CrashModel {
    /// Persistent memory: what is durable, and what else was stored.
    Dax(Contents, Unfenced),
    /// A file.
    File(PageCache, Durability),
}

/// What `act` does to persistent memory of `base`. It is done by another thread than the caller's, whose
/// fences speak for itself alone.
///
/// # Panics
///
/// If `act` panics.
pub fn trace_of_another(base: &Contents, act: impl FnOnce(Arc<Recorder>) + Send) -> Vec<Event> {
    CrashModel::new(MediumKind::Dax, base).trace_of_another(act)
}

impl MediumKind {
    /// What a fence makes durable.
    #[must_use]
    pub fn durability(self) -> Durability {
        match self {
            MediumKind::Dax => Durability::Dax,
            MediumKind::Strict { .. } => Durability::Strict,
            MediumKind::PageCache { .. } => Durability::PageCache,
        }
    }
}

impl CrashModel {
    /// A medium of which `base` is durable, and nothing else was stored.
    #[must_use]
    pub fn new(kind: MediumKind, base: &Contents) -> CrashModel {
        match kind {
            MediumKind::Dax => CrashModel::Dax(base.clone(), Unfenced::default()),
            MediumKind::Strict { disk_sector } | MediumKind::PageCache { disk_sector } => {
                CrashModel::File(PageCache::new(base.clone(), disk_sector), kind.durability())
            }
        }
    }

    /// What is left of persistent memory of `base` where a process was killed after `events`.
    #[must_use]
    pub fn after(base: &Contents, events: &[Event]) -> CrashModel {
        let mut model = CrashModel::new(MediumKind::Dax, base);
        model.replay(events);
        model
    }

    /// A recorder for a process that opens the medium now, and sees all that was stored.
    #[must_use]
    pub fn open(&self) -> Recorder {
        match self {
            CrashModel::Dax(..) => Recorder::new(Simulated::of(self.seen())),
            CrashModel::File(cache, durability) => {
                Recorder::of_file(File::new(cache.clone(), *durability))
            }
        }
    }

    /// What `act` does to the medium as it is [seen](Self::seen) now. It is done by another thread than the
    /// caller's, whose fences speak for itself alone.
    ///
    /// # Panics
    ///
    /// If `act` panics.
    pub fn trace_of_another(&self, act: impl FnOnce(Arc<Recorder>) + Send) -> Vec<Event> {
        let run = || {
            let recorder = Arc::new(self.open());
            act(recorder.clone());
            recorder.take_trace()
        };
        thread::scope(|scope| scope.spawn(run).join().expect("what is traced does not panic"))
    }

    /// Does `events` to the medium.
    pub fn replay(&mut self, events: &[Event]) {
        for event in events {
            match self {
                CrashModel::Dax(durable, unfenced) => event.replay(unfenced, durable),
                CrashModel::File(cache, _) => cache.replay(event),
            }
        }
    }

    /// What the next process sees: all that was stored.
    #[must_use]
    pub fn seen(&self) -> Contents {
        match self {
            CrashModel::Dax(durable, unfenced) => {
                let mut seen = durable.clone();
                unfenced.apply_all(&mut seen);
                seen
            }
            CrashModel::File(cache, _) => cache.seen(),
        }
    }

    /// Offsets of the data that need not be durable.
    #[must_use]
    pub fn open_data(&self) -> Vec<u64> {
        match self {
            CrashModel::Dax(_, unfenced) => unfenced.streamed().collect(),
            CrashModel::File(cache, _) => cache.data().collect(),
        }
    }

    /// Hands `each` the images that a power failure may leave now.
    pub fn images(
        &self,
        effort: &Effort,
        random: &mut Random,
        each: &mut dyn FnMut(Contents),
    ) -> Images {
        match self {
            CrashModel::Dax(durable, unfenced) => unfenced.images(durable, effort, random, each),
            CrashModel::File(cache, _) => cache.images(effort, random, each),
        }
    }
}
