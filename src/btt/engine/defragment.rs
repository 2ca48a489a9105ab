//! Defragmentation: sectors move to where they belong, so that those which follow one another lie one after
//! another.
//!
//! A sector belongs in the block of its own number plus an offset that is the same for its whole arena
//! ([`Btt::order_of`]). The free block of a lane takes the sector that belongs there, which frees the block
//! where the next one belongs, and so on, until what is freed is a block where no sector belongs. Then a
//! sector takes that one which is out of place, and where another belongs.
//!
//! A move is a write of the sector with what it holds: data into the free block, flog entry, map entry, each
//! durable before the next. So a power failure or an interruption leaves the sector where it was or where
//! it belongs, and both hold the same. The map lock is held from the look at the sector on, as in
//! [`write_part`](super::write_part). In the page cache too, each step is synced: a sector that was flushed
//! long ago must not be at risk because it is moved.
//!
//! | the sector | |
//! |---|---|
//! | has data | they are copied, with their metadata bytes |
//! | reads as zeroes | its block is filled with zeroes before the flog names it: recovery makes it one with data |
//! | was never written | stays: it has the block of its own number |
//! | has an error | stays: its block must not become free without the flag, and there is nothing to copy |

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::arena::Arena;
use super::batch::Batch;
use super::btt::Btt;
use super::map_locks::LockKey;
use super::queue::Queue;
use super::round::{ROUND_SECTORS, Staged};
use crate::btt::format::error::Error;
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::{Block, Lba};
use crate::pmem::{Cause, Durability, MediaError, PAGE, PersistentMemory};

/// Sectors of an arena whose places are looked at to find its order.
const SAMPLE: u32 = 2048;
/// How many of the orders that were found are compared.
const ORDERS: usize = 4;
/// Map entries that a step looks at to find sectors that are out of place.
const LOOKED_AT: u32 = 1 << 16;
/// Bytes of the largest block, with metadata.
const LARGEST_BLOCK: usize = 4096 + 128;

/// Where the sectors of an arena belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What the number of a block has more than that of the sector which belongs there, modulo the number of
    /// blocks.
    shift: u32,
    sectors: u32,
    blocks: u32,
}

impl Order {
    /// What the number of a block has more than that of the sector which belongs there.
    #[must_use]
    pub fn shift(self) -> u32 {
        self.shift
    }

    /// Number of sectors of the arena.
    #[must_use]
    pub fn sectors(self) -> u32 {
        self.sectors
    }

    /// The block where `lba` belongs.
    fn block_of(self, lba: Lba) -> Block {
        let block = u64::from(lba.0) + u64::from(self.shift);
        Block((block % u64::from(self.blocks)) as u32)
    }

    /// The sector that belongs in `block`.
    fn sector_of(self, block: Block) -> Option<Lba> {
        let lba = u64::from(block.0) + u64::from(self.blocks) - u64::from(self.shift);
        let lba = (lba % u64::from(self.blocks)) as u32;
        (lba < self.sectors).then_some(Lba(lba))
    }

    /// Returns whether a sector is to be moved that has this entry.
    fn is_misplaced(self, lba: Lba, entry: MapEntry) -> bool {
        match entry.mapped() {
            Mapped::NeverWritten if !mutant!(btt::NeverWrittenMoved) => false,
            Mapped::Error(_) => false,
            _ => entry.block(lba) != self.block_of(lba),
        }
    }
}

/// What a step of a defragmentation has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Sectors that were moved.
    pub sectors: u32,
    /// The first of the other sectors that was not looked at.
    pub next: u32,
}

/// A sector that is about to be moved into the free block of a lane.
#[derive(Clone, Copy)]
struct Move {
    lane: usize,
    lba: Lba,
}

impl<M: PersistentMemory> Btt<M> {
    /// A queue for what is done besides the requests of guests. It shares the lanes of queue `number`, and
    /// takes turns with it.
    pub fn extra_queue(self: &Arc<Self>, number: usize) -> Queue<M> {
        Queue::new(self.clone(), number % self.lane_sets.len())
    }

