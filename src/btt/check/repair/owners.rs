//! The owner of each block: every sector and every lane gets one of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::Round;
use super::lanes::{self, From};
use super::remedy::{Remedy, Repair, Store};
use super::unreadable::clear_pages;
use crate::btt::check::arena::Arena;
use crate::btt::check::flog::Lane;
use crate::btt::check::kind::Kind;
use crate::btt::check::{Fault, Owner};
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::{Block, LaneIndex, Lba};
use crate::pmem::PersistentMemory;

/// What is wrong with the owners of an arena's blocks.
#[derive(Debug, Default)]
struct Disorder {
    /// Sectors whose map entry names a block that does not exist.
    out_of_range: BTreeSet<Lba>,
    /// Blocks with several owners.
    shared: BTreeMap<Block, BTreeSet<Shares>>,
    /// Lanes that say nothing.
    silent: BTreeSet<LaneIndex>,
    /// Those of them that cannot be read.
    unreadable: BTreeSet<LaneIndex>,
    /// Lanes that say something, which cannot be all right.
    dubious: BTreeSet<LaneIndex>,
    /// Blocks without an owner.
    missing: BTreeSet<Block>,
}

/// An owner among several; sectors come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shares {
    Sector(Lba),
    Lane(LaneIndex),
}

impl std::convert::From<Owner> for Shares {
    fn from(owner: Owner) -> Shares {
        match owner {
            Owner::Lane(lane) => Shares::Lane(lane),
            Owner::Sector(lba) => Shares::Sector(lba),
        }
    }
}

/// The sectors and lanes that get another block.
#[derive(Debug, Default)]
struct Displaced {
    /// Sectors to be marked as lost, in the block that they have: it cannot be told whose it is.
    doubtful: BTreeSet<Lba>,
    /// Sectors that get another block, and are marked as lost.
    sectors: BTreeSet<Lba>,
    /// Lanes that get another block.
    lanes: BTreeSet<LaneIndex>,
}

impl<M: PersistentMemory> Round<'_, M> {
    /// Gives blocks to those that have none of their own.
    pub(super) fn owners(&self) -> Vec<Repair> {
        self.writable().flat_map(|number| self.owners_in(number)).collect()
    }

    fn owners_in(&self, number: usize) -> Vec<Repair> {
        let arena = self.arena(number);
        let lanes = lanes::read(&arena);
        let Some(disorder) = self.disorder(number, &lanes) else { return Vec::new() };
        let displaced = disorder.displaced();
        let count = displaced.lanes.len() + displaced.sectors.len() + disorder.out_of_range.len();
        // Every block that is named in vain leaves one that is not named. If not all findings were
        // listed, or the medium is being written to, it does not come out.
        if count == 0 || count != disorder.missing.len() {
            return Vec::new();
        }
        let only_lanes = displaced.sectors.is_empty() && disorder.out_of_range.is_empty();
        if !disorder.unreadable.is_empty() {
            // All but the lanes in these pages has to be in order: what they say will be gone.
            let is_certain = only_lanes && displaced.lanes == disorder.silent;
            return if is_certain { clear_pages(&arena, &disorder.unreadable) } else { Vec::new() };
        }
        match disorder.out_of_range.first() {
            Some(lba) if count == 1 && displaced.doubtful.is_empty() => {
                self.only_out_of_range(&arena, *lba, &disorder)
            }
            _ if only_lanes && displaced.doubtful.is_empty() => {
                let free = disorder.missing.iter().copied();
                self.give_to_lanes(&arena, &lanes, &displaced.lanes, free)
            }
            _ if self.options.force || mutant!(btt::UnaskedLoss) => {
                self.give_up_sectors(&arena, &lanes, &displaced, &disorder)
            }
            _ => Vec::new(),
        }
    }

    /// What is wrong in an arena; `None`: what is wrong cannot be told, for metadata are unreadable.
    fn disorder(&self, number: usize, lanes: &[Lane]) -> Option<Disorder> {
        let mut disorder = Disorder::default();
        let findings = self.report.findings.iter();
        for finding in findings.filter(|finding| finding.arena == Some(number)) {
            match finding.fault {
                Fault::MapUnreadable { .. } | Fault::ReplayUnstable { .. } => return None,
                Fault::LaneUnreadable { lane, .. } => _ = disorder.unreadable.insert(lane),
                // What was found is what replay would leave, and it was not carried out.
                Fault::PendingTwice { .. } | Fault::ReplayEndless { .. } if !self.options.force => {
                    return None;
                }
                Fault::MapRange { lba, .. } => _ = disorder.out_of_range.insert(lba),
                Fault::LaneRange { lane, .. } => _ = disorder.dubious.insert(lane),
                Fault::BlockMissing { block } => _ = disorder.missing.insert(block),
                Fault::BlockShared { block, first, second } => {
                    let owners = disorder.shared.entry(block).or_default();
                    owners.extend([Shares::from(first), Shares::from(second)]);
                }
                _ => {}
            }
        }
        if self.report.pending.iter().any(|write| write.arena == number) {
            return None;
        }
        let kinds = [Kind::MapRange, Kind::BlockShared, Kind::BlockMissing];
        let all_listed = |kind: &Kind| {
            let listed = self.report.findings.iter().filter(|f| f.fault.kind() == *kind).count();
            listed as u64 == self.report.findings.count(*kind)
        };
        if !kinds.iter().all(all_listed) {
            return None;
        }
        let numbered = (0..).map(LaneIndex).zip(lanes);
        let silent = numbered.filter(|(_, lane)| lane.free_block().is_none());
        disorder.silent = silent.map(|(lane, _)| lane).collect();
        Some(disorder)
    }

    /// One sector has no block, and one block has no owner.
    fn only_out_of_range(
        &self,
        arena: &Arena<'_, M>,
        lba: Lba,
        disorder: &Disorder,
    ) -> Vec<Repair> {
        let (Some(&block), Ok(entry)) = (disorder.missing.first(), arena.map_entry(lba)) else {
            return Vec::new();
        };
        let had_data = matches!(entry.mapped(), Mapped::Data(_));
        if self.options.force && had_data {
            let remedy = Remedy::RestoreSector { lba, block };
            return vec![store_entry(arena, lba, MapEntry::data(block), remedy)];
        }
        let remedy = Remedy::MarkLost { lba, block };
        vec![store_entry(arena, lba, MapEntry::error(block), remedy)]
    }

    /// Gives each lane a block without an owner: any will do.
    fn give_to_lanes(
        &self,
        arena: &Arena<'_, M>,
        lanes: &[Lane],
        displaced: &BTreeSet<LaneIndex>,
        free: impl Iterator<Item = Block>,
    ) -> Vec<Repair> {
        let layout = self.report.arenas[arena.number].layout;
        let repair = |(lane, block): (&LaneIndex, Block)| {
            let from = match lanes[lane.0 as usize].free_block() {
                Some(_) => From::Legal,
                None => From::Nonsense,
            };
            let block = if mutant!(btt::OneBlockForAll) { Block(0) } else { block };
            let stores = lanes::rewrite(arena, layout, *lane, block.0, from).ok()?;
            let remedy = Remedy::GiveFreeBlock { lane: *lane, block };
            Some(Repair { arena: Some(arena.number), remedy, stores })
        };
        displaced.iter().zip(free).filter_map(repair).collect()
    }

    /// Marks all sectors in doubt as lost, and gives each sector and lane a block.
    ///
    /// In steps, each durable before the next, so that a power failure in between leaves nothing that
    /// looks better than it is: first all are marked where they are. Only then the sectors without a
    /// block get one, for the last of them alone would be taken for the owner of the last block; then
    /// those that share one; then lanes.
    fn give_up_sectors(
        &self,
        arena: &Arena<'_, M>,
        lanes: &[Lane],
        displaced: &Displaced,
        disorder: &Disorder,
    ) -> Vec<Repair> {
        let mut free = disorder.missing.iter().copied();
        let mut repairs = Vec::new();
        for lba in displaced.doubtful.union(&disorder.out_of_range) {
            let Ok(entry) = arena.map_entry(*lba) else { return Vec::new() };
            let block = entry.block(*lba);
            let remedy = Remedy::MarkDoubtful { lba: *lba };
            repairs.push(store_entry(arena, *lba, MapEntry::error(block), remedy));
        }
        end_step(&mut repairs);
        for sectors in [&disorder.out_of_range, &displaced.sectors] {
            for (lba, block) in sectors.iter().zip(free.by_ref()) {
                let remedy = Remedy::MoveLost { lba: *lba, block };
                repairs.push(store_entry(arena, *lba, MapEntry::error(block), remedy));
            }
            end_step(&mut repairs);
        }
        repairs.append(&mut self.give_to_lanes(arena, lanes, &displaced.lanes, free));
        repairs
    }
}

