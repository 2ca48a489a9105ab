//! Opening a BTT.

use std::sync::Arc;

use log::{info, warn};
use uuid::Uuid;

use super::arena::Arena;
use super::discovery::{self, Copies, FoundArena};
use super::engine::Btt;
use super::error::Error;
use super::info_block::Version;
use super::lane::{self, Lane};
use super::queue::Queue;
use super::read_tracking::ReadTracking;
use super::recovery;
use super::sync::{AtomicBool, Mutex};
use super::trim::UnfencedTrims;
use crate::pmem::PersistentMemory;

/// How to open a BTT.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// Only a BTT of this version; `None`: of either, unless there are both.
    pub version: Option<Version>,
    /// The namespace's uuid, where it has one: the BTT must name it as its parent, or none.
    pub namespace: Option<Uuid>,
    /// Never write to the medium: pending writes are replayed in memory.
    pub read_only: bool,
    /// Number of queues to read and write through, at least one.
    pub queues: usize,
}

/// An open BTT, and its queues.
pub type Opened<M> = (Arc<Btt<M>>, Vec<Queue<M>>);

impl<M: PersistentMemory> Btt<M> {
    /// Opens the BTT on `medium`, with its queues.
    ///
    /// Writes nothing but the map entries of pending writes, and those only if not `read_only`. What
    /// recovery relies on is durable then, also where a daemon that was killed has stored it.
    ///
    /// # Errors
    ///
    /// There is no BTT, or none that is intact enough to be served: bad info blocks, a corrupt flog.
    pub fn open(medium: M, options: &OpenOptions) -> Result<Opened<M>, Error> {
        let found = discovery::find(&medium, options.version)?;
        if let Some(uuid) = options.namespace {
            discovery::check_parent(&found, uuid)?;
        }
        let mut arenas = Vec::with_capacity(found.len());
        let mut lanes = Vec::with_capacity(found.len());
        let mut sectors = 0;
        for (number, found) in found.iter().enumerate() {
            let (arena, its_lanes) =
                open_arena(&medium, number, found, sectors, options.read_only)?;
            sectors += u64::from(found.info.geometry.external_nlba);
            arenas.push(arena);
            lanes.push(its_lanes);
        }
        let queues = options.queues.max(1);
        let durability = medium.durability();
        let btt = Arc::new(Btt {
            medium,
            read_only: options.read_only,
            tracking: ReadTracking::new(queues),
            lane_sets: lane::deal(lanes, queues).into_iter().map(Mutex::new).collect(),
            trims: UnfencedTrims::new(durability),
            sync_has_failed: AtomicBool::new(false),
            sectors,
            // `find` returns at least one arena, and all have the same sector size.
            lba_size: found[0].info.geometry.lba_size,
            arenas,
        });
        let queues = (0..queues).map(|number| Queue::new(btt.clone(), number)).collect();
        Ok((btt, queues))
    }
}

fn open_arena<M: PersistentMemory>(
    medium: &M,
    number: usize,
    found: &FoundArena,
    first_sector: u64,
    read_only: bool,
) -> Result<(Arena, Vec<Lane>), Error> {
    report(number, found);
    let recovered = recovery::recover(medium, number, found.start, &found.info.geometry)?;
    let mut arena = Arena::new(number, found.start, first_sector, found.info, recovered.layout);
    let changes_nothing = read_only || found.info.error;
    match arena.settle(medium, found.copies, &recovered.newest, !changes_nothing) {
        Err(error) if !changes_nothing => return Err(error.into()),
        Err(error) => {
            warn!("arena {number}: what was found may not survive a power failure: {error}");
        }
        Ok(()) => {}
    }
    if !recovered.pending.is_empty() {
        let sectors = recovered.pending.len();
        info!("arena {number}: completing the interrupted writes of {sectors} sectors");
        if changes_nothing {
            arena.replay_in_memory(recovered.pending);
        } else {
            arena.replay(medium, &recovered.pending)?;
        }
    }
    Ok((arena, recovered.lanes))
}

fn report(number: usize, found: &FoundArena) {
    match found.copies {
        Copies::Intact => {}
        Copies::Differ => warn!("arena {number}: the two info blocks differ; using the first"),
        Copies::OnlyPrimary(fault) => {
            warn!("arena {number}: the second info block is unusable: {fault}");
        }
        Copies::OnlyBackup(fault) => {
            warn!("arena {number}: the first info block is unusable, using the second: {fault}");
        }
    }
    if found.info.error {
        warn!("arena {number} is read-only after an error");
    }
}

#[cfg(test)]
mod killed;
#[cfg(test)]
mod tests;