    /// Number of sets of lanes: so many [extra queues](Self::extra_queue) reach all free blocks.
    #[must_use]
    pub fn lane_sets(&self) -> usize {
        self.lane_sets.len()
    }

    /// Number of arenas.
    #[must_use]
    pub fn arena_count(&self) -> usize {
        self.arenas.len()
    }

    /// The order of arena `number` in which blocks have a number that is `shift` more than that of their sector,
    /// modulo the number of blocks.
    #[must_use]
    pub fn order(&self, number: usize, shift: u32) -> Order {
        let geometry = &self.arenas[number].info.geometry;
        let (sectors, blocks) = (geometry.external_nlba, geometry.internal_nlba);
        Order { shift: shift % blocks, sectors, blocks }
    }

    /// The order in which the fewest sectors of arena `number` have to be moved, as far as a sample of them
    /// tells.
    ///
    /// # Errors
    ///
    /// The map cannot be read, or is damaged.
    pub fn order_of(&self, number: usize) -> Result<Order, Error> {
        let arena = &self.arenas[number];
        let order = |shift| self.order(number, shift);
        let Order { sectors, blocks, .. } = order(0);
        let mut sample = Vec::new();
        let mut counts: HashMap<u32, u32> = HashMap::new();
        let samples = SAMPLE.min(sectors);
        for index in 0..samples {
            let lba = (u64::from(index) * u64::from(sectors) / u64::from(samples)) as u32;
            if let Some(entry) = self.entry_of_written(arena, Lba(lba))? {
                sample.push((Lba(lba), entry));
                let shift = (entry.block(Lba(lba)).0 + blocks - lba) % blocks;
                *counts.entry(shift).or_default() += 1;
            }
        }
        let mut shifts: Vec<(u32, u32)> = counts.into_iter().map(|(shift, n)| (n, shift)).collect();
        shifts.sort_unstable_by(|one, other| other.cmp(one));
        // Sectors that were never written are in their place in this one only.
        let mut best = (self.count_in_place(arena, order(0), &sample)?, order(0));
        for (_, shift) in shifts.into_iter().take(ORDERS) {
            let in_place = self.count_in_place(arena, order(shift), &sample)?;
            if in_place > best.0 {
                best = (in_place, order(shift));
            }
        }
        Ok(best.1)
    }

    /// How many of `sample` are where they belong in `order`, less those that could not go there.
    fn count_in_place(
        &self,
        arena: &Arena,
        order: Order,
        sample: &[(Lba, MapEntry)],
    ) -> Result<i64, Error> {
        let mut in_place = 0;
        for (lba, entry) in sample {
            let block = order.block_of(*lba);
            if entry.block(*lba) == block {
                in_place += 1;
            } else if self.is_barred(arena, order, *lba)? {
                in_place -= 1;
            }
        }
        Ok(in_place)
    }

    /// The map entry of a sector that was written; looks at no hole of the map, since that might fill it.
    fn entry_of_written(&self, arena: &Arena, lba: Lba) -> Result<Option<MapEntry>, Error> {
        if arena.next_stored_entry(&self.medium, lba) != lba.0 {
            return Ok(None);
        }
        let entry = arena.load_entry(&self.medium, lba)?;
        Ok((entry.mapped() != Mapped::NeverWritten).then_some(entry))
    }

    /// How many of up to `count` sectors of arena `number` from `first` on are to be moved.
    ///
    /// # Errors
    ///
    /// The map cannot be read, or is damaged.
    pub fn count_misplaced(
        &self,
        number: usize,
        order: Order,
        first: u32,
        count: u32,
    ) -> Result<u32, Error> {
        let (mut next, mut misplaced) = (first, 0);
        let end = first.saturating_add(count).min(order.sectors);
        while self.next_misplaced(number, order, &mut next, end)?.is_some() {
            misplaced += 1;
        }
        Ok(misplaced)
    }

