//! A medium that records all operations on it.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use nix::errno::Errno;
use vm_memory::VolatileSlice;

use super::Contents;
use super::Unfenced;
use super::file::{Dropped, File};
use super::medium::Simulated;
use super::turns;
use crate::pmem::{Access, Cause, Durability, MediaError, PersistentMemory};

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
    /// A sync of a file began, or of a part of it.
    SyncBegins {
        /// The first byte of the part.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The sync of a file ended.
    SyncEnds {
        /// It could not write everything back.
        has_failed: bool,
    },
    /// The kernel could not write a page of a file back.
    WriteBackFails {
        /// Where.
        page: u64,
    },
    /// A page of a file was dropped from the page cache, after its write-back had failed.
    Dropped {
        /// Where.
        page: u64,
        /// What is on the disk there.
        bytes: Box<[u8]>,
    },
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
            // A mark, and the events of files that are not on persistent memory.
            Event::Mark(_)
            | Event::SyncBegins { .. }
            | Event::SyncEnds { .. }
            | Event::WriteBackFails { .. }
            | Event::Dropped { .. } => {}
        }
    }
}

/// A [`Simulated`] medium that keeps a trace of all that was done to it.
///
/// Every access is a point at which [`turns`] may let another thread go on; loads and reads are
/// several. The medium is persistent memory, or a [`File`].
#[derive(Debug)]
pub struct Recorder {
    medium: Simulated,
    trace: Mutex<Vec<Event>>,
    file: Option<File>,
}

impl Recorder {
    /// A recorder of what is done to `medium` from now on.
    #[must_use]
    pub fn new(medium: Simulated) -> Recorder {
        Recorder { medium, trace: Mutex::new(Vec::new()), file: None }
    }

