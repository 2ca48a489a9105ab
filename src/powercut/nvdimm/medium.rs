//! Persistent memory that lets its power fail, to show what software makes of what is left.
//!
//! The running system sees all that it stores. The file gets only what is durable: what was flushed
//! and fenced, or streamed and fenced, as on DAX, whatever the file is. When the power fails, the
//! file gets a part of the rest as well, one that a CPU might have written back just then (the model
//! of [`cache_model`](crate::pmem::cache_model)), and the process is gone, as by SIGKILL.
//!
//! Stores of frontends that map the file are in it at once. When the power fails, a part of what they have not
//! made durable is taken back (`shadow`).
//!
//! All stores, flushes and fences take turns, so this is slower than a plain [`Mapping`]; and pages
//! that were ever stored to stay in memory, and so does a copy of what frontends have mapped.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Signal, getpid, kill_process};
use vm_memory::VolatileSlice;

use super::PowerFailure;
use super::shadow::{Shadow, fail_all};
use crate::pmem::cache_model::{Durable, Random, Unfenced};
use crate::pmem::{
    Durability, Intent, MapError, Mapping, MediaError, PersistentMemory, Protection, SharedFile,
};

/// A mapping that lets its power fail.
#[derive(Debug)]
pub struct PowerFail {
    /// What the running system sees.
    view: Mapping,
    /// What is durable, and what others store.
    file: Arc<Mapping>,
    shadow: Arc<Shadow>,
    failure: PowerFailure,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    unfenced: Unfenced,
    /// Fences that have taken effect.
    fences: u64,
}

/// What a power failure has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remains {
    /// Fences that had taken effect.
    fences: u64,
    /// Bytes that were stored and not durable.
    pending: u64,
    /// How many of those reached the file.
    kept: u64,
}

impl PowerFail {
    /// Keeps from `mapping`, which can be stored to, what is not durable.
    pub fn new(mapping: Mapping, failure: PowerFailure) -> Result<PowerFail, MapError> {
        let view = mapping.private_view()?;
        let file = Arc::new(mapping);
        let shadow = Shadow::new(file.clone(), failure.loses_flushes);
        Ok(PowerFail { view, file, shadow, failure, state: Mutex::default() })
    }

    /// Lets the power fail now.
    pub fn fail(&self) -> ! {
        self.fail_in(&mut self.state())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins something that makes stores durable, unless the power fails at that moment.
    fn begin_fence(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if self.failure.after_fences == Some(state.fences) {
            self.fail_in(&mut state);
        }
        state.fences += 1;
        state
    }

    /// Lets the power fail. No thread stores, fences or flushes meanwhile, since all of that is locked: what
    /// was acknowledged to a guest by then had been fenced, or flushed.
    fn fail_in(&self, state: &mut State) -> ! {
        let seed = self.failure.seed;
        let of_others = fail_all(seed);
        let Remains { fences, pending, kept } = self.leave(state);
        let (pending, kept) = (of_others.pending + pending, of_others.kept + kept);
        // Not by way of the log, which may be off, and may be locked by a thread that waits for this one.
        let _ = writeln!(
            io::stderr(),
            "powercut: power failure: after-fences={fences},seed={seed}: {pending} bytes were \
             pending, {kept} of them are kept"
        );
        loop {
            // A process may always send itself a signal, and does not survive this one.
            let _ = kill_process(getpid(), Signal::KILL);
            thread::yield_now();
        }
    }

    /// Lets reach the file what the seed says of what is not durable.
    fn leave(&self, state: &State) -> Remains {
        let mut kept = 0;
        let mut random = Random::new(self.failure.seed);
        state.unfenced.fail(&mut random, &mut |offset, bytes| {
            // A medium that does not answer keeps nothing, power or no power.
            if self.file.write_bytes(offset, bytes).is_ok() {
                kept += bytes.len() as u64;
            }
        });
        Remains { fences: state.fences, pending: state.unfenced.bytes(), kept }
    }

    /// The file, for others to map parts of it.
    pub fn share_file(&self, protection: Protection) -> Result<SharedFile, MapError> {
        Ok(self.file.share_file(protection)?.observed_by(self.shadow.clone()))
    }

    /// The part of the file that durable bytes go to.
    fn durable(&self) -> Sink<'_> {
        Sink { mapping: &self.file, result: Ok(()) }
    }

    /// An ordinary store of the bytes `value`.
    fn store(
        &self,
        offset: u64,
        value: &[u8],
        store: impl FnOnce(&Mapping) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let mut state = self.state();
        store(&self.view)?;
        state.unfenced.store(offset, value);
        Ok(())
    }
}

/// The file, as the place where durable bytes go to.
struct Sink<'a> {
    mapping: &'a Mapping,
    /// The first failure.
    result: Result<(), MediaError>,
}

impl Sink<'_> {
    fn then(&mut self, act: impl FnOnce(&Mapping) -> Result<(), MediaError>) {
        let done = act(self.mapping);
        self.result = self.result.and(done);
    }
}

impl Durable for Sink<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.then(|mapping| mapping.write_bytes(offset, bytes));
    }

    fn zero(&mut self, offset: u64, length: u64) {
        self.then(|mapping| mapping.zero(offset, length));
    }
}

impl PersistentMemory for PowerFail {
    fn size(&self) -> u64 {
        self.view.size()
    }

    fn durability(&self) -> Durability {
        Durability::Dax
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.view.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.view.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.store(offset, &value.to_le_bytes(), |view| view.store_u32(offset, value))
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.store(offset, &value.to_le_bytes(), |view| view.store_u64(offset, value))
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.view.read(offset, into)
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let mut state = self.state();
        self.view.write(offset, from)?;
        // Not from `from` once more: a guest may be changing it.
        let mut bytes = vec![0; from.len()];
        self.view.read_bytes(offset, &mut bytes)?;
        state.unfenced.stream(thread::current().id(), offset, &bytes);
        Ok(())
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let mut state = self.state();
        self.view.flush(offset, length)?;
        state.unfenced.flush(thread::current().id(), offset, length);
        Ok(())
    }

    fn fence(&self) -> Result<(), MediaError> {
        let mut state = self.begin_fence();
        let mut durable = self.durable();
        state.unfenced.fence(thread::current().id(), &mut durable);
        durable.result?;
        self.file.fence()
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.state().unfenced.begin_zeroing(offset, length);
        let mut state = self.begin_fence();
        let mut durable = self.durable();
        state.unfenced.end_zeroing(offset, length, &mut durable);
        durable.result?;
        self.shadow.state().zero(offset, length);
        // The file's poison is gone, so that its pages can be copied.
        self.view.write_bytes(offset, &vec![0; length as usize])
    }

    fn prefetch(&self, offset: u64, length: u64, intent: Intent) {
        self.view.prefetch(offset, length, intent);
    }

    /// As on DAX: there is nothing to sync but what this thread has flushed and streamed.
    fn sync(&self) -> Result<(), MediaError> {
        self.fence()
    }
}

/// The process comes to an orderly end: the caches are written back in time.
impl Drop for PowerFail {
    fn drop(&mut self) {
        let mut durable = self.durable();
        self.state().unfenced.sync(&mut durable);
        if let Err(error) = durable.result {
            log::error!("cannot write back what was stored: {error}");
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
