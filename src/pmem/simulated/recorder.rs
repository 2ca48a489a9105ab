//! A medium that remembers all that was done to it.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use vm_memory::VolatileSlice;

use super::contents::Contents;
use super::medium::Simulated;
use super::turns;
use super::unfenced::Unfenced;
use crate::pmem::{Durability, MediaError, PersistentMemory};

/// Something that was done to a medium.
#[derive(Debug, Clone)]
pub enum Event {
    /// An ordinary store.
    Store {
        /// Where.
        offset: u64,
        /// What: four bytes, or eight.
        bytes: Box<[u8]>,
    },
    /// A streaming store.
    Stream {
        /// By whom.
        thread: ThreadId,
        /// Where.
        offset: u64,
        /// What.
        bytes: Box<[u8]>,
    },
    /// A flush.
    Flush {
        /// By whom.
        thread: ThreadId,
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// A fence.
    Fence {
        /// By whom.
        thread: ThreadId,
    },
    /// Zeroing began.
    ZeroBegins {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Zeroing ended.
    ZeroEnds {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Everything became durable.
    Sync,
    /// What [`Recorder::mark`] was told.
    Mark(u64),
}

impl Event {
    /// Brings the persistence model, and what is durable, from before the event to after it.
    pub fn replay(&self, unfenced: &mut Unfenced, durable: &mut Contents) {
        match *self {
            Event::Store { offset, ref bytes } => unfenced.store(offset, bytes),
            Event::Stream { thread, offset, ref bytes } => unfenced.stream(thread, offset, bytes),
            Event::Flush { thread, offset, length } => unfenced.flush(thread, offset, length),
            Event::Fence { thread } => unfenced.fence(thread, durable),
            Event::ZeroBegins { offset, length } => unfenced.begin_zeroing(offset, length),
            Event::ZeroEnds { offset, length } => unfenced.end_zeroing(offset, length, durable),
            Event::Sync => unfenced.sync(durable),
            Event::Mark(_) => {}
        }
    }
}

/// A [`Simulated`] medium that keeps a trace of all that was done to it.
///
/// Every access is a point at which [`turns`] may let another thread go on; loads and reads are
/// several.
#[derive(Debug)]
pub struct Recorder {
    medium: Simulated,
    trace: Mutex<Vec<Event>>,
}

impl Recorder {
    /// A recorder of what is done to `medium` from now on.
    #[must_use]
    pub fn new(medium: Simulated) -> Recorder {
        Recorder { medium, trace: Mutex::new(Vec::new()) }
    }

    /// The medium.
    #[must_use]
    pub fn medium(&self) -> &Simulated {
        &self.medium
    }

    /// Puts a mark into the trace, for instance that a request began or ended.
    pub fn mark(&self, mark: u64) {
        self.push(Event::Mark(mark));
    }

    /// What was done since the last call.
    #[must_use]
    pub fn take_trace(&self) -> Vec<Event> {
        mem::take(&mut *self.trace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, event: Event) {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn store(&self, offset: u64, bytes: &[u8]) {
        self.push(Event::Store { offset, bytes: bytes.into() });
    }
}

impl PersistentMemory for Recorder {
    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn durability(&self) -> Durability {
        self.medium.durability()
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        turns::pause();
        let loaded = self.medium.load_u32(offset);
        turns::pause();
        loaded
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        turns::pause();
        let loaded = self.medium.load_u64(offset);
        turns::pause();
        loaded
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        turns::pause();
        self.medium.store_u32(offset, value)?;
        self.store(offset, &value.to_le_bytes());
        Ok(())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        turns::pause();
        self.medium.store_u64(offset, value)?;
        self.store(offset, &value.to_le_bytes());
        Ok(())
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        // Others may store between any two bytes of it.
        let middle = into.len() / 2;
        let mut bytes = vec![0; into.len()];
        let (first, second) = bytes.split_at_mut(middle);
        turns::pause();
        self.medium.read_bytes(offset, first)?;
        turns::pause();
        self.medium.read_bytes(offset + middle as u64, second)?;
        into.copy_from(&bytes);
        Ok(())
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        turns::pause();
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        self.medium.write_bytes(offset, &bytes)?;
        let thread = thread::current().id();
        self.push(Event::Stream { thread, offset, bytes: bytes.into() });
        Ok(())
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        turns::pause();
        self.medium.flush(offset, length)?;
        self.push(Event::Flush { thread: thread::current().id(), offset, length });
        Ok(())
    }

    fn fence(&self) -> Result<(), MediaError> {
        turns::pause();
        self.medium.fence()?;
        self.push(Event::Fence { thread: thread::current().id() });
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        turns::pause();
        self.medium.zero(offset, length)?;
        self.push(Event::ZeroBegins { offset, length });
        self.push(Event::ZeroEnds { offset, length });
        Ok(())
    }

    fn sync(&self) -> Result<(), MediaError> {
        turns::pause();
        self.medium.sync()?;
        self.push(Event::Sync);
        Ok(())
    }

    fn next_stored(&self, offset: u64) -> u64 {
        self.medium.next_stored(offset)
    }
}
