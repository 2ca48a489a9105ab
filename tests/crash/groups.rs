//! Writes that are all or nothing: what is done with them, and whether a page is of one write.

use std::fmt;
use std::ops::Range;

use vhost_user_btt::pmem::simulated::Effort;
use vhost_user_btt::pmem::simulated::turns::AtRandom;

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::killed::{Killed, Next};
use super::mutants::AnyMutant;
use super::scenario::Op::{self, Commit, Read, Trim, Write, Zeroes};
use super::scenario::{Disk, Scenario};
use super::trace::{Start, fault_of};
use super::value::Value;
use super::verify::Verified;
use super::worker::Seen;

/// Sectors of the largest write that is all or nothing, in most scenarios.
const UNIT: u64 = 4;
/// What a round with groups leaves.
const EFFORT: Effort = Effort { most: 40, random: 4, lines: 2 };
/// How many orders of their turns are tried where there are several queues.
const SEEDS: u64 = 2;
/// Scenarios on disks that are only looked at in a deep run.
const FEW: usize = 3;
/// Most sectors that another implementation writes.
const BY_LINUX: usize = 7;

/// Sectors that are only written together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Page {
    /// The first, and what each of them was at the beginning, as [`Value::identity`].
    first: u64,
    initial: Vec<u64>,
}

impl Page {
    fn sectors(&self) -> Range<u64> {
        self.first..self.first + self.initial.len() as u64
    }

    pub fn contains(&self, sector: u64) -> bool {
        self.sectors().contains(&sector)
    }

    /// Which write a sector is of; `None`: it is as it was at the beginning.
    fn version(&self, sector: u64, value: &Value) -> Option<u64> {
        if value.identity() == self.initial[(sector - self.first) as usize] {
            return None;
        }
        let (_, version) = value.labels(value.bytes().len()).unwrap_or((0, u64::MAX));
        Some(version)
    }
}

/// The pages of a scenario: aligned, of a power of two of sectors up to the unit, and written as a whole
/// whenever they are written.
pub fn pages(scenario: &Scenario, works: &[(u64, &[Op])]) -> Vec<Page> {
    let ops: Vec<&Op> = works.iter().flat_map(|(_, ops)| *ops).collect();
    let mut pages = Vec::new();
    let mut size = 2;
    while size <= scenario.atomic {
        for op in &ops {
            let Write(sectors) = op else { continue };
            let (mut first, end) = (sectors.start.next_multiple_of(size), sectors.end);
            while first + size <= end {
                let page = first..first + size;
                if ops.iter().all(|op| is_whole_or_elsewhere(op, &page))
                    && is_in_one_arena(scenario, &page)
                {
                    let initial = page.map(|sector| scenario.initial(sector).identity()).collect();
                    pages.push(Page { first, initial });
                }
                first += size;
            }
        }
        size *= 2;
    }
    pages
}

fn is_whole_or_elsewhere(op: &Op, page: &Range<u64>) -> bool {
    let sectors = op.sectors();
    let is_whole = sectors.start <= page.start && page.end <= sectors.end;
    let is_elsewhere = sectors.end <= page.start || page.end <= sectors.start;
    is_elsewhere || matches!(op, Read(_)) || is_whole && matches!(op, Write(_))
}

fn is_in_one_arena(scenario: &Scenario, page: &Range<u64>) -> bool {
    let mut ends = scenario.disk.arenas().scan(0, |end, arena| {
        *end += u64::from(arena.external_nlba);
        Some(*end)
    });
    ends.all(|end| !(page.start < end && end < page.end))
}

/// Checks that each page is of one write.
pub fn check(pages: &[Page], values: &[(u64, Value)]) -> Result<(), String> {
    for page in pages {
        let of_page = values.iter().filter(|(sector, _)| page.contains(*sector));
        let mut versions = of_page.map(|(sector, value)| page.version(*sector, value));
        let first = versions.next();
        if let Some(other) = versions.find(|version| Some(*version) != first) {
            let sectors = page.sectors();
            return Err(format!("the page {sectors:?} is torn: {first:?} and {other:?}"));
        }
    }
    Ok(())
}

/// The same of what a process has read.
pub fn check_seen(pages: &[Page], seen: &[Seen]) -> Result<(), String> {
    for read in seen.chunk_by(|one, next| one.mark == next.mark) {
        let values: Vec<(u64, Value)> =
            read.iter().map(|seen| (seen.sector, seen.value.clone())).collect();
        check(pages, &values)?;
    }
    Ok(())
}

/// Which sectors another implementation writes: some more than once, so that lanes come to have numbers that
/// they had before.
pub fn sectors_for_linux(values: &[(u64, Value)]) -> Vec<u64> {
    let sectors = values.iter().map(|(sector, _)| *sector).take(2);
    let some: Vec<u64> = sectors.collect();
    some.iter().copied().cycle().take(BY_LINUX).collect()
}

/// A scenario with groups.
pub struct Grouped(Scenario);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "groups: {}", self.0)
    }
}

