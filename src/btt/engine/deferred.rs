//! Syncs of the page cache in `strict`: of parts of the file, and as late as can be.
//!
//! A fence there is a sync, which takes longer than all else in a round. So a round syncs twice: its data before
//! the flog, and the flog, which completes it. Its map entries are durable later, with the sync of some other
//! round: until then, recovery would store them again, from the flog. That rests on two rules:
//!
//! * **The flog entry of a lane is replaced only when the map entry of its last write is durable.** In the page
//!   cache: the kernel may write any page back at any time. So a round with such a lane makes the whole file
//!   durable before its flog entries, rather than its data alone. The lanes go round, so that this is due once
//!   for many rounds.
//! * **A sector is logged by another lane only when its map entry is durable.** Else the medium may have two lanes'
//!   entries for the sector, and a map that knows neither write. Implementations that replay the flog in one pass
//!   in the order of lanes, as Linux and PMDK do, would find the later write first, pass over it, and then
//!   complete the earlier one, whose block the other lane takes for free.
//!
//! The block that a write frees may be filled again before its map entry is durable. Recovery maps the sector to
//! its new block whatever the old one holds; readers of the running daemon find the entry in
//! [`UnsyncedEntries`](super::unsynced), also if the page of the map is lost.
//!
//! A daemon that ends leaves the map in the page cache, and the flog says what may not be durable of it. The next
//! opening syncs it, or recovers it after a power failure.

use super::arena::Arena;
use super::batch::Batch;
use super::btt::Btt;
use super::sync::full_fence;
use crate::btt::format::units::Lba;
use crate::pmem::{MediaError, PersistentMemory, SharedSync};

impl<M: PersistentMemory> Btt<M> {
    /// Makes everything durable that was stored so far.
    pub(super) fn fence_all(&self) -> Result<(), MediaError> {
        if self.defers { self.sync_all() } else { self.medium.fence() }
    }

    /// Makes everything durable that was stored so far, map entries above all.
    fn sync_all(&self) -> Result<(), MediaError> {
        let synced = share(&self.map_syncs, || self.medium.fence());
        if synced.is_err() && mutant!(btt::DeferredFailureForgotten) {
            return Ok(());
        }
        synced?;
        for arena in &self.arenas {
            arena.unsynced.forget();
        }
        Ok(())
    }

    /// Makes the map entries of `lbas` durable, whose map locks the caller holds.
    pub(super) fn settle(
        &self,
        arena: &Arena,
        lbas: impl IntoIterator<Item = Lba>,
    ) -> Result<(), MediaError> {
        if self.defers && has_unsynced(arena, lbas) { self.sync_all() } else { Ok(()) }
    }
}

impl<'q, M: PersistentMemory> Batch<'q, M> {
    /// Makes the staged data and the records of their groups durable; and the map entries of earlier writes, if
    /// the lanes of the round or its sectors need them to be.
    pub(super) fn sync_staged(&mut self) -> Result<(), MediaError> {
        match self.only_arena() {
            Some(arena) if !self.needs_map() => {
                let (offset, length) = arena.blocks();
                share(&arena.block_syncs, || self.btt.medium.sync_range(offset, length))
            }
            _ => self.btt.sync_all(),
        }
    }

    /// Makes the flog entries of the round durable.
    pub(super) fn sync_flog(&self) -> Result<(), MediaError> {
        match self.only_arena() {
            Some(arena) => {
                let (offset, length) = arena.flog();
                share(&arena.flog_syncs, || self.btt.medium.sync_range(offset, length))
            }
            None => self.btt.sync_all(),
        }
    }

    /// Makes the map entries durable that other queues have stored for sectors of the round since its data were
    /// synced. The map locks are held.
    pub(super) fn settle_staged(&self) -> Result<(), MediaError> {
        if self.btt.defers && self.has_unsynced_sector() { self.btt.sync_all() } else { Ok(()) }
    }

    /// Step 3: notes that the map entries of the round are about to be stored.
    pub(super) fn begin_deferred(&self) {
        for (number, arena) in self.btt.arenas.iter().enumerate() {
            let staged = self.round.staged.iter().filter(|staged| staged.arena == number);
            arena.unsynced.begin(staged.map(|staged| (staged.lba, staged.new_entry())));
        }
    }

    /// Notes that the map entries of the round are stored, and with which sync they are durable.
    pub(super) fn end_deferred(&mut self) {
        full_fence();
        let sync = self.btt.map_syncs.next() - u64::from(mutant!(btt::BegunSyncTrusted));
        for (number, arena) in self.btt.arenas.iter().enumerate() {
            let staged = self.round.staged.iter().filter(|staged| staged.arena == number);
            arena.unsynced.stored(staged.map(|staged| staged.lba), sync);
        }
        for staged in &self.round.staged {
            self.lanes.arenas[staged.arena].lane(staged.lane).map_sync = sync;
        }
    }

    /// The arena that all staged sectors are in.
    fn only_arena(&self) -> Option<&'q Arena> {
        let (first, others) = self.round.staged.split_first()?;
        let is_only = others.iter().all(|staged| staged.arena == first.arena);
        is_only.then(|| &self.btt.arenas[first.arena])
    }

    /// Returns whether map entries of earlier writes have to be durable before the round is logged.
    fn needs_map(&mut self) -> bool {
        let lanes = &mut self.lanes.arenas;
        let mut syncs =
            self.round.staged.iter().map(|one| lanes[one.arena].lane(one.lane).map_sync);
        let is_unsynced = |sync| !self.btt.map_syncs.has_completed(sync);
        syncs.any(is_unsynced) && !mutant!(btt::LaneUnsettled) || self.has_unsynced_sector()
    }

    fn has_unsynced_sector(&self) -> bool {
        self.btt.arenas.iter().enumerate().any(|(number, arena)| {
            let staged = self.round.staged.iter().filter(|staged| staged.arena == number);
            has_unsynced(arena, staged.map(|staged| staged.lba))
        })
    }
}

/// Returns whether one of these map entries is not durable.
fn has_unsynced(arena: &Arena, lbas: impl IntoIterator<Item = Lba>) -> bool {
    !mutant!(btt::SectorUnsettled) && arena.unsynced.has_any(lbas)
}

/// Shares a sync of what the calling thread has stored, and others.
fn share(
    syncs: &SharedSync,
    sync: impl FnOnce() -> Result<(), MediaError>,
) -> Result<(), MediaError> {
    // Streaming stores are seen by the thread that syncs for this one.
    full_fence();
    syncs.share_from(syncs.next() - u64::from(mutant!(btt::BegunSyncJoined)), sync)
}
