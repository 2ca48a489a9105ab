//! Long random histories, from a seed.

use vhost_user_btt::btt::{LbaSize, NeverWritten};
use vhost_user_btt::pmem::simulated::turns::AtRandom;
use vhost_user_btt::pmem::simulated::{MediumKind, Random};

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::scenario::{Disk, Op, Scenario};
use super::trace::{Start, fault_of};

/// One in so many events is a point at which the power fails.
const EVERY: u64 = 12;
/// Images of each such point.
const IMAGES: usize = 6;

/// Runs the history of `seed`, and cuts it off here and there.
pub fn run(seed: u64, figures: &mut Figures) -> Option<Violation> {
    let scenario = scenario(seed);
    let schedule = Box::new(AtRandom::new(seed));
    let (_, trace) = Start::of(&scenario).run(&scenario, AnyMutant::None, schedule);
    figures.traces += 1;
    if let Some(violation) = fault_of(&trace) {
        return Some(violation);
    }
    let mut random = Random::new(!seed);
    Cutter::new(&scenario, AnyMutant::None, &trace).sometimes(EVERY, IMAGES, &mut random, figures)
}

/// What the history of `seed` does to which disk.
pub fn scenario(seed: u64) -> Scenario {
    let random = &mut Random::new(seed);
    let disk = disk(random);
    // Without a further draw, so that the histories of other seeds stay what they are.
    let disk = match seed % 8 {
        3 => disk.strict(512),
        7 => disk.strict(4096),
        _ => disk,
    };
    let hot = hot_sectors(&disk, random);
    let poisoned = random.one_in(4) && disk.medium == MediumKind::Dax;
    let queues = (0..random.within(1..4)).map(|_| ops(&hot, poisoned, random)).collect();
    let scenario = Scenario::new(&format!("seed {seed}"), disk, queues);
    let scenario = scenario.prepared(&hot[..3]).lanes(1 << random.within(0..4));
    if poisoned { scenario.poisoned(&hot[..1]) } else { scenario }
}

fn disk(random: &mut Random) -> Disk {
    let size = LbaSize::ALL[random.within(0..7) as usize].external();
    let disk = Disk::of(size);
    let disk = if random.one_in(2) { disk.old_layout() } else { disk };
    if random.one_in(3) { disk.two_arenas() } else { disk }
}

/// Few sectors, so that they are written again and again; some share a map lock, some do not.
fn hot_sectors(disk: &Disk, random: &mut Random) -> Vec<u64> {
    let sectors = u64::from(disk.arenas().next().unwrap().external_nlba);
    let first = match disk.arenas {
        1 => random.within(0..sectors - 40),
        _ => sectors - 4,
    };
    vec![first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 17, first + 33]
}

fn ops(hot: &[u64], poisoned: bool, random: &mut Random) -> Vec<Op> {
    // Poison is found by reading, and a block must not be filled before it was.
    let mut ops = vec![Op::Read(hot[0]..hot[0] + 1)];
    ops.extend((0..random.within(4..24)).map(|_| op(hot, poisoned, random)));
    ops.push(Op::Commit);
    ops
}

fn op(hot: &[u64], poisoned: bool, random: &mut Random) -> Op {
    let sector = hot[random.within(0..hot.len() as u64) as usize];
    let several = sector..sector + 1 + random.within(0..3);
    match random.within(0..13) {
        0..5 => Op::Write(several),
        5 => Op::Zeroes(several),
        6 => Op::Trim(several, NeverWritten::Leave),
        7 => Op::Trim(several, NeverWritten::Zero),
        // Part of a sector that cannot be read cannot be written.
        8 if !poisoned => Op::Part(sector, random.within(0..4) as usize),
        9 => Op::Read(several),
        10 => Op::Defragment(random.within(0..3) as u32),
        _ => Op::Commit,
    }
}
