//! Looking at lanes from outside, without opening the BTT.

use super::recovery;
use crate::btt::format::discovery::FoundArena;
use crate::btt::format::error::Error;
use crate::btt::format::flog::{FlogEntry, LogLayout};
use crate::btt::format::units::{Block, LaneIndex};
use crate::pmem::PersistentMemory;

/// A lane as it stands on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneState {
    /// Its number.
    pub lane: LaneIndex,
    /// The block that its next write fills.
    pub free: Block,
    /// The newer of its two entries: the last write.
    pub newest: FlogEntry,
}

/// The lanes of the arena `number`, and how they are laid out.
pub fn lanes<M: PersistentMemory>(
    medium: &M,
    number: usize,
    arena: &FoundArena,
) -> Result<(LogLayout, Vec<LaneState>), Error> {
    let recovered =
        recovery::recover(medium, number, arena.start, arena.info.uuid, &arena.info.geometry)?;
    let both = recovered.lanes.iter().zip(recovered.newest);
    let lanes = both
        .map(|(lane, newest)| LaneState { lane: lane.index, free: lane.free, newest })
        .collect();
    Ok((recovered.layout, lanes))
}
