//! Defragmenting a whole BTT, in steps of limited time, while it is served or not.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::btt::engine::{Btt, Order};
use crate::btt::format::error::Error;
use crate::pmem::PersistentMemory;

/// Map entries that are counted between two looks at the clock.
const COUNTED: u32 = 1 << 16;
/// Beyond an eighth more than were counted, so many sectors may be moved: a guest writes meanwhile, and one
/// sector of each circle is moved twice.
const SPARE_MOVES: u64 = 4096;

/// How far a defragmentation has come. It can be continued from here at any time, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Position {
    /// Sectors are moved; otherwise those are counted that will have to be.
    pub moves: bool,
    /// The number of the arena.
    pub arena: u32,
    /// What the number of a block has more than that of the sector that belongs there; `None`: to be found.
    pub shift: Option<u32>,
    /// The first sector of the arena that was not looked at yet.
    pub next: u32,
    /// How many sectors were out of place when they were counted.
    pub misplaced: u64,
    /// How many sectors were moved.
    pub moved: u64,
}

impl Position {
    /// Where a defragmentation begins.
    pub const BEGIN: Position =
        Position { moves: false, arena: 0, shift: None, next: 0, misplaced: 0, moved: 0 };

    fn next_arena(self) -> Position {
        Position { arena: self.arena + 1, shift: None, next: 0, ..self }
    }

    /// Returns whether more sectors were moved than it takes, because a guest writes as fast.
    fn is_exhausted(self) -> bool {
        let most = self.misplaced.saturating_add(self.misplaced / 8);
        self.moved > most.saturating_add(SPARE_MOVES)
    }
}

/// Goes on with a defragmentation from `position` for about as long as `time`, with a pause of `pause` after each
/// round. Returns how far it has come, and whether it is done.
///
/// # Errors
///
/// The BTT cannot be written, or the medium fails. All sectors hold what they did.
pub fn defragment<M: PersistentMemory>(
    btt: &Arc<Btt<M>>,
    position: Position,
    time: Duration,
    pause: Duration,
) -> Result<(Position, bool), Error> {
    let end = Instant::now() + time;
    let mut position = position;
    loop {
        if position.arena as usize >= btt.arena_count() {
            if position.moves || position.misplaced == 0 {
                return Ok((position, true));
            }
            position = Position { moves: true, arena: 0, shift: None, next: 0, ..position };
        }
        if position.is_exhausted() {
            return Ok((position, true));
        }
        let arena = position.arena as usize;
        let order = match position.shift {
            Some(shift) => btt.order(arena, shift),
            None => btt.order_of(arena)?,
        };
        position.shift = Some(order.shift());
        position = if position.moves {
            move_some(btt, order, position, pause)?
        } else {
            let misplaced = btt.count_misplaced(arena, order, position.next, COUNTED)?;
            let next = position.next.saturating_add(COUNTED);
            let misplaced = position.misplaced.saturating_add(misplaced.into());
            let counted = Position { next, misplaced, ..position };
            if next < order.sectors() { counted } else { counted.next_arena() }
        };
        if Instant::now() >= end && (position.arena as usize) < btt.arena_count() {
            return Ok((position, false));
        }
    }
}

