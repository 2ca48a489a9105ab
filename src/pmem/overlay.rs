//! A copy-on-write overlay over a medium: changes stay in memory, and the medium is only read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::VolatileSlice;

use super::{Access, CACHE_LINE, Cause, Durability, MediaError, PersistentMemory};

const LINE: usize = CACHE_LINE as usize;

/// A medium with changes that it does not have.
///
/// What is stored here is kept by whole cache lines, and the medium itself is never written to. A
/// line that was changed can be read even where the medium cannot.
#[derive(Debug)]
pub struct Overlay<'m, M> {
    medium: &'m M,
    changes: Mutex<Changes>,
}

/// What was changed.
#[derive(Debug, Default)]
struct Changes {
    /// The lines, by number.
    lines: BTreeMap<u64, [u8; LINE]>,
    /// The ends of what was stored to, by where it starts.
    stored: BTreeMap<u64, u64>,
}

/// Bytes that a change replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Their offset in the medium.
    pub offset: u64,
    /// What they were before; `None`: they cannot be read, not all of them.
    pub before: Option<Vec<u8>>,
    /// What they are afterwards; as many.
    pub after: Vec<u8>,
}

impl<'m, M: PersistentMemory> Overlay<'m, M> {
    /// `medium` as it is.
    pub fn new(medium: &'m M) -> Overlay<'m, M> {
        Overlay { medium, changes: Mutex::default() }
    }

    /// The bytes that were stored to, or [noted](Self::note), as they are in the medium and as they are
    /// here, by offset.
    #[must_use]
    pub fn saved(&self) -> Vec<Saved> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (&start, &end) in &self.changes().stored {
            match ranges.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        let read = |range: Range<u64>| {
            let mut before = vec![0; (range.end - range.start) as usize];
            let mut after = before.clone();
            let was_read = self.medium.read_bytes(range.start, &mut before).is_ok();
            // Only what was noted, and not stored, cannot be read here.
            self.read_bytes(range.start, &mut after).ok()?;
            Some(Saved { offset: range.start, before: was_read.then_some(before), after })
        };
        ranges.into_iter().filter_map(read).collect()
    }

    /// Counts `range` among the bytes that were stored to.
    pub fn note(&self, range: Range<u64>) {
        let mut changes = self.changes();
        let end = changes.stored.entry(range.start).or_default();
        *end = range.end.max(*end);
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_range(&self, access: Access, offset: u64, length: u64) -> Result<(), MediaError> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size()) {
            return Ok(());
        }
        Err(MediaError { access, offset, length, cause: Cause::OutOfBounds })
    }

    /// Hands out the parts of a range that lie in one cache line each: the line's number, where in it
    /// the part begins, and the part of `0..length`.
    fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let within = (at % CACHE_LINE) as usize;
            let part = done..length.min(done + LINE - within);
            done = part.end;
            (!part.is_empty()).then_some((at / CACHE_LINE, within, part))
        })
    }

    /// Changes part of a line. What else is in it has to be read first.
    fn change(&self, number: u64, within: usize, from: &[u8]) -> Result<(), MediaError> {
        let lines = &mut self.changes().lines;
        let mut line = match lines.get(&number) {
            Some(line) => *line,
            None if from.len() == LINE => [0; LINE],
            None => {
                let mut line = [0; LINE];
                let start = number * CACHE_LINE;
                let length = (self.size() - start).min(CACHE_LINE) as usize;
                self.medium.read_bytes(start, &mut line[..length])?;
                line
            }
        };
        line[within..within + from.len()].copy_from_slice(from);
        lines.insert(number, line);
        Ok(())
    }

    /// Reads what was not changed, if anything.
    fn read_medium(&self, offset: u64, into: &mut [u8]) -> Result<(), MediaError> {
        if into.is_empty() { Ok(()) } else { self.medium.read_bytes(offset, into) }
    }

    fn load<const N: usize>(&self, offset: u64) -> Result<[u8; N], MediaError> {
        let mut word = [0; N];
        self.read_bytes(offset, &mut word)?;
        Ok(word)
    }
}