    /// The first sector from `next` on that is to be moved; `next` goes beyond it.
    fn next_misplaced(
        &self,
        number: usize,
        order: Order,
        next: &mut u32,
        end: u32,
    ) -> Result<Option<Lba>, Error> {
        let arena = &self.arenas[number];
        let per_page = (PAGE / 4) as u32;
        while *next < end {
            if next.is_multiple_of(per_page) {
                *next = arena.next_stored_entry(&self.medium, Lba(*next)).min(end);
                if *next == end {
                    break;
                }
            }
            let lba = Lba(*next);
            *next += 1;
            let entry = arena.load_entry(&self.medium, lba)?;
            if order.is_misplaced(lba, entry) && !self.is_barred(arena, order, lba)? {
                return Ok(Some(lba));
            }
        }
        Ok(None)
    }

    /// Returns whether a sector can never go where it belongs: a sector that was never written has that block.
    fn is_barred(&self, arena: &Arena, order: Order, lba: Lba) -> Result<bool, Error> {
        let block = order.block_of(lba);
        let is_first_block_of_one = block.0 != lba.0 && block.0 < order.sectors;
        Ok(is_first_block_of_one
            && !mutant!(btt::NeverWrittenMoved)
            && self.entry_of_written(arena, Lba(block.0))?.is_none())
    }

    /// Returns whether the sector that belongs in the block of `lba` is to be moved: so it is of use to move
    /// `lba` out of its way.
    fn is_in_the_way(&self, arena: &Arena, order: Order, lba: Lba) -> Result<bool, Error> {
        let block = arena.load_entry(&self.medium, lba)?.block(lba);
        order.sector_of(block).map_or(Ok(false), |owner| self.is_misplaced(arena, order, owner))
    }

    /// Returns whether a sector is to be moved.
    fn is_misplaced(&self, arena: &Arena, order: Order, lba: Lba) -> Result<bool, Error> {
        let entry = self.entry_of_written(arena, lba)?;
        Ok(order.is_misplaced(lba, entry.unwrap_or(MapEntry(0))))
    }
}

