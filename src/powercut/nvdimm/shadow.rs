//! The shadow copy of bytes that frontends store to through mappings of their own.
//!
//! Their stores are in the file at once, and are not visible here. So the durable contents are kept in a copy,
//! which is made when the bytes are mapped, and renewed when the stores are made durable. When the power
//! fails, the differences from the copy are treated as streaming stores that were never fenced: each aligned
//! word of eight bytes may have reached the medium, or not.
//!
//! Words are loaded and stored in one access each, so none is torn that its owner has not torn. A frontend that
//! continues to store while the power fails counts as having stored before, with all of it kept; it cannot
//! flush any more. All media of a process lose their power together.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use crate::pmem::cache_model::{Contents, Random, Unfenced};
use crate::pmem::{Mapping, PAGE, PersistentMemory, SharedFileObserver};

/// Bytes that are loaded and stored in one access.
const WORD: u64 = 8;

/// Those of all media that the process has.
static ALL: Mutex<Vec<Weak<Shadow>>> = Mutex::new(Vec::new());

/// Lets all files have what `seed` says of what is not durable. From here on nothing is flushed any more.
pub(super) fn fail_all(seed: u64) -> Left {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut random, mut left) = (Random::new(!seed), Left::default());
    for shadow in all.iter().filter_map(Weak::upgrade) {
        let state = shadow.state();
        let here = shadow.fail(&state, &mut random);
        left = Left { pending: left.pending + here.pending, kept: left.kept + here.kept };
        // Locked for good, so that no flush is completed after this.
        mem::forget(state);
    }
    // Nor does the power fail twice.
    mem::forget(all);
    left
}

/// Bytes of a file that others store to, and what is durable of them.
#[derive(Debug)]
pub(super) struct Shadow {
    file: Arc<Mapping>,
    /// What is flushed is as likely lost as all else.
    loses_flushes: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// The ranges of pages that others have mapped; they do not overlap.
    mapped_pages: Vec<Range<u64>>,
    /// The durable contents of these ranges.
    durable: Contents,
}

/// What a power failure has left, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Left {
    /// Stored, and not durable.
    pub pending: u64,
    /// How many of those are there all the same.
    pub kept: u64,
}

/// A word that is not durable as it is.
struct Pending {
    offset: u64,
    durable: u64,
    stored: u64,
}

impl Shadow {
    pub(super) fn new(file: Arc<Mapping>, loses_flushes: bool) -> Arc<Shadow> {
        let durable = Contents::zeroes(file.size());
        let state = Mutex::new(State { mapped_pages: Vec::new(), durable });
        let shadow = Arc::new(Shadow { file, loses_flushes, state });
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shadow));
        shadow
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each word of it is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the file have what `random` says of what is not durable.
    pub(super) fn fail(&self, state: &State, random: &mut Random) -> Left {
        let pending = self.pending(state);
        for word in &pending {
            // A medium that does not answer keeps nothing, power or no power.
            let _ = self.file.store_u64(word.offset, word.durable);
        }
        let mut kept = 0;
        let mut store = |offset, bytes: &[u8]| {
            for (offset, word) in (offset..).step_by(WORD as usize).zip(bytes.as_chunks().0) {
                let stored = self.file.store_u64(offset, u64::from_le_bytes(*word));
                kept += if stored.is_ok() { WORD } else { 0 };
            }
        };
        // Of one page nothing is left, of another all, and others are torn.
        for page in pending.chunk_by(|one, next| one.offset / PAGE == next.offset / PAGE) {
            as_streamed(page).fail(random, &mut store);
        }
        Left { pending: pending.len() as u64 * WORD, kept }
    }

    fn pending(&self, state: &State) -> Vec<Pending> {
        state.mapped_pages.iter().flat_map(|range| self.pending_in(state, range)).collect()
    }

    /// What of `range` is not as it is durable. Pages that cannot be read are left out.
    fn pending_in(&self, state: &State, range: &Range<u64>) -> Vec<Pending> {
        let (mut found, mut next) = (Vec::new(), range.start);
        let [mut stored, mut durable] = [[0; PAGE as usize]; 2];
        loop {
            let page = self.file.next_stored(next) / PAGE * PAGE;
            if page >= range.end {
                return found;
            }
            next = page + PAGE;
            if self.file.read_bytes(page, &mut stored).is_err() {
                continue;
            }
            state.durable.read(page, &mut durable);
            let words = stored.as_chunks::<8>().0.iter().zip(durable.as_chunks::<8>().0);
            for (offset, (_, durable)) in
                (page..).step_by(WORD as usize).zip(words).filter(|(_, (new, old))| new != old)
            {
                if let Ok(stored) = self.file.load_u64(offset) {
                    found.push(Pending { offset, durable: u64::from_le_bytes(*durable), stored });
                }
            }
        }
    }
}

impl SharedFileObserver for Shadow {
    /// Others will store to the pages `range`, now and for good: what they had stored before that, if it was
    /// not mapped yet, counts as durable.
    fn mapped(&self, range: Range<u64>) {
        let mut state = self.state();
        let mut new = vec![range];
        for known in &state.mapped_pages {
            let around = |it: &Range<u64>| {
                [it.start..it.end.min(known.start), it.start.max(known.end)..it.end]
            };
            new = new.iter().flat_map(around).filter(|it| !it.is_empty()).collect();
        }
        for range in new {
            let pending = self.pending_in(&state, &range);
            state.take(&pending);
            state.mapped_pages.push(range);
        }
    }

    /// Everything stored so far is durable.
    fn synced(&self) {
        if !self.loses_flushes {
            let mut state = self.state();
            let pending = self.pending(&state);
            state.take(&pending);
        }
    }
}

impl State {
    /// These words are durable as they are stored.
    fn take(&mut self, pending: &[Pending]) {
        for word in pending {
            self.durable.write(word.offset, &word.stored.to_le_bytes());
        }
    }

    /// `length` bytes at `offset` are zero, and durable.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        self.durable.zero(offset, length);
    }
}

/// What was stored, as streaming stores: one for all words that lie together.
fn as_streamed(pending: &[Pending]) -> Unfenced {
    let mut unfenced = Unfenced::default();
    for run in pending.chunk_by(|one, next| one.offset + WORD == next.offset) {
        let bytes: Vec<u8> = run.iter().flat_map(|word| word.stored.to_le_bytes()).collect();
        unfenced.stream(thread::current().id(), run[0].offset, &bytes);
    }
    unfenced
}
