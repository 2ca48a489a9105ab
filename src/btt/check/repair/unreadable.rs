//! Lanes that cannot be read: zeroing their page clears the poison, and then they are given blocks.
//!
//! What a lane says is needed only while its write is pending, and which block is its free one; that is told
//! by what all others have. So a page of the flog can be given up, with the lanes in it that can be read,
//! once their pending writes are completed.
//!
//! Zeroing may be cut off word by word, and of a lane's two entries leave the older one, which is wrong. So
//! the lanes that can be read are silenced first, and nothing that zeroing leaves of them says anything.

use std::collections::BTreeSet;

use super::lanes;
use super::remedy::{Remedy, Repair, Store};
use crate::btt::check::arena::Arena;
use crate::btt::format::geometry::FLOG_PAIR_SIZE;
use crate::btt::format::units::LaneIndex;
use crate::pmem::{PAGE, PersistentMemory};

/// Lanes in a page. A flog begins and ends on one.
const LANES: u32 = (PAGE / FLOG_PAIR_SIZE) as u32;

/// Clears the pages of the flog that have the lanes `unreadable`. Their blocks are those without an owner
/// then: that has to be certain.
pub(super) fn clear_pages<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    unreadable: &BTreeSet<LaneIndex>,
) -> Vec<Repair> {
    let first = |lane: &LaneIndex| lane.0 / LANES * LANES;
    let pages: BTreeSet<u32> = unreadable.iter().map(first).collect();
    pages.into_iter().map(|first| clear_page(arena, LaneIndex(first))).collect()
}

fn clear_page<M: PersistentMemory>(arena: &Arena<'_, M>, first: LaneIndex) -> Repair {
    let end = (first.0 + LANES).min(arena.geometry.nfree);
    let lanes = (first.0..end).map(LaneIndex);
    let speaking =
        lanes.filter(|lane| lanes::is_readable(arena, *lane) && !mutant!(btt::PageNotSilenced));
    let mut stores: Vec<Store> = speaking.flat_map(|lane| lanes::silence(arena, lane)).collect();
    let offset = arena.lane_offset(first);
    stores.extend([Store::Barrier, Store::Zero { offset, length: PAGE }, Store::Barrier]);
    let remedy = Remedy::ClearLanes { first, last: LaneIndex(end - 1) };
    Repair { arena: Some(arena.number), remedy, stores }
}