/// Moves up to a round of sectors with the lanes of each queue.
fn move_some<M: PersistentMemory>(
    btt: &Arc<Btt<M>>,
    order: Order,
    position: Position,
    pause: Duration,
) -> Result<Position, Error> {
    let before = position;
    let mut position = position;
    for set in 0..btt.lane_sets() {
        let mut queue = btt.extra_queue(set);
        let others = position.next..order.sectors();
        let moved = queue.batch().defragment(position.arena as usize, order, others)?;
        position.next = moved.next;
        position.moved = position.moved.saturating_add(moved.sectors.into());
        // A guest's queue may wait for these lanes.
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    // Without a lane, no sector is looked at either.
    let is_done = position.moved == before.moved
        && (position.next >= order.sectors() || position.next == before.next);
    Ok(if is_done { position.next_arena() } else { position })
}

impl Default for Position {
    fn default() -> Position {
        Position::BEGIN
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::VolatileSlice;

    use super::*;
    use crate::btt::map::{MapEntry, Mapped};
    use crate::btt::{CreateOptions, Lba, LbaSize, NeverWritten, OpenOptions, Queue, Version};
    use crate::btt::{create, find};
    use crate::pmem::simulated::{Random, Simulated};

    type Disk = Queue<Arc<Simulated>>;

    fn new_disk() -> Arc<Simulated> {
        let medium = Arc::new(Simulated::new(17 << 20));
        let options = CreateOptions {
            lba_size: LbaSize::new(4096).unwrap(),
            version: Version::V2_0,
            uuid: uuid::Uuid::nil(),
            parent_uuid: uuid::Uuid::nil(),
            arena_size: 17 << 20,
        };
        create(&*medium, &options, |_, _| {}).unwrap();
        medium
    }

    fn open(medium: &Arc<Simulated>, queues: usize) -> Vec<Disk> {
        let options =
            OpenOptions { version: None, namespace: None, read_only: false, queues, atomic: 0 };
        Btt::open(medium.clone(), &options).unwrap().1
    }

    fn write(disk: &mut Disk, sector: u64, value: u8) {
        let mut bytes = [value; 4096];
        let mut batch = disk.batch();
        batch.write(sector, &VolatileSlice::from(&mut bytes[..]), 0).unwrap();
        batch.commit();
        assert!(batch.take_failures().next().is_none());
    }

    fn read(disk: &mut Disk, sector: u64) -> u8 {
        let mut bytes = [0; 4096];
        disk.batch().read(sector, &VolatileSlice::from(&mut bytes[..])).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    }

    fn entries(medium: &Simulated) -> Vec<MapEntry> {
        let arena = find(medium, None).unwrap()[0];
        let geometry = arena.info.geometry;
        let entry = |lba| medium.load_u32(arena.start + geometry.map_entry_offset(Lba(lba)));
        (0..geometry.external_nlba).map(|lba| MapEntry(entry(lba).unwrap())).collect()
    }

    /// How many sectors with data do not lie behind the one before.
    fn jumps(entries: &[MapEntry]) -> usize {
        let block = |entry: &MapEntry| match entry.mapped() {
            Mapped::Data(block) => Some(block.0),
            _ => None,
        };
        let follows = |pair: &&[MapEntry]| {
            block(&pair[0]).zip(block(&pair[1])).is_some_and(|(one, next)| next != one + 1)
        };
        entries.windows(2).filter(follows).count()
    }

    /// All steps, each as short as can be. Returns where the last has ended.
    fn defragment_all(disk: &Disk) -> Position {
        let mut position = Position::BEGIN;
        loop {
            let (next, is_done) =
                defragment(disk.btt(), position, Duration::ZERO, Duration::ZERO).unwrap();
            position = next;
            if is_done {
                return position;
            }
        }
    }

    /// Writes all sectors in order, and then as many at random.
    fn aged(queues: usize) -> (Arc<Simulated>, Vec<Disk>, u64) {
        let medium = new_disk();
        let mut disks = open(&medium, queues);
        let sectors = disks[0].btt().sectors();
        (0..sectors).for_each(|sector| write(&mut disks[0], sector, sector as u8));
        let random = &mut Random::new(7);
        for step in 0..sectors {
            let sector = random.within(0..sectors);
            write(&mut disks[step as usize % queues], sector, sector as u8);
        }
        (medium, disks, sectors)
    }

    #[test]
    fn an_aged_disk_is_in_order_afterwards_and_holds_what_it_held() {
        for queues in [1, 3] {
            let (medium, mut disks, sectors) = aged(queues);
            assert!(jumps(&entries(&medium)) > sectors as usize / 2);
            let end = defragment_all(&disks[0]);
            assert!(end.moved >= end.misplaced && end.moved < 2 * end.misplaced, "{end:?}");
            assert!(jumps(&entries(&medium)) < 20, "{}", jumps(&entries(&medium)));
            for sector in 0..sectors {
                assert_eq!(read(&mut disks[0], sector), sector as u8);
            }
            let again = defragment_all(&disks[0]);
            assert!(again.moved < 20, "{again:?}");
        }
    }

    #[test]
    fn a_disk_that_was_filled_in_order_is_left_as_it_is() {
        let medium = new_disk();
        let mut disks = open(&medium, 1);
        let sectors = disks[0].btt().sectors();
        (0..sectors).for_each(|sector| write(&mut disks[0], sector, 1));
        let before = entries(&medium);
        let end = defragment_all(&disks[0]);
        assert_eq!((end.moved, end.misplaced), (0, 0));
        assert_eq!(entries(&medium), before);
    }

    #[test]
    fn flags_stay_and_sectors_that_were_never_written_stay_so() {
        let medium = new_disk();
        let mut disks = open(&medium, 1);
        let sectors = disks[0].btt().sectors();
        (0..sectors / 2).for_each(|sector| write(&mut disks[0], sector, 7));
        let random = &mut Random::new(9);
        (0..sectors / 2).for_each(|_| write(&mut disks[0], random.within(0..sectors / 2), 7));
        disks[0].batch().trim(100, 50, NeverWritten::Leave, 0).unwrap();
        let arena = find(&*medium, None).unwrap()[0];
        let at = arena.start + arena.info.geometry.map_entry_offset(Lba(9));
        let Mapped::Data(lost) = entries(&medium)[9].mapped() else { panic!("it was written") };
        medium.store_u32(at, MapEntry::error(lost).0).unwrap();
        let before = jumps(&entries(&medium));
        defragment_all(&disks[0]);
        let after = entries(&medium);
        assert!(jumps(&after) < before / 10, "{} of {before} are left", jumps(&after));
        assert_eq!(after[9], MapEntry::error(lost));
        assert!(after[100..150].iter().all(|entry| matches!(entry.mapped(), Mapped::Zero(_))));
        let half = (sectors / 2) as usize;
        assert!(after[half..].iter().all(|entry| entry.mapped() == Mapped::NeverWritten));
        assert_eq!((read(&mut disks[0], 8), read(&mut disks[0], 120)), (7, 0));
    }
}
