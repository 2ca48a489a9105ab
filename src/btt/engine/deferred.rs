//! Map entries that are not durable yet, though the writes that stored them are done: with `strict`, where
//! a fence is a sync of the file, a round leaves its third fence to the first of the next.
//!
//! A write is completed once its flog entry is durable: recovery stores the map entry if it is missing. That
//! holds as long as the flog entry is the newest of its lane, and the first fence of the next round of the
//! same lanes makes the map entries durable before any of their flog entries is replaced. Meanwhile
//!
//! * nobody else may log the sector: recovery goes through the lanes once, in their order, and might come to
//!   the newer entry first, find the map with what neither of its halves names, skip it, and then complete the
//!   older one, whose block is free by then. So who wants the sector syncs first, under its map lock;
//! * the kernel may drop the page of the map, if its write-back fails, and readers would see the sector go
//!   back. So the entry is kept in memory as well, and readers look there first.

use std::collections::HashMap;
use std::sync::RwLock;

use super::arena::Arena;
use super::batch::Batch;
use super::btt::Btt;
use super::sync::{AtomicU64, Ordering, PoisonError};
use crate::btt::format::map::MapEntry;
use crate::btt::format::units::Lba;
use crate::pmem::{Durability, MediaError, PersistentMemory};

/// The map entries of an arena that are in force, whatever the map on the medium says: those that were left to
/// the next round, and those of pending writes that could not be completed on the medium.
#[derive(Debug)]
pub(super) struct Overlay {
    /// There can be any.
    is_used: bool,
    /// At least how many there are.
    count: AtomicU64,
    entries: RwLock<HashMap<Lba, MapEntry>>,
}

impl Overlay {
    pub(super) fn new() -> Overlay {
        Overlay { is_used: false, count: AtomicU64::new(0), entries: RwLock::default() }
    }

    /// From now on, there can be some.
    pub(super) fn begin(&mut self) {
        self.is_used = true;
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.is_used || self.count.load(Ordering::Relaxed) == 0
    }

    /// Sets the entry of a sector. [`begin`](Self::begin) has been called.
    pub(super) fn set(&self, lba: Lba, entry: MapEntry) {
        // Counted first: a reader that finds none must not miss one that is in force.
        self.count.fetch_add(1, Ordering::SeqCst);
        let before =
            self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(lba, entry);
        if before.is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[cold]
    pub(super) fn get(&self, lba: Lba) -> Option<MapEntry> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&lba).copied()
    }

    /// Takes the entry of a sector out, unless it is another one by now.
    fn remove(&self, lba: Lba, entry: MapEntry) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let is_there = entries.get(&lba) == Some(&entry);
        if is_there {
            entries.remove(&lba);
        }
        drop(entries);
        if is_there {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl<M: PersistentMemory> Btt<M> {
    /// Returns whether rounds leave their last fence to the next.
    pub(super) fn defers(&self) -> bool {
        self.durability() == Durability::Strict
    }

    /// Makes the map entries durable of those of `sectors` that another round has left to its next, before
    /// anything else is done to them. Their map locks are held. Returns whether there were any.
    pub(super) fn settle_for_others(
        &self,
        arena: &Arena,
        sectors: impl Iterator<Item = Lba>,
    ) -> Result<bool, MediaError> {
        let is_open = self.defers() && arena.check_writable().is_ok();
        if !is_open || arena.overlay.is_empty() || mutant!(btt::DeferredTaken) {
            return Ok(false);
        }
        let mut is_settled = false;
        for lba in sectors {
            let Some(entry) = arena.overlay.get(lba) else { continue };
            if !is_settled {
                self.fence_data()?;
                is_settled = true;
            }
            arena.overlay.remove(lba, entry);
        }
        Ok(is_settled)
    }
}

impl<M: PersistentMemory> Batch<'_, M> {
    /// Says that the map entry of a sector is about to be stored, and made durable by the next round.
    pub(super) fn defer(&mut self, arena: usize, lba: Lba, entry: MapEntry) {
        if !mutant!(btt::DeferredUnseen) {
            self.btt.arenas[arena].overlay.set(lba, entry);
        }
        self.lanes.deferred.push((arena, lba, entry));
    }

    /// A fence has made durable what the last round of these lanes has left to it.
    pub(super) fn settle(&mut self) {
        for (arena, lba, entry) in self.lanes.deferred.drain(..) {
            self.btt.arenas[arena].overlay.remove(lba, entry);
        }
    }

    /// The same as [`Btt::settle_for_others`], for the sectors of the round.
    pub(super) fn settle_round(&mut self) -> Result<(), MediaError> {
        if !self.btt.defers() {
            return Ok(());
        }
        let mut fences = 0;
        for staged in &self.round.staged {
            let arena = &self.btt.arenas[staged.arena];
            let lba = std::iter::once(staged.lba);
            fences += u64::from(self.btt.settle_for_others(arena, lba)?);
        }
        self.round.fenced(fences);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btt::format::units::Block;

    #[test]
    fn an_entry_stays_until_the_same_one_is_taken_out() {
        let mut overlay = Overlay::new();
        overlay.begin();
        let [old, new] = [1, 2].map(|block| MapEntry::data(Block(block)));
        assert!(overlay.is_empty());
        overlay.set(Lba(5), old);
        overlay.set(Lba(5), new);
        overlay.set(Lba(6), old);
        overlay.remove(Lba(5), old);
        assert_eq!((overlay.get(Lba(5)), overlay.get(Lba(7))), (Some(new), None));
        overlay.remove(Lba(5), new);
        assert_eq!(overlay.get(Lba(5)), None);
        assert!(!overlay.is_empty());
        overlay.remove(Lba(6), old);
        assert!(overlay.is_empty());
    }
}