impl<M: PersistentMemory> Batch<'_, M> {
    /// Moves sectors of arena `number` into the free blocks of the queue's lanes, up to a round of them, those
    /// first that belong there; durable on return. Blocks where no sector belongs take the first of `others`
    /// that are out of place, and where another one belongs.
    ///
    /// There is nothing left to do with these lanes once a call moves no sector, and has looked at the last of
    /// `others`.
    ///
    /// # Errors
    ///
    /// The BTT or the arena is read-only, or the medium fails. Each sector is where it was, or where it
    /// belongs.
    pub fn defragment(
        &mut self,
        number: usize,
        order: Order,
        others: Range<u32>,
    ) -> Result<Moved, Error> {
        self.check_writable()?;
        self.commit();
        self.btt.arenas[number].check_writable()?;
        // Also where there is nothing to move: the caller must not go on.
        self.btt.check_synced()?;
        let (mut others, failures) = (others, self.failures.len());
        let planned = self.plan_moves(number, order, &mut others);
        let moved = planned.and_then(|moves| self.carry_out(number, order, &moves));
        if moved.is_err() {
            self.end_round();
        }
        let sectors = moved?;
        match self.failures.drain(failures..).next() {
            Some((_, error)) => Err(error),
            None => Ok(Moved { sectors, next: others.start }),
        }
    }

    /// Decides which sector goes where; the lanes' blocks can be filled then.
    fn plan_moves(
        &mut self,
        number: usize,
        order: Order,
        others: &mut Range<u32>,
    ) -> Result<ArrayVec<Move, ROUND_SECTORS>, Error> {
        let btt = self.btt;
        let arena = &btt.arenas[number];
        let mut moves: ArrayVec<Move, ROUND_SECTORS> = ArrayVec::new();
        let mut spare: ArrayVec<usize, ROUND_SECTORS> = ArrayVec::new();
        while moves.len() + spare.len() < ROUND_SECTORS {
            let Some(lane) = self.lanes.arenas[number].take() else { break };
            let free = self.lanes.arenas[number].lane(lane).free;
            match order.sector_of(free) {
                Some(lba) if btt.is_misplaced(arena, order, lba)? => {
                    moves.push(Move { lane, lba });
                }
                _ => spare.push(lane),
            }
        }
        let end = others.start.saturating_add(LOOKED_AT).min(others.end).min(order.sectors);
        while !spare.is_empty() {
            let next = &mut others.start;
            let Some(lba) = btt.next_misplaced(number, order, next, end)? else { break };
            if moves.iter().all(|planned| planned.lba != lba)
                && btt.is_in_the_way(arena, order, lba)?
                && let Some(lane) = spare.pop()
            {
                moves.push(Move { lane, lba });
            }
        }
        for planned in &moves {
            self.make_fillable(number, planned.lane)?;
        }
        Ok(moves)
    }

    /// Moves sectors under their map locks. Returns how many.
    fn carry_out(&mut self, number: usize, order: Order, moves: &[Move]) -> Result<u32, Error> {
        let btt = self.btt;
        if !mutant!(btt::MovedUnlocked) {
            self.lock_all(moves.iter().map(|planned| LockKey::of(number, planned.lba)).collect());
        }
        let settled = btt.settle(&btt.arenas[number], moves.iter().map(|planned| planned.lba));
        if let Err(error) = settled {
            return self.refuse_moves(error);
        }
        for planned in moves {
            self.stage_move(number, order, *planned)?;
        }
        let count = self.round.staged.len() as u32;
        if count == 0 {
            self.end_round();
            return Ok(0);
        }
        let in_page_cache = btt.durability() == Durability::PageCache;
        self.round.syncs = in_page_cache && !mutant!(btt::MovedUnsynced);
        if let Err(error) = self.fence_moved() {
            return self.refuse_moves(error);
        }
        self.publish();
        Ok(count)
    }

    /// A sync has failed: nothing is moved.
    fn refuse_moves(&mut self, error: MediaError) -> Result<u32, Error> {
        self.end_round();
        self.btt.keep_after_failed_sync(&error);
        Err(error.into())
    }

    /// Makes what was copied durable.
    fn fence_moved(&mut self) -> Result<(), MediaError> {
        if mutant!(btt::MovedUnfenced) {
            return Ok(());
        }
        self.fence_staged()?;
        if self.round.syncs { self.btt.medium.sync() } else { Ok(()) }
    }

    /// Copies what a sector holds to the free block of a lane, and stages it, if it still is to be moved.
    fn stage_move(&mut self, number: usize, order: Order, planned: Move) -> Result<(), Error> {
        let Move { lane, lba } = planned;
        let btt = self.btt;
        let (medium, arena) = (&btt.medium, &btt.arenas[number]);
        let entry = arena.load_entry(medium, lba)?;
        if !order.is_misplaced(lba, entry) {
            return Ok(());
        }
        let mut bytes = [0; LARGEST_BLOCK];
        let bytes = &mut bytes[..btt.lba_size.external() as usize];
        let is_zero =
            matches!(entry.mapped(), Mapped::Zero(_)) && !mutant!(btt::MovedZeroForgotten);
        if !is_zero || mutant!(btt::MovedZeroUnfilled) {
            match medium.read_bytes(arena.block_offset(entry.block(lba)), bytes) {
                // The sector stays where it is, and its next reader gets the error.
                Err(error) if error.cause == Cause::Medium => return Ok(()),
                read => read?,
            }
        }
        let new = self.lanes.arenas[number].lane(lane).free;
        medium.write_bytes(arena.block_offset(new), bytes)?;
        self.round.begin_group(0..1);
        let (tag, group, zero) = (0, 0, is_zero);
        let staged = Staged { arena: number, lba, lane, new, old: entry, tag, group, zero };
        self.round.push(staged);
        Ok(())
    }
}
