//! The map: together with the free blocks of the lanes, it names every block exactly once (I4, and
//! I8 with it).
//!
//! One pass over the map, with one bit for each block, finds out how many blocks have more than one
//! owner, who the later ones are, and which have none. Only if there are any of the former, a second
//! pass finds their first owners, up to the number that is listed.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::arena::Arena;
use super::claims::Claims;
use super::finding::{Fault, Owner};
use super::kind::Kind;
use super::pieces::{Piece, for_each_piece};
use super::progress::Progress;
use super::report::{Findings, MapCounts};
use crate::btt::format::geometry::MAP_ENTRY_SIZE;
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::{PAGE, PersistentMemory};

const ENTRY_BYTES: usize = MAP_ENTRY_SIZE as usize;

/// The map of an arena as it is after replay.
#[derive(Debug)]
pub(super) struct Map<'a, M> {
    pub arena: &'a Arena<'a, M>,
    /// Where the sectors that replay writes end up, in the order of their numbers.
    pub moved: &'a [(Lba, Block)],
}

/// Some map entries, one after another.
#[derive(Debug)]
enum Entries<'a> {
    /// So many that are zero.
    Zeroes(u32),
    /// Little-endian words.
    Words(&'a [[u8; ENTRY_BYTES]]),
    /// So many that cannot be read.
    Unreadable(u64),
}

