//! Starting the engine on arenas that have been found and recovered: all that opening a BTT needs of it.

use std::sync::Arc;

use log::{info, warn};

use super::arena::{Arena, Undo};
use super::btt::Btt;
use super::lane::{self, Lane};
use super::queue::Queue;
use super::read_tracking::ReadTracking;
use super::sync::{AtomicBool, Mutex};
use super::trim::UnfencedTrims;
use crate::btt::format::discovery::FoundArena;
use crate::btt::format::error::Error;
use crate::btt::format::flog::{FlogEntry, LogLayout};
use crate::btt::format::geometry::{Geometry, largest_group};
use crate::btt::format::lba_size::LbaSize;
use crate::btt::format::map::MapEntry;
use crate::btt::format::units::Lba;
use crate::pmem::{Durability, PersistentMemory, SharedSync};

/// An open BTT, and its queues.
pub type Opened<M> = (Arc<Btt<M>>, Vec<Queue<M>>);

/// An arena's flog, understood.
#[derive(Debug)]
pub(in crate::btt) struct Recovered {
    pub layout: LogLayout,
    pub lanes: Vec<Lane>,
    /// The newest entry of each lane.
    pub newest: Vec<FlogEntry>,
    /// The entries of incomplete groups that are taken back: `lanes` and `newest` are without them.
    pub undone: Vec<Undo>,
    /// What these entries were.
    pub taken_back: Vec<FlogEntry>,
    /// Numbers of the records of groups that are to be cleared.
    pub records: Vec<u64>,
    /// Map entries that complete the pending writes, by sector in ascending order.
    pub pending: Vec<(Lba, MapEntry)>,
}

/// An engine that is being started, arena by arena.
#[derive(Debug)]
pub(in crate::btt) struct Start<M> {
    medium: M,
    read_only: bool,
    arenas: Vec<Arena>,
    lanes: Vec<Vec<Lane>>,
    sectors: u64,
    /// The syncs that make map entries durable.
    map_syncs: Arc<SharedSync>,
}

impl<M: PersistentMemory> Start<M> {
    pub(in crate::btt) fn new(medium: M, read_only: bool) -> Start<M> {
        Start {
            medium,
            read_only,
            arenas: Vec::new(),
            lanes: Vec::new(),
            sectors: 0,
            map_syncs: Arc::default(),
        }
    }

    pub(in crate::btt) fn medium(&self) -> &M {
        &self.medium
    }

    /// Adds the next arena: what recovery relies on is durable then, and the pending writes are completed,
    /// on the medium, or in memory if nothing may be written.
    pub(in crate::btt) fn add(
        &mut self,
        found: &FoundArena,
        recovered: Recovered,
    ) -> Result<(), Error> {
        let number = self.arenas.len();
        let mut arena = Arena::new(number, found.start, self.sectors, found.info, recovered.layout);
        let changes_nothing = self.read_only || found.info.error;
        let relied_on = [&recovered.newest[..], &recovered.taken_back[..]].concat();
        match arena.persist(&self.medium, found.copies, &relied_on, !changes_nothing) {
            Err(error) if !changes_nothing => return Err(error.into()),
            Err(error) => {
                warn!("arena {number}: what was found may not survive a power failure: {error}");
            }
            Ok(()) => {}
        }
        if self.medium.durability() == Durability::PageCache && !changes_nothing {
            self.sync_map(&arena);
        }
        if !recovered.undone.is_empty() {
            let sectors = recovered.undone.len();
            info!(
                "arena {number}: taking back {sectors} sectors of interrupted writes that are all or nothing"
            );
            if !changes_nothing {
                arena.take_back_all(&self.medium, &recovered.undone)?;
            }
        }
        if !recovered.pending.is_empty() {
            let sectors = recovered.pending.len();
            info!("arena {number}: completing the interrupted writes of {sectors} sectors");
            if changes_nothing {
                arena.replay_in_memory(recovered.pending);
            } else {
                arena.replay(&self.medium, &recovered.pending)?;
            }
        }
        if !recovered.records.is_empty() && !changes_nothing {
            arena.clear_records(&self.medium, &recovered.records)?;
        }
        if self.medium.durability() == Durability::Strict {
            arena.defer(self.map_syncs.clone());
        }
        self.sectors += u64::from(found.info.geometry.external_nlba);
        self.arenas.push(arena);
        self.lanes.push(recovered.lanes);
        Ok(())
    }

    /// In the page cache, flog entries are replaced without a sync. Those may be all that keeps the writes of a
    /// daemon that served the disk as `strict`: it leaves the map to a later sync.
    fn sync_map(&self, arena: &Arena) {
        let (offset, length) = arena.map();
        if let Err(error) = self.medium.sync_range(offset, length) {
            // No flog entry is replaced any more.
            warn!("arena {}: the map cannot be synced: {error}", arena.number);
        }
    }

    /// The BTT, whose sectors have `lba_size`, with `queues` queues.
    /// Writes of up to `atomic` bytes are all or nothing, if so many can be.
    pub(in crate::btt) fn finish(self, lba_size: LbaSize, queues: usize, atomic: u32) -> Opened<M> {
        let arenas: Vec<Geometry> = self.arenas.iter().map(|arena| arena.info.geometry).collect();
        let atomic = largest_group(&arenas, queues).min(atomic) / lba_size.data();
        let durability = self.medium.durability();
        let btt = Arc::new(Btt {
            medium: self.medium,
            read_only: self.read_only,
            tracking: ReadTracking::new(queues),
            lane_sets: lane::deal(self.lanes, queues).into_iter().map(Mutex::new).collect(),
            trims: UnfencedTrims::new(durability),
            defers: durability == Durability::Strict,
            map_syncs: self.map_syncs,
            sync_has_failed: AtomicBool::new(false),
            sectors: self.sectors,
            lba_size,
            atomic_sectors: 1 << atomic.max(1).ilog2(),
            arenas: self.arenas,
        });
        let queues = (0..queues).map(|number| Queue::new(btt.clone(), number)).collect();
        (btt, queues)
    }
}
