//! What replay would do: the map after it, planned in memory (I5, I6, I10).
//!
//! A lane's last write {L, O, N} is *applied* if the map has L at N, *pending* if it has L at O, and
//! otherwise *superseded*. Replay moves L from O to N for the pending ones, until there are none.
//!
//! The plan comes to an end: sectors are independent of each other, and a sector is moved at most
//! once by each lane. For when a lane would move it again, the sector is back at a block where it
//! was: it goes in a circle, which is found out, and the sector is left where it is.

use super::arena::Arena;
use super::finding::Fault;
use super::flog::{Lane, LaneWrite};
use super::report::{Findings, LaneCounts, PendingWrite};
use crate::btt::format::units::{Block, Lba};
use crate::pmem::PersistentMemory;

/// What replay would do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The map entries that it writes, in its order.
    pub writes: Vec<PendingWrite>,
    /// Where the sectors that it writes end up, in the order of their numbers.
    pub moved: Vec<(Lba, Block)>,
    pub lanes: LaneCounts,
}

/// Plans the replay of `lanes`, and finds fault with it.
pub(super) fn plan<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    lanes: &[Lane],
    findings: &mut Findings,
) -> Plan {
    let plan = plan_from(arena, lanes, |_| None, findings);
    // Recovery twice is recovery once, and opening after it writes nothing.
    let moved = |lba| {
        let index = plan.moved.binary_search_by_key(&lba, |&(lba, _)| lba);
        index.ok().map(|index| plan.moved[index].1)
    };
    let again = plan_from(arena, lanes, moved, &mut Findings::new(0));
    for PendingWrite { lba, lane, .. } in again.writes {
        findings.add(arena.number, Fault::ReplayUnstable { lba, lane });
    }
    plan
}

/// Plans the replay of `lanes` on a map that is as on the medium, but where `moved` says otherwise.
fn plan_from<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    lanes: &[Lane],
    moved: impl Fn(Lba) -> Option<Block>,
    findings: &mut Findings,
) -> Plan {
    let mut plan = Plan::default();
    let mut writes = Vec::new();
    for lane in lanes {
        match lane {
            Lane::Undecided { .. } => plan.lanes.undecided += 1,
            Lane::Idle { .. } => plan.lanes.pristine += 1,
            Lane::Wrote(write) => writes.push(*write),
        }
    }
    writes.sort_unstable_by_key(|write| (write.lba, write.old, write.lane));
    for of_sector in writes.chunk_by(|one, other| one.lba == other.lba) {
        let lba = of_sector[0].lba;
        let from_medium = || {
            let block = arena.map_entry(lba).ok()?.block(lba);
            Some(block).filter(|&block| arena.has_block(block))
        };
        match moved(lba).or_else(from_medium) {
            Some(block) => plan.add_sector(arena.number, of_sector, block, findings),
            None => plan.add_unknown(arena.number, of_sector, findings),
        }
    }
    plan
}

/// What becomes of the last write of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Applied,
    Superseded,
    Pending,
    /// Pending together with another lane that is taken.
    Doubtful,
}

impl Plan {
    /// Plans for the last writes of one sector, which the map has at `start`; they are in order of
    /// their old block.
    fn add_sector(
        &mut self,
        arena: usize,
        writes: &[LaneWrite],
        start: Block,
        findings: &mut Findings,
    ) {
        let lba = writes[0].lba;
        let at_start = |write: &LaneWrite| {
            if write.new == start { State::Applied } else { State::Superseded }
        };
        let mut states: Vec<State> = writes.iter().map(at_start).collect();
        let mut steps: Vec<PendingWrite> = Vec::new();
        let mut block = start;
        loop {
            // Those pending now: the lane with the lowest number is taken.
            let first = writes.partition_point(|write| write.old < block);
            let count = writes[first..].partition_point(|write| write.old == block);
            let [taken, others @ ..] = &writes[first..first + count] else {
                break;
            };
            if states[first] == State::Pending {
                let lane = taken.lane;
                findings.add(arena, Fault::ReplayEndless { lba, lane });
                self.lanes.undecided += writes.len() as u32;
                return;
            }
            judge_step(arena, steps.last(), taken, others, findings);
            states[first..first + count].fill(State::Doubtful);
            states[first] = State::Pending;
            steps.push(PendingWrite { arena, lane: taken.lane, lba, old: block, new: taken.new });
            block = taken.new;
        }
        for state in states {
            *match state {
                State::Applied => &mut self.lanes.applied,
                State::Superseded => &mut self.lanes.superseded,
                State::Pending => &mut self.lanes.pending,
                State::Doubtful => &mut self.lanes.undecided,
            } += 1;
        }
        if !steps.is_empty() {
            self.moved.push((lba, block));
        }
        self.writes.append(&mut steps);
    }

    /// Plans nothing for the last writes of a sector of which it is not known where the map has it.
    fn add_unknown(&mut self, arena: usize, writes: &[LaneWrite], findings: &mut Findings) {
        for &LaneWrite { lane, lba, old, new } in writes {
            findings.add(arena, Fault::LaneUndecided { lane, lba, old, new });
        }
        self.lanes.undecided += writes.len() as u32;
    }
}

/// Finds fault with lanes that are pending for one sector together.
fn judge_step(
    arena: usize,
    before: Option<&PendingWrite>,
    taken: &LaneWrite,
    others: &[LaneWrite],
    findings: &mut Findings,
) {
    let (lba, lane) = (taken.lba, taken.lane);
    if let Some(before) = before {
        let (first, second) = (before.lane, lane);
        findings.add(arena, Fault::PendingBehind { lba, first, second });
    }
    for other in others {
        let (first, second) = (lane, other.lane);
        findings.add(arena, Fault::PendingTwice { lba, first, second });
    }
}