impl<M: PersistentMemory> Map<'_, M> {
    /// Hands out all entries in order, with the number of the first sector.
    fn for_each(
        &self,
        progress: &mut Progress<'_>,
        mut each: impl FnMut(Lba, Entries<'_>) -> ControlFlow<()>,
    ) {
        let (mut next, mut moved) = (0u32, self.moved);
        let (offset, length) = (self.arena.map_offset(Lba(0)), self.arena.map_bytes());
        for_each_piece(self.arena.medium, offset, length, |piece| match piece {
            Piece::Bytes(bytes) => {
                progress.advance(bytes.len() as u64);
                let (words, _) = bytes.as_chunks_mut::<ENTRY_BYTES>();
                while let Some((lba, block)) = next_moved(&mut moved, next, words.len() as u32) {
                    words[(lba.0 - next) as usize] = MapEntry::data(block).0.to_le_bytes();
                }
                for words in words.chunks(PAGE as usize / ENTRY_BYTES) {
                    let (lba, count) = (Lba(next), words.len() as u32);
                    next += count;
                    if is_zero(words) {
                        each(lba, Entries::Zeroes(count))?;
                    } else {
                        each(lba, Entries::Words(words))?;
                    }
                }
                ControlFlow::Continue(())
            }
            Piece::Zeroes(length) => {
                progress.advance(length);
                let end = next + (length / MAP_ENTRY_SIZE) as u32;
                while let Some((lba, block)) = next_moved(&mut moved, next, end - next) {
                    each(Lba(next), Entries::Zeroes(lba.0 - next))?;
                    let word = MapEntry::data(block).0.to_le_bytes();
                    each(lba, Entries::Words(&[word]))?;
                    next = lba.0 + 1;
                }
                let (lba, count) = (Lba(next), end - next);
                next = end;
                each(lba, Entries::Zeroes(count))
            }
            Piece::Unreadable(length) => {
                progress.advance(length);
                let (lba, count) = (Lba(next), length / MAP_ENTRY_SIZE);
                next += count as u32;
                each(lba, Entries::Unreadable(count))
            }
        });
    }

    /// Reads the map, and finds fault with it and with the blocks named by it and by the lanes'
    /// `free` blocks.
    pub(super) fn check(
        &self,
        free: impl Iterator<Item = (LaneIndex, Block)>,
        progress: &mut Progress<'_>,
        findings: &mut Findings,
    ) -> MapCounts {
        let mut pass = FirstPass {
            arena: self.arena,
            claims: Claims::new(self.arena.geometry.internal_nlba),
            lanes: HashMap::new(),
            counts: MapCounts::default(),
            before: None,
            shared: Vec::new(),
            shared_unlisted: 0,
            gap: None,
            findings,
        };
        free.for_each(|(lane, block)| pass.claim_by_lane(lane, block));
        let room = pass.findings.room(Kind::BlockShared);
        self.for_each(progress, |lba, entries| {
            match entries {
                Entries::Zeroes(count) => pass.never_written(lba, count, room),
                Entries::Words(words) => {
                    for (word, lba) in words.iter().zip(lba.0..) {
                        pass.entry(Lba(lba), MapEntry(u32::from_le_bytes(*word)), room);
                    }
                }
                Entries::Unreadable(count) => pass.unreadable(lba, count),
            }
            ControlFlow::Continue(())
        });
        pass.close_gap();
        pass.report_missing();
        let FirstPass { mut claims, lanes, counts, shared, shared_unlisted, .. } = pass;
        let first_sectors = self.first_owners(&shared, &lanes, &mut claims, progress);
        for (block, sector) in shared {
            let of_lane = lanes.get(&block).copied().map(Owner::Lane);
            let of_sector = || first_sectors.get(&block).copied().map(Owner::Sector);
            let second = Owner::Sector(sector);
            match of_lane.or_else(of_sector) {
                Some(first) => {
                    findings.add(self.arena.number, Fault::BlockShared { block, first, second });
                }
                // It had one in the first pass: another program writes to the medium.
                None => findings.add_unlisted(Kind::BlockShared, 1),
            }
        }
        findings.add_unlisted(Kind::BlockShared, shared_unlisted);
        counts
    }

    /// The first sectors that own the blocks in `shared`, of those that no lane owns. A second pass
    /// over the map, as far as need be.
    fn first_owners(
        &self,
        shared: &[(Block, Lba)],
        lanes: &HashMap<Block, LaneIndex>,
        claims: &mut Claims,
        progress: &mut Progress<'_>,
    ) -> HashMap<Block, Lba> {
        let mut owners = HashMap::new();
        claims.clear();
        let without_lane = shared.iter().filter(|(block, _)| !lanes.contains_key(block));
        let wanted = without_lane.filter(|(block, _)| claims.claim(*block)).count();
        if wanted == 0 {
            return owners;
        }
        progress.expect(self.arena.map_bytes());
        self.for_each(progress, |lba, entries| {
            match entries {
                Entries::Zeroes(count) => claims.release_range(lba.0, count, |block| {
                    owners.insert(block, Lba(block.0));
                }),
                Entries::Words(words) => {
                    for (word, lba) in words.iter().zip(lba.0..) {
                        let block = MapEntry(u32::from_le_bytes(*word)).block(Lba(lba));
                        if self.arena.has_block(block) && claims.release(block) {
                            owners.insert(block, Lba(lba));
                        }
                    }
                }
                Entries::Unreadable(_) => {}
            }
            if owners.len() == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        owners
    }
}

/// Takes the next of the sectors that replay writes, if it is one of the `count` from `first` on.
fn next_moved(moved: &mut &[(Lba, Block)], first: u32, count: u32) -> Option<(Lba, Block)> {
    // Below the first are those whose entries turned out not to be readable after all.
    while let [(lba, block), rest @ ..] = *moved {
        match lba.0.checked_sub(first) {
            Some(index) if index >= count => return None,
            Some(_) => {
                *moved = rest;
                return Some((*lba, *block));
            }
            None => *moved = rest,
        }
    }
    None
}

fn is_zero(words: &[[u8; ENTRY_BYTES]]) -> bool {
    // Without a branch for each, so that it is done many at a time.
    words.iter().fold(0, |all, word| all | u32::from_le_bytes(*word)) == 0
}

/// What the first pass over the map gathers.
struct FirstPass<'a, M> {
    arena: &'a Arena<'a, M>,
    claims: Claims,
    /// The first lanes that own a block.
    lanes: HashMap<Block, LaneIndex>,
    counts: MapCounts,
    /// The block of the sector before this one, if it has data.
    before: Option<Block>,
    /// Blocks of sectors that have another owner already.
    shared: Vec<(Block, Lba)>,
    /// More of them.
    shared_unlisted: u64,
    /// First and number of the sectors before this one whose entries could not be read.
    gap: Option<(Lba, u64)>,
    findings: &'a mut Findings,
}

impl<M: PersistentMemory> FirstPass<'_, M> {
    fn claim_by_lane(&mut self, lane: LaneIndex, block: Block) {
        if self.claims.claim(block) {
            self.lanes.insert(block, lane);
            return;
        }
        if let Some(&first) = self.lanes.get(&block) {
            let (first, second) = (Owner::Lane(first), Owner::Lane(lane));
            let fault = Fault::BlockShared { block, first, second };
            self.findings.add(self.arena.number, fault);
        }
    }

    fn never_written(&mut self, first: Lba, count: u32, room: usize) {
        self.close_gap();
        self.counts.never_written += u64::from(count);
        self.before = None;
        let (shared, unlisted) = (&mut self.shared, &mut self.shared_unlisted);
        self.claims.claim_range(first.0, count, |block| {
            note_shared(shared, unlisted, room, block, Lba(block.0));
        });
    }

    fn entry(&mut self, lba: Lba, entry: MapEntry, room: usize) {
        self.close_gap();
        let before = self.before.take();
        match entry.mapped() {
            Mapped::NeverWritten => {
                self.counts.never_written += 1;
                if entry != MapEntry(0) {
                    let (entry, offset) = (entry.0, self.arena.map_offset(lba));
                    let fault = Fault::MapFlags { lba, entry, offset };
                    self.findings.add(self.arena.number, fault);
                }
            }
            Mapped::Data(block) => {
                self.counts.data += 1;
                let follows = before.is_none_or(|before| block.is_behind(before));
                self.counts.out_of_order += u64::from(!follows);
                self.before = Some(block);
            }
            Mapped::Zero(_) => self.counts.zero += 1,
            Mapped::Error(block) => {
                self.counts.error += 1;
                let fault = Fault::SectorError { lba, block };
                self.findings.add(self.arena.number, fault);
            }
        }
        let block = entry.block(lba);
        if !self.arena.has_block(block) {
            self.counts.out_of_range += 1;
            let fault = Fault::MapRange {
                lba,
                block,
                blocks: self.arena.geometry.internal_nlba,
                offset: self.arena.map_offset(lba),
            };
            self.findings.add(self.arena.number, fault);
        } else if !self.claims.claim(block) {
            note_shared(&mut self.shared, &mut self.shared_unlisted, room, block, lba);
        }
    }

    fn unreadable(&mut self, first: Lba, count: u64) {
        self.counts.unreadable += count;
        self.before = None;
        self.gap = match self.gap {
            Some((start, before)) => Some((start, before + count)),
            None => Some((first, count)),
        };
    }

    /// Reports the entries before this one that could not be read.
    fn close_gap(&mut self) {
        if let Some((first, sectors)) = self.gap.take() {
            let fault =
                Fault::MapUnreadable { first, sectors, offset: self.arena.map_offset(first) };
            self.findings.add(self.arena.number, fault);
        }
    }

    fn report_missing(&mut self) {
        let listed = self.findings.room(Kind::BlockMissing);
        let mut unlisted = self.claims.unclaimed_count();
        for block in self.claims.unclaimed().take(listed) {
            let fault = Fault::BlockMissing { block };
            self.findings.add(self.arena.number, fault);
            unlisted -= 1;
        }
        self.findings.add_unlisted(Kind::BlockMissing, unlisted);
    }
}

fn note_shared(
    shared: &mut Vec<(Block, Lba)>,
    unlisted: &mut u64,
    room: usize,
    block: Block,
    lba: Lba,
) {
    if shared.len() < room {
        shared.push((block, lba));
    } else {
        *unlisted += 1;
    }
}
