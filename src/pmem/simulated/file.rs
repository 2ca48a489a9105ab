//! A simulated file that is not on persistent memory: its page cache, and failing syncs and write-backs.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::PAGE;
use super::super::writeback::Writeback;
use super::Contents;
use super::Random;
use super::page_cache::PageCache;
use super::recorder::Event;
use crate::pmem::Durability;

/// A file in the page cache, opened by a process; what is synced when is decided by the code that a real
/// mapping has.
#[derive(Debug)]
pub struct File {
    durability: Durability,
    writeback: Writeback,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cache: PageCache,
    fault: FileFault,
    /// Syncs so far.
    syncs: u64,
    /// Stores so far.
    stores: u64,
    /// Numbers of the pages that were dropped, and not looked at since.
    dropped: HashSet<u64>,
}

/// What fails of what is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileFault {
    /// What it is.
    pub what: Failing,
    /// Which pages are dropped then.
    pub dropped: Dropped,
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failing {
    /// Nothing.
    #[default]
    Nothing,
    /// The sync of this number, counted from 0.
    Sync(u64),
    /// The sync of this number, and all after it.
    SyncsFrom(u64),
    /// The sync of this number is interrupted by a signal.
    Interrupted(u64),
    /// The kernel's own write-back of the page that the store of this number was to, right after it. The
    /// next sync says so.
    WriteBack(u64),
}

/// Pages that are dropped, of those whose write-back has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dropped {
    /// None of them.
    #[default]
    None,
    /// All of them, and each is on the disk as this seed has it.
    All(u64),
    /// Each of them or not, as this seed has it.
    Some(u64),
}

impl File {
    /// A file whose page cache is `cache`, opened by a new process.
    #[must_use]
    pub fn new(cache: PageCache, durability: Durability) -> File {
        let state = State {
            cache,
            fault: FileFault::default(),
            syncs: 0,
            stores: 0,
            dropped: HashSet::new(),
        };
        File { durability, writeback: Writeback::new(), state: Mutex::new(state) }
    }

    /// Lets something fail from now on; syncs and stores are counted from here.
    pub fn inject(&self, fault: FileFault) {
        let mut state = self.state();
        (state.fault, state.syncs, state.stores) = (fault, 0, 0);
    }

    /// Number of syncs since the last call of [`inject`](Self::inject).
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Number of stores since the last call of [`inject`](Self::inject).
    #[must_use]
    pub fn stores(&self) -> u64 {
        self.state().stores
    }

    /// The page cache as it is now.
    #[must_use]
    pub fn cache(&self) -> PageCache {
        self.state().cache.clone()
    }

    /// What a fence makes durable.
    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn writeback(&self) -> &Writeback {
        &self.writeback
    }

    /// What a reader sees.
    pub(super) fn seen(&self) -> Contents {
        self.state().cache.seen()
    }

    pub(super) fn replay(&self, event: &Event) {
        let mut state = self.state();
        state.cache.replay(event);
        if let Event::Dropped { page, .. } = event {
            state.dropped.insert(page / PAGE);
        }
    }

    /// Returns whether the page at `offset` is in memory: a page that was dropped is not, until it is looked
    /// at again.
    pub(super) fn is_cached(&self, offset: u64) -> bool {
        !self.state().dropped.contains(&(offset / PAGE))
    }

    /// The page at `offset` is looked at.
    pub(super) fn look(&self, offset: u64) {
        self.state().dropped.remove(&(offset / PAGE));
    }

    /// Returns whether a signal interrupts the sync that is about to begin.
    pub(super) fn is_interrupted(&self) -> bool {
        let mut state = self.state();
        let is_interrupted = state.fault.what == Failing::Interrupted(state.syncs);
        state.syncs += u64::from(is_interrupted);
        is_interrupted
    }

    /// Returns whether the sync that is under way fails, and which pages are dropped then.
    pub(super) fn fails_to_sync(&self) -> (bool, Dropped) {
        let mut state = self.state();
        let number = state.syncs;
        state.syncs += 1;
        let fails = match state.fault.what {
            Failing::Sync(failing) => number == failing,
            Failing::SyncsFrom(first) => number >= first,
            Failing::Nothing | Failing::Interrupted(_) | Failing::WriteBack(_) => false,
        };
        (fails, state.fault.dropped)
    }

    /// Returns the page whose write-back fails right after a store to `offset`, if it does, and which pages
    /// are dropped then.
    pub(super) fn fails_to_write_back(&self, offset: u64) -> Option<(u64, Dropped)> {
        let mut state = self.state();
        let fails = state.fault.what == Failing::WriteBack(state.stores);
        state.stores += 1;
        fails.then_some((offset - offset % PAGE, state.fault.dropped))
    }

    /// Returns whether the sync that is about to end tells of an earlier failure.
    pub(super) fn has_untold_error(&self) -> bool {
        self.state().cache.has_untold_error()
    }

    /// The pages to drop, and what is on the disk there.
    pub(super) fn pages_to_drop(&self, dropped: Dropped) -> Vec<(u64, Box<[u8]>)> {
        let (seed, once_in) = match dropped {
            Dropped::None => return Vec::new(),
            Dropped::All(seed) => (seed, 1),
            Dropped::Some(seed) => (seed, 2),
        };
        let (random, state) = (&mut Random::new(seed), self.state());
        let mut pages: Vec<u64> = state.cache.lost_pages().collect();
        pages.retain(|_| random.one_in(once_in));
        pages.into_iter().map(|page| (page, state.cache.on_disk(page, random))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
