//! A simulated medium in ordinary memory.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use vm_memory::VolatileSlice;

use super::super::{Access, CACHE_LINE, Cause, Durability, MediaError, PersistentMemory};
use super::Contents;

/// A medium in ordinary memory, with poison.
#[derive(Debug)]
pub struct Simulated {
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    contents: Contents,
    poisoned: Vec<Range<u64>>,
    /// Ranges that take no stores.
    full: Vec<Range<u64>>,
    /// Ranges that go bad as soon as they have been touched.
    touchy: Vec<(Range<u64>, Fault)>,
    /// The next sync fails.
    next_sync_fails: bool,
    sync_failure: Option<MediaError>,
}

/// How a range goes bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It takes no stores, as a hole in a full file system.
    Full,
    /// It takes neither loads nor stores.
    Poison,
}

/// What is left of a poisoned range once `length` bytes at `offset` are zeroed: whole cache lines.
pub fn without(
    poisoned: &Range<u64>,
    offset: u64,
    length: u64,
) -> impl Iterator<Item = Range<u64>> + use<> {
    let zeroed = offset.next_multiple_of(CACHE_LINE)..(offset + length) / CACHE_LINE * CACHE_LINE;
    let zeroed = if zeroed.is_empty() { poisoned.end..poisoned.end } else { zeroed };
    let before = poisoned.start..poisoned.end.min(zeroed.start);
    let after = poisoned.start.max(zeroed.end)..poisoned.end;
    [before, after].into_iter().filter(|range| !range.is_empty())
}

impl Simulated {
    /// A medium of `size` zero bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Simulated::of(Contents::zeroes(size))
    }

    /// A medium that holds `bytes`.
    #[must_use]
    pub fn with_contents(bytes: &[u8]) -> Self {
        Simulated::of(Contents::from(bytes))
    }

    /// A medium that holds `contents`.
    #[must_use]
    pub fn of(contents: Contents) -> Self {
        let size = contents.size();
        let state = State {
            contents,
            poisoned: Vec::new(),
            full: Vec::new(),
            touchy: Vec::new(),
            next_sync_fails: false,
            sync_failure: None,
        };
        Simulated { size, state: Mutex::new(state) }
    }

    /// A copy of all bytes, poisoned or not.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        self.state().contents.read(0, &mut bytes);
        bytes
    }

    /// The contents as they are now, poisoned or not.
    #[must_use]
    pub fn snapshot(&self) -> Contents {
        self.state().contents.clone()
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

    /// Lets stores succeed again that failed since [`fill_up`](Self::fill_up).
    pub fn make_room(&self) {
        self.state().full.clear();
    }

    /// Lets `range` go bad right after it is next touched.
    pub fn fail_after_touch(&self, range: Range<u64>, fault: Fault) {
        self.state().touchy.push((range, fault));
    }

    /// Replaces the bytes at `offset`, whatever is wrong with them.
    pub(super) fn replace(&self, offset: u64, bytes: &[u8]) {
        self.state().contents.write(offset, bytes);
    }

    /// Lets the next sync fail, and so every later one.
    pub fn fail_next_sync(&self) {
        self.state().next_sync_fails = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, once `length` bytes at `offset` are known to be inside the medium, and to be good
    /// for `access`.
    fn checked(
        &self,
        access: Access,
        offset: u64,
        length: u64,
    ) -> Result<MutexGuard<'_, State>, MediaError> {
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
        Ok(state)
    }

    /// As [`checked`](Self::checked), for a single access of `N` bytes.
    fn checked_word<const N: usize>(
        &self,
        access: Access,
        offset: u64,
    ) -> Result<MutexGuard<'_, State>, MediaError> {
        let length = N as u64;
        if !offset.is_multiple_of(length) {
            return Err(MediaError { access, offset, length, cause: Cause::Misaligned });
        }
        self.checked(access, offset, length)
    }

    fn load<const N: usize>(&self, offset: u64) -> Result<[u8; N], MediaError> {
        let state = self.checked_word::<N>(Access::Read, offset)?;
        let mut word = [0; N];
        state.contents.read(offset, &mut word);
        Ok(word)
    }

    fn store<const N: usize>(&self, offset: u64, word: [u8; N]) -> Result<(), MediaError> {
        let mut state = self.checked_word::<N>(Access::Write, offset)?;
        state.contents.write(offset, &word);
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
        let mut bytes = vec![0; into.len()];
        self.read_bytes(offset, &mut bytes)?;
        into.copy_from(&bytes);
        Ok(())
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        self.write_bytes(offset, &bytes)
    }

    fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<(), MediaError> {
        let state = self.checked(Access::Read, offset, into.len() as u64)?;
        state.contents.read(offset, into);
        Ok(())
    }

    fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<(), MediaError> {
        let mut state = self.checked(Access::Write, offset, from.len() as u64)?;
        state.contents.write(offset, from);
        Ok(())
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.checked(Access::Flush, offset, length).map(drop)
    }

    fn fence(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let mut state = self.checked(Access::Zero, offset, length)?;
        state.contents.zero(offset, length);
        let poisoned = state.poisoned.iter();
        state.poisoned = poisoned.flat_map(|range| without(range, offset, length)).collect();
        Ok(())
    }

    fn sync(&self) -> Result<(), MediaError> {
        let mut state = self.state();
        if state.next_sync_fails && state.sync_failure.is_none() {
            let cause = Cause::System(Errno::EIO);
            let error = MediaError { access: Access::Sync, offset: 0, length: self.size, cause };
            state.sync_failure = Some(error);
        }
        state.sync_failure.map_or(Ok(()), Err)
    }

    fn sync_failure(&self) -> Option<MediaError> {
        self.state().sync_failure
    }

    fn sync_has_failed(&self) -> bool {
        self.state().sync_failure.is_some()
    }

    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        let word = self.load_u32(offset)?;
        let mut state = self.checked_word::<4>(Access::Write, offset)?;
        let touched = state.touchy.extract_if(.., |(range, _)| range.contains(&offset));
        for (range, fault) in touched.collect::<Vec<_>>() {
            state.full.push(range.clone());
            if fault == Fault::Poison {
                state.poisoned.push(range);
            }
        }
        Ok(word)
    }

    fn next_stored(&self, offset: u64) -> u64 {
        let state = self.state();
        let poisoned = state.poisoned.iter().filter(|range| offset < range.end);
        let poisoned = poisoned.map(|range| range.start.max(offset)).min();
        let stored = state.contents.next_stored(offset);
        poisoned.map_or(stored, |poisoned| stored.min(poisoned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroing_clears_the_poison_of_whole_cache_lines_and_no_other() {
        let medium = Simulated::new(4096);
        medium.poison(64..512);
        medium.zero(100, 200).unwrap();
        let is_readable = |line: u64| medium.load_u32(line * CACHE_LINE).is_ok();
        let readable: Vec<u64> = (0..8).filter(|line| is_readable(*line)).collect();
        assert_eq!(readable, [0, 2, 3]);
        medium.zero(0, 4096).unwrap();
        assert!((0..8).all(is_readable));
        medium.poison(0..64);
        medium.zero(1, 62).unwrap();
        assert!(!is_readable(0));
    }
}
