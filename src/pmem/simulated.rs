//! A medium in ordinary memory, with poison: for tests of what is generic over
//! [`PersistentMemory`].

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::VolatileSlice;

use super::{Access, CACHE_LINE, Cause, Durability, MediaError, PersistentMemory};

/// A medium in ordinary memory.
#[derive(Debug)]
pub struct Simulated {
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    poisoned: Vec<Range<u64>>,
    /// Ranges that take no stores.
    full: Vec<Range<u64>>,
}

impl Simulated {
    /// A medium of `size` zero bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Simulated::with_contents(vec![0; size as usize])
    }

    /// A medium that holds `bytes`.
    #[must_use]
    pub fn with_contents(bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        Simulated {
            size,
            state: Mutex::new(State { bytes, poisoned: Vec::new(), full: Vec::new() }),
        }
    }

    /// A copy of all bytes, poisoned or not.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Poisons the cache lines that hold `range`: reads of them fail until they are zeroed.
    pub fn poison(&self, range: Range<u64>) {
        let start = range.start - range.start % CACHE_LINE;
        self.state().poisoned.push(start..range.end.next_multiple_of(CACHE_LINE));
    }

    /// Lets every store to `range` fail from now on, as one to a hole in a full file system does.
    pub fn fill_up(&self, range: Range<u64>) {
        self.state().full.push(range);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state and the place in it of `length` bytes at `offset`, all inside the medium.
    fn checked(
        &self,
        access: Access,
        offset: u64,
        length: u64,
    ) -> Result<(MutexGuard<'_, State>, Range<usize>), MediaError> {
        let fails = |cause| Err(MediaError { access, offset, length, cause });
        let Some(end) = offset.checked_add(length).filter(|&end| end <= self.size) else {
            return fails(Cause::OutOfBounds);
        };
        let state = self.state();
        let bad = match access {
            Access::Read => &state.poisoned,
            _ => &state.full,
        };
        if bad.iter().any(|range| range.start < end && offset < range.end) {
            return fails(Cause::Medium);
        }
        Ok((state, offset as usize..end as usize))
    }

    /// As [`checked`](Self::checked), for a single access of `N` bytes.
    fn checked_word<const N: usize>(
        &self,
        access: Access,
        offset: u64,
    ) -> Result<(MutexGuard<'_, State>, Range<usize>), MediaError> {
        let length = N as u64;
        if !offset.is_multiple_of(length) {
            return Err(MediaError { access, offset, length, cause: Cause::Misaligned });
        }
        self.checked(access, offset, length)
    }

    fn load<const N: usize>(&self, offset: u64) -> Result<[u8; N], MediaError> {
        let (state, place) = self.checked_word::<N>(Access::Read, offset)?;
        let mut word = [0; N];
        word.copy_from_slice(&state.bytes[place]);
        Ok(word)
    }

    fn store<const N: usize>(&self, offset: u64, word: [u8; N]) -> Result<(), MediaError> {
        let (mut state, place) = self.checked_word::<N>(Access::Write, offset)?;
        state.bytes[place].copy_from_slice(&word);
        Ok(())
    }
}

impl PersistentMemory for Simulated {
    fn size(&self) -> u64 {
        self.size
    }

    fn durability(&self) -> Durability {
        Durability::Dax
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.load(offset).map(u32::from_le_bytes)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.load(offset).map(u64::from_le_bytes)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.store(offset, value.to_le_bytes())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.store(offset, value.to_le_bytes())
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let (state, place) = self.checked(Access::Read, offset, into.len() as u64)?;
        into.copy_from(&state.bytes[place]);
        Ok(())
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let (mut state, place) = self.checked(Access::Write, offset, from.len() as u64)?;
        from.copy_to(&mut state.bytes[place]);
        Ok(())
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.checked(Access::Flush, offset, length).map(drop)
    }

    fn fence(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let (mut state, place) = self.checked(Access::Zero, offset, length)?;
        state.bytes[place].fill(0);
        state.poisoned.retain(|range| range.end <= offset || offset + length <= range.start);
        Ok(())
    }

    fn sync(&self) -> Result<(), MediaError> {
        Ok(())
    }
}