impl Grouped {
    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let start = Start::of(&self.0);
        let mut verified = Verified::default();
        let seeds = if self.0.is_of_one_queue() { 1 } else { SEEDS };
        (0..seeds).find_map(|seed| {
            let (_, trace) = start.run(&self.0, mutant, Box::new(AtRandom::new(seed)));
            figures.traces += 1;
            fault_of(&trace).or_else(|| {
                Cutter::new(&self.0, mutant, &trace).from(0, &EFFORT, &mut verified, figures)
            })
        })
    }
}

pub fn all(deep: bool) -> Vec<Grouped> {
    let others = [
        Disk::of(4096).old_layout(),
        Disk::of(520).two_arenas(),
        Disk::of(512).strict(512),
        Disk::of(4096).strict(4096),
        Disk::of(4160).two_arenas().old_layout(),
    ];
    let mut all = of_disk(Disk::of(512), deep);
    if deep {
        all.extend(others.into_iter().flat_map(|disk| of_disk(disk, deep)));
    } else {
        let shortest = |disk| of_disk(disk, deep).into_iter().take(FEW);
        all.extend(others[..3].iter().copied().flat_map(shortest));
    }
    all
}

pub fn for_mutants() -> Vec<Grouped> {
    of_disk(Disk::of(512), true)
}

fn of_disk(disk: Disk, deep: bool) -> Vec<Grouped> {
    let named = |name: &str, queues: Vec<Vec<Op>>| {
        let scenario = Scenario::new(&format!("{name} ({disk})"), disk, queues);
        scenario.lanes(LANES).atomic(UNIT)
    };
    let leave = vhost_user_btt::btt::NeverWritten::Leave;
    let mut all = vec![
        named("one page twice", vec![vec![Write(0..2), Write(0..2), Commit, Write(0..2), Commit]]),
        named("two pages and a sector", vec![vec![Write(0..2), Write(9..10), Write(4..6), Commit]]),
        named("a page of new sectors", vec![vec![Write(8..12), Commit]]),
        named("trimmed pages", vec![vec![Trim(0..2, leave), Commit, Write(0..2), Commit]]),
        named("a write that is not aligned", vec![vec![Write(3..9), Commit]]),
        named(
            "a page and its last sector again",
            vec![vec![Write(3..4), Write(8..12), Write(7..8), Write(4..8), Commit]],
        ),
    ];
    let two = vec![Write(0..2), Commit];
    // The first of 23 queues has twelve lanes.
    let ops =
        vec![Write(0..4), Write(4..8), Write(8..12), Write(12..16), Commit, Write(0..4), Commit];
    let pages = named("pages over more lanes than there are", vec![ops]).lanes(11);
    // Sectors alone until each lane has had one, and the first ones another.
    let alone = vec![Zeroes(20..34), Commit, Zeroes(20..22), Commit];
    let alone = named("a page, and single sectors", vec![[two.clone(), alone].concat()]);
    let others = vec![Write(20..21), Read(0..2), Commit];
    let one = [two.clone(), two.clone()].concat();
    if deep {
        all.extend([pages, alone]);
        all.push(
            named("a page, and another implementation", vec![vec![Write(0..2), Commit]])
                .then_linux(),
        );
        all.push(
            named("four sectors, and another implementation", vec![vec![Write(0..4), Commit]])
                .then_linux(),
        );
        all.push(named("a page and single sectors of another queue", vec![one, others]));
    } else if disk == Disk::of(512) {
        all.push(alone);
        all.push(
            named("a page, and another implementation", vec![vec![Write(0..2), Commit]])
                .then_linux(),
        );
    }
    all.push(named("pages of two queues", vec![two.clone(), two]));
    if disk.arenas == 2 {
        let next = u64::from(disk.arenas().next().unwrap().external_nlba);
        let first = next / UNIT * UNIT;
        all.push(named(
            "a page in each arena",
            vec![vec![Write(0..2), Write(first + 4..first + 8), Commit, Write(0..1), Commit]],
        ));
        all.push(named("over two arenas", vec![vec![Write(first - 4..first + 8), Commit]]));
    }
    all.into_iter().map(Grouped).collect()
}

/// Lanes of a queue: as few as leave room for a record of each set.
const LANES: usize = 16;

/// Daemons that are killed while they write pages.
pub fn killed() -> Vec<Killed> {
    let disks = [Disk::of(512), Disk::of(4096).old_layout(), Disk::of(512).page_cache(512)];
    let mut all = Vec::new();
    for disk in disks {
        for read_only in [false, true] {
            let read = vec![Read(0..4), Read(4..8)];
            let write = vec![Write(9..10), Commit, Write(0..4), Commit, Read(0..4)];
            let ops = if read_only { read } else { [read, write].concat() };
            let pages = vec![Write(0..4), Write(4..6), Commit, Write(6..8), Commit];
            let first = [pages, vec![Write(9..10), Commit]].concat();
            let scenario = Scenario::new(&format!("pages ({disk})"), disk, vec![first]);
            let scenario = scenario.lanes(LANES).atomic(UNIT);
            let scenario = scenario.watched(ops.iter().flat_map(Op::sectors));
            all.push(Killed::new(scenario, Next { read_only, ops }));
        }
    }
    all
}