impl Disorder {
    /// The sectors and lanes that have to get another block.
    ///
    /// A lane that shares a block with another lane may have any other. If it shares it with a sector,
    /// one of the two is wrong, unless the lane is known to be damaged.
    fn displaced(&self) -> Displaced {
        let mut displaced = Displaced { lanes: self.silent.clone(), ..Displaced::default() };
        for owners in self.shared.values() {
            let sectors = owners.iter().filter_map(|owner| match owner {
                Shares::Sector(lba) => Some(*lba),
                Shares::Lane(_) => None,
            });
            let lanes = owners.iter().filter_map(|owner| match owner {
                Shares::Lane(lane) => Some(*lane),
                Shares::Sector(_) => None,
            });
            let (dubious, sound): (Vec<_>, Vec<_>) =
                lanes.partition(|lane| self.dubious.contains(lane));
            let sectors: Vec<Lba> = sectors.collect();
            if sectors.len() > 1 || !sectors.is_empty() && !sound.is_empty() {
                let marked = sectors.iter().skip(usize::from(mutant!(btt::DoubtForgotten)));
                displaced.doubtful.extend(marked);
            }
            // The first keeps the block: a sector before a sound lane before a dubious one.
            displaced.sectors.extend(sectors.iter().skip(1));
            let lanes = sound.into_iter().chain(dubious);
            displaced.lanes.extend(lanes.skip(usize::from(sectors.is_empty())));
        }
        displaced
    }
}

fn store_entry<M: PersistentMemory>(
    arena: &Arena<'_, M>,
    lba: Lba,
    entry: MapEntry,
    remedy: Remedy,
) -> Repair {
    let is_forgotten = mutant!(btt::LossForgotten) && matches!(entry.mapped(), Mapped::Error(_));
    let entry = if is_forgotten { MapEntry::data(entry.block(lba)) } else { entry };
    let stores = vec![Store::Word { offset: arena.map_offset(lba), value: entry.0 }];
    Repair { arena: Some(arena.number), remedy, stores }
}

/// Makes all so far durable before what follows.
fn end_step(repairs: &mut [Repair]) {
    if let Some(last) = repairs.last_mut()
        && !mutant!(btt::StepsMerged)
    {
        last.stores.push(Store::Barrier);
    }
}