impl<M: PersistentMemory> PersistentMemory for Overlay<'_, M> {
    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn durability(&self) -> Durability {
        self.medium.durability()
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.load(offset).map(u32::from_le_bytes)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.load(offset).map(u64::from_le_bytes)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.write_bytes(offset, &value.to_le_bytes())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.write_bytes(offset, &value.to_le_bytes())
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

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.check_range(Access::Flush, offset, length)
    }

    fn fence(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.write_bytes(offset, &vec![0; length as usize])
    }

    fn sync(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn next_stored(&self, offset: u64) -> u64 {
        let stored = self.medium.next_stored(offset);
        let changes = self.changes();
        let next = changes.lines.range(offset / CACHE_LINE..).next();
        next.map_or(stored, |(number, _)| stored.min((number * CACHE_LINE).max(offset)))
    }

    fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<(), MediaError> {
        self.check_range(Access::Read, offset, into.len() as u64)?;
        let changes = self.changes();
        let end = offset + into.len() as u64;
        let touched = changes.lines.range(offset / CACHE_LINE..end.div_ceil(CACHE_LINE));
        let mut rest = into;
        let mut at = offset;
        for (number, line) in touched {
            let start = (number * CACHE_LINE).max(offset);
            let stop = ((number + 1) * CACHE_LINE).min(end);
            let (before, here) = rest.split_at_mut((start - at) as usize);
            let (here, behind) = here.split_at_mut((stop - start) as usize);
            self.read_medium(at, before)?;
            here.copy_from_slice(&line[(start % CACHE_LINE) as usize..][..here.len()]);
            (rest, at) = (behind, stop);
        }
        self.read_medium(at, rest)
    }

    fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<(), MediaError> {
        self.check_range(Access::Write, offset, from.len() as u64)?;
        for (number, within, part) in Self::parts(offset, from.len()) {
            self.change(number, within, &from[part])?;
        }
        if !from.is_empty() {
            self.note(offset..offset + from.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmem::simulated::Simulated;

    #[test]
    fn what_is_stored_is_read_and_the_medium_stays_as_it_was() {
        let contents: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let medium = Simulated::with_contents(&contents);
        let overlay = Overlay::new(&medium);
        let mut expected = contents.clone();
        for (offset, length) in [(0, 3), (60, 10), (128, 64), (300, 200), (990, 10)] {
            overlay.write_bytes(offset as u64, &vec![0xee; length]).unwrap();
            expected[offset..offset + length].fill(0xee);
        }
        overlay.store_u32(8, 0x0403_0201).unwrap();
        expected[8..12].copy_from_slice(&[1, 2, 3, 4]);
        for (offset, length) in [(0, 1000), (1, 998), (61, 4), (400, 0), (470, 200)] {
            let mut bytes = vec![0; length];
            overlay.read_bytes(offset as u64, &mut bytes).unwrap();
            assert_eq!(bytes, expected[offset..offset + length], "{offset} {length}");
        }
        assert_eq!(medium.contents(), contents);
        assert!(overlay.read_bytes(999, &mut [0; 2]).is_err());
        assert!(overlay.write_bytes(u64::MAX, &[0; 2]).is_err());
    }

    #[test]
    fn a_whole_line_that_was_changed_can_be_read_where_the_medium_cannot() {
        let medium = Simulated::new(4096);
        medium.poison(0..128);
        let overlay = Overlay::new(&medium);
        assert!(overlay.store_u32(4, 1).is_err());
        overlay.zero(0, 64).unwrap();
        overlay.store_u32(4, 1).unwrap();
        assert_eq!(overlay.load_u64(0), Ok(1 << 32));
        assert!(overlay.load_u64(64).is_err());
    }

    #[test]
    fn what_was_stored_to_is_saved_as_it_was_and_as_it_is() {
        let medium = Simulated::with_contents(&[1; 4096]);
        medium.poison(2048..2112);
        let overlay = Overlay::new(&medium);
        overlay.write_bytes(1000, &[2; 8]).unwrap();
        overlay.write_bytes(1004, &[3; 8]).unwrap();
        overlay.write_bytes(1000, &[1; 4]).unwrap();
        overlay.note(2000..2001);
        overlay.zero(2048, 64).unwrap();
        let saved = |offset, before: Option<&[u8]>, after: &[u8]| Saved {
            offset,
            before: before.map(Vec::from),
            after: after.into(),
        };
        let after = [1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3];
        let stored = saved(1000, Some(&[1; 12]), &after);
        let (noted, unread) = (saved(2000, Some(&[1]), &[1]), saved(2048, None, &[0; 64]));
        assert_eq!(overlay.saved(), [stored, noted, unread]);
    }

    #[test]
    fn what_was_changed_is_no_hole() {
        let medium = Simulated::new(1 << 20);
        let overlay = Overlay::new(&medium);
        assert_eq!(overlay.next_stored(0), 1 << 20);
        overlay.store_u32(70_000, 0).unwrap();
        assert_eq!(overlay.next_stored(0), 70_000 - 70_000 % 64);
        assert_eq!(overlay.next_stored(70_004), 70_004);
        assert_eq!(overlay.next_stored(80_000), 1 << 20);
    }
}
