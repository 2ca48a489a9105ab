//! Opening a BTT.

use log::warn;
use uuid::Uuid;

use super::recovery;
use crate::btt::engine::{Btt, Opened, Start};
use crate::btt::format::discovery::{self, Copies, FoundArena};
use crate::btt::format::error::Error;
use crate::btt::format::info_block::Version;
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
    /// Bytes up to which aligned writes of a power of two are to be all or nothing; 0: only sectors are.
    /// It becomes less where [`largest_group`](crate::btt::largest_group) is less.
    pub atomic: u32,
}

impl<M: PersistentMemory> Btt<M> {
    /// Opens the BTT on `medium`, with its queues.
    ///
    /// Writes nothing but the map entries of pending writes, flog entries of incomplete groups and the
    /// groups' records, and those only if not `read_only`. What
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
        let mut engine = Start::new(medium, options.read_only);
        for (number, found) in found.iter().enumerate() {
            report(number, found);
            let geometry = &found.info.geometry;
            let is_blind = options.read_only && mutant!(btt::RecordsUnseenByReaders);
            let uuid = if is_blind { Uuid::max() } else { found.info.uuid };
            let medium = engine.medium();
            let recovered = recovery::recover(medium, number, found.start, uuid, geometry)?;
            engine.add(found, recovered)?;
        }
        // `find` returns at least one arena, and all have the same sector size.
        let lba_size = found[0].info.geometry.lba_size;
        Ok(engine.finish(lba_size, options.queues.max(1), options.atomic))
    }
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
