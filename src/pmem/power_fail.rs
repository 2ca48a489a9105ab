//! Persistent memory that lets its power fail, to show what software makes of what is left.
//!
//! The running system sees all that it stores. The file gets only what is durable: what was flushed
//! and fenced, or streamed and fenced, as on DAX, whatever the file is. When the power fails, the
//! file gets a part of the rest as well, one that a CPU might have written back just then (the model
//! of [`simulated`](super::simulated)), and the process is gone, as by SIGKILL.
//!
//! All stores, flushes and fences take turns, so this is slower than a plain [`Mapping`]; and pages
//! that were ever stored to stay in memory.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Signal, getpid, kill_process};
use vm_memory::VolatileSlice;

use super::simulated::{Durable, Random, Unfenced};
use super::{
    Backing, Durability, Intent, Lent, MapError, Mapping, MediaError, PersistentMemory, Protection,
};

/// When the power fails, and what is left then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerFailure {
    /// Fences that take effect; the power fails in the next one. `None`: it fails on demand alone.
    pub after_fences: Option<u64>,
    /// Decides what is left of what was not fenced.
    pub seed: u64,
}

/// A mapping that lets its power fail.
#[derive(Debug)]
pub struct PowerFail {
    /// What the running system sees.
    view: Mapping,
    /// What is durable.
    file: Mapping,
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
        Ok(PowerFail { view, file: mapping, failure, state: Mutex::default() })
    }

    /// What stands behind the mapping.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.file.backing()
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

    /// Lets the power fail. Nobody stores or fences meanwhile, since the state is locked: what was
    /// acknowledged to a guest by then had been fenced.
    fn fail_in(&self, state: &mut State) -> ! {
        let Remains { fences, pending, kept } = self.leave(state);
        let seed = self.failure.seed;
        // Not by way of the log, which may be off, and may be locked by somebody who waits for us.
        let _ = writeln!(
            io::stderr(),
            "vhost-user-btt: power failure: after-fences={fences},seed={seed}: {pending} bytes were \
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

    /// The file, for others to map parts of it. What they store there is in it at once.
    pub fn lend(&self, protection: Protection) -> Result<Lent, MapError> {
        self.file.lend(protection)
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
        // The file's poison is gone, so that its pages can be copied.
        self.view.write_bytes(offset, &vec![0; length as usize])
    }

    fn prefetch(&self, offset: u64, intent: Intent) {
        self.view.prefetch(offset, intent);
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

impl fmt::Display for PowerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after_fences {
            Some(fences) => write!(f, "after {fences} fences")?,
            None => write!(f, "at SIGUSR1")?,
        }
        write!(f, ", seed {}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::ops::Range;
    use std::os::unix::fs::FileExt;

    use super::super::DurabilityRequest;
    use super::*;

    const ALL: Range<u64> = 0..16384;

    struct Scenario {
        file: std::fs::File,
        medium: PowerFail,
    }

    impl Scenario {
        fn new(seed: u64) -> Scenario {
            let file = tempfile::tempfile().unwrap();
            file.set_len(ALL.end).unwrap();
            let clone = file.try_clone().unwrap();
            let mapping =
                Mapping::new(clone, ALL, Protection::ReadWrite, DurabilityRequest::Auto).unwrap();
            let failure = PowerFailure { after_fences: None, seed };
            Scenario { file, medium: PowerFail::new(mapping, failure).unwrap() }
        }

        fn in_file(&self, offset: u64) -> u8 {
            let mut byte = [0];
            self.file.read_exact_at(&mut byte, offset).unwrap();
            byte[0]
        }

        fn seen(&self, offset: u64) -> u8 {
            let mut byte = [0];
            self.medium.read_bytes(offset, &mut byte).unwrap();
            byte[0]
        }
    }

    #[test]
    fn the_file_gets_what_is_fenced_and_the_system_sees_all() {
        let scenario = Scenario::new(0);
        let medium = &scenario.medium;
        medium.store_u64(64, 1).unwrap();
        medium.write_bytes(4096, &[2; 64]).unwrap();
        medium.store_u32(128, 3).unwrap();
        medium.flush(64, 8).unwrap();
        for (offset, value) in [(64, 1), (4096, 2), (128, 3)] {
            assert_eq!((scenario.seen(offset), scenario.in_file(offset)), (value, 0));
        }
        medium.fence().unwrap();
        assert_eq!([64, 4096, 128].map(|offset| scenario.in_file(offset)), [1, 2, 0]);
        assert_eq!(medium.load_u32(128).unwrap(), 3);
    }

    #[test]
    fn zeroes_are_seen_and_durable_at_once() {
        let scenario = Scenario::new(0);
        scenario.medium.write_bytes(0, &[7; 8192]).unwrap();
        scenario.medium.fence().unwrap();
        scenario.medium.zero(4032, 4160).unwrap();
        for (offset, value) in [(4031, 7), (4032, 0), (8191, 0)] {
            assert_eq!((scenario.seen(offset), scenario.in_file(offset)), (value, value));
        }
    }

    #[test]
    fn a_failure_leaves_what_the_seed_says() {
        let remains = |seed| {
            let Scenario { file, medium } = Scenario::new(seed);
            medium.write_bytes(0, &[1; 512]).unwrap();
            medium.fence().unwrap();
            medium.write_bytes(0, &[2; 512]).unwrap();
            medium.write_bytes(512, &[2; 512]).unwrap();
            let remains = medium.leave(&medium.state());
            let mut bytes = vec![0; 1024];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes[..512].iter().all(|byte| [1, 2].contains(byte)));
            assert!(bytes[512..].iter().all(|byte| [0, 2].contains(byte)));
            let kept = bytes.iter().map(|byte| u64::from(*byte == 2)).sum();
            assert_eq!(remains, Remains { fences: 1, pending: 1024, kept });
            bytes
        };
        let all: HashSet<Vec<u8>> = (0..32).map(remains).collect();
        assert!(all.len() > 8, "{} different images", all.len());
        assert_eq!(remains(5), remains(5));
    }

    #[test]
    fn an_orderly_end_loses_nothing() {
        let scenario = Scenario::new(0);
        scenario.medium.store_u32(0, 9).unwrap();
        let Scenario { file, medium } = scenario;
        drop(medium);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [9]);
    }
}