    /// A recorder of what is done to a file that is not on persistent memory, by a process that has just
    /// opened it.
    #[must_use]
    pub fn of_file(file: File) -> Recorder {
        let medium = Simulated::of(file.seen());
        Recorder { medium, trace: Mutex::new(Vec::new()), file: Some(file) }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
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

    /// Drops pages of the file whose write-back has failed, as `dropped` has it, and whose contents on the
    /// disk nothing else has replaced yet.
    pub fn drop_pages(&self, dropped: Dropped) {
        let Some(file) = &self.file else { return };
        for (page, bytes) in file.pages_to_drop(dropped) {
            self.medium.replace(page, &bytes);
            self.push(Event::Dropped { page, bytes });
        }
    }

    /// What fdatasync does to a part of the file.
    fn write_back(&self, file: &File, offset: u64, length: u64) -> Result<(), Errno> {
        turns::pause();
        if file.is_interrupted() {
            return Err(Errno::EINTR);
        }
        self.push(Event::SyncBegins { offset, length });
        turns::pause();
        let (has_failed, dropped) = file.fails_to_sync();
        let tells_of_error = has_failed || file.has_untold_error();
        self.push(Event::SyncEnds { has_failed });
        if has_failed {
            self.drop_pages(dropped);
        }
        turns::pause();
        if tells_of_error { Err(Errno::EIO) } else { Ok(()) }
    }

    fn sync_file(&self, file: &File) -> Result<(), MediaError> {
        let synced = file.writeback().sync(|| self.write_back(file, 0, self.size()));
        synced.map_err(|errno| self.sync_error(errno))
    }

    fn sync_error(&self, errno: Errno) -> MediaError {
        let cause = Cause::System(errno);
        MediaError { access: Access::Sync, offset: 0, length: self.size(), cause }
    }

    /// The page at `offset` is looked at: it is in memory from now on.
    fn look(&self, offset: u64) {
        if let Some(file) = &self.file {
            file.look(offset);
        }
    }

    /// Notes a store to the page at `offset`, as the mapping of a file does after it.
    fn note_store(&self, offset: u64) {
        let Some(file) = &self.file else { return };
        if let Some((page, dropped)) = file.fails_to_write_back(offset) {
            self.push(Event::WriteBackFails { page });
            self.drop_pages(dropped);
        }
        turns::pause();
        file.writeback().note_store();
    }

    fn push(&self, event: Event) {
        if let Some(file) = &self.file {
            file.replay(&event);
        }
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
        self.file.as_ref().map_or(Durability::Dax, File::durability)
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        turns::pause();
        self.look(offset);
        let loaded = self.medium.load_u32(offset);
        turns::pause();
        loaded
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        turns::pause();
        self.look(offset);
        let loaded = self.medium.load_u64(offset);
        turns::pause();
        loaded
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        turns::pause();
        self.medium.store_u32(offset, value)?;
        self.store(offset, &value.to_le_bytes());
        self.note_store(offset);
        Ok(())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        turns::pause();
        self.medium.store_u64(offset, value)?;
        self.store(offset, &value.to_le_bytes());
        self.note_store(offset);
        Ok(())
    }

    /// No write-back fails between the two: a page is not dropped while a thread stores to it.
    fn store_u64_pair(&self, offset: u64, first: u64, second: u64) -> Result<(), MediaError> {
        for (offset, value) in [(offset, first), (offset + 8, second)] {
            turns::pause();
            self.medium.store_u64(offset, value)?;
            self.store(offset, &value.to_le_bytes());
        }
        self.note_store(offset);
        Ok(())
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        // Others may store between any two bytes of it.
        let middle = into.len() / 2;
        let mut bytes = vec![0; into.len()];
        let (first, second) = bytes.split_at_mut(middle);
        turns::pause();
        self.look(offset);
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
        self.note_store(offset);
        Ok(())
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        turns::pause();
        self.medium.flush(offset, length)?;
        if let Some(file) =
            self.file.as_ref().filter(|file| file.durability() == Durability::Strict)
        {
            file.writeback().note_store();
        }
        self.push(Event::Flush { thread: thread::current().id(), offset, length });
        Ok(())
    }

    fn fence(&self) -> Result<(), MediaError> {
        turns::pause();
        if let Some(file) =
            self.file.as_ref().filter(|file| file.durability() == Durability::Strict)
        {
            return self.sync_file(file);
        }
        self.medium.fence()?;
        self.push(Event::Fence { thread: thread::current().id() });
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        turns::pause();
        self.medium.zero(offset, length)?;
        self.push(Event::ZeroBegins { offset, length });
        if let Some(file) = &self.file {
            self.note_store(offset);
            self.sync_file(file)?;
        }
        self.push(Event::ZeroEnds { offset, length });
        Ok(())
    }

    fn sync(&self) -> Result<(), MediaError> {
        turns::pause();
        if let Some(file) = &self.file {
            return self.sync_file(file);
        }
        self.medium.sync()?;
        self.push(Event::Sync);
        Ok(())
    }

    fn sync_range(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let Some(file) = &self.file else { return self.sync() };
        turns::pause();
        let synced = file.writeback().sync_part(|| self.write_back(file, offset, length));
        synced.map_err(|errno| self.sync_error(errno))
    }

    fn sync_takes_time(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.writeback().has_to_sync())
    }

    fn sync_failure(&self) -> Option<MediaError> {
        let failure = self.file.as_ref()?.writeback().failure()?;
        Some(self.sync_error(failure))
    }

    fn sync_has_failed(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.writeback().has_failed())
    }

    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        turns::pause();
        let word = self.medium.touch_u32(offset)?;
        if self.file.is_some() {
            self.store(offset, &word.to_le_bytes());
            self.note_store(offset);
        }
        Ok(word)
    }

    fn is_cached(&self, offset: u64) -> bool {
        self.file.as_ref().is_none_or(|file| file.is_cached(offset))
    }

    fn next_stored(&self, offset: u64) -> u64 {
        self.medium.next_stored(offset)
    }
}
