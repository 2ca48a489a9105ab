//! Map entries that are durable later than the writes which stored them, and syncs that queues share: in
//! `strict`.
//!
//! Traces are cut off where that may leave something new. Map entries are open for long, so that images are
//! sampled. Several queues take turns at random: what is looked for are syncs of one that begin or end while
//! others store and log, which takes more preemptions than can be exhausted.

use std::fmt;

use vhost_user_btt::btt::NeverWritten;
use vhost_user_btt::pmem::simulated::Effort;
use vhost_user_btt::pmem::simulated::turns::AtRandom;

use super::cuts::{Cutter, Violation};
use super::figures::Figures;
use super::mutants::AnyMutant;
use super::scenario::Op::{self, Commit, Defragment, Flush, Part, Read, Trim, Write, Zeroes};
use super::scenario::{Disk, Scenario};
use super::trace::{Start, fault_of};
use super::verify::Verified;

/// What is tried at each point of a trace of one queue, and of several.
const ONE_QUEUE: Effort = Effort { most: 200, random: 4, lines: 2 };
const SEVERAL_QUEUES: Effort = Effort { most: 24, random: 1, lines: 1 };
/// How many orders of turns are tried, in a deep run, and of a mutant until it is noticed.
const SEEDS: u64 = 10;
const DEEP_SEEDS: u64 = 200;
const MUTANT_SEEDS: u64 = 400;

/// A scenario with deferred syncs.
pub struct Deferred {
    scenario: Scenario,
    seeds: u64,
}

impl fmt::Display for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deferred: {}", self.scenario)
    }
}

pub fn all(deep: bool) -> Vec<Deferred> {
    let disks = [
        Disk::of(512).strict(512),
        Disk::of(4096).strict(4096),
        Disk::of(512).two_arenas().strict(4096),
        Disk::of(520).old_layout().strict(512),
    ];
    let disks = if deep { &disks[..] } else { &disks[..3] };
    let seeds = if deep { DEEP_SEEDS } else { SEEDS };
    disks.iter().flat_map(|disk| of_disk(*disk, seeds)).collect()
}

pub fn for_mutants() -> Vec<Deferred> {
    of_disk(Disk::of(512).strict(512), MUTANT_SEEDS)
}

fn of_disk(disk: Disk, seeds: u64) -> Vec<Deferred> {
    let mut all = of_one_queue(disk);
    all.extend(of_several_queues(disk));
    if disk.arenas == 2 {
        let next = u64::from(disk.arenas().next().unwrap().external_nlba);
        let ops = [write(next - 1..next + 1), write(next..next + 1), write(next - 1..next)];
        let again = [write(next..next + 1), write(next - 2..next + 2)];
        let scenario = Scenario::new(
            &named("over two arenas", &disk),
            disk,
            vec![[ops.concat(), again.concat()].concat()],
        );
        all.push(scenario.lanes(2).prepared(&[next - 1, next]));
    }
    all.into_iter().map(|scenario| Deferred { scenario, seeds }).collect()
}

fn named(name: &str, disk: &Disk) -> String {
    format!("{name} ({disk})")
}

/// A round of its own.
fn write(sectors: std::ops::Range<u64>) -> Vec<Op> {
    vec![Write(sectors), Commit]
}

fn of_one_queue(disk: Disk) -> Vec<Scenario> {
    let [one, two, three, five] = [1, 2, 3, 5].map(|sector| write(sector..sector + 1));
    let trim = |sectors| vec![Trim(sectors, NeverWritten::Leave), Commit];
    // The lanes 0 to 2 have durable map entries then, and lane 3 is next.
    let to_lane_three = [write(5..8), trim(0..1)].concat();
    let scenario =
        |name: &str, ops: &[Vec<Op>]| Scenario::new(&named(name, &disk), disk, vec![ops.concat()]);
    vec![
        scenario(
            "every lane, and on",
            &[one.clone(), two.clone(), three.clone(), five.clone(), two.clone()],
        ),
        scenario("a lane at a time", &[one.clone(), two.clone(), one.clone(), two.clone()])
            .lanes(1),
        scenario("a sector again, by a later lane", &[one.clone(), one.clone(), two.clone()]),
        scenario(
            "a sector again, by an earlier lane",
            &[to_lane_three.clone(), one.clone(), one.clone()],
        ),
        scenario(
            "a sector again and again, in both orders of lanes",
            &[to_lane_three, one.clone(), one.clone(), one.clone()],
        ),
        scenario(
            "trims of what was written",
            &[one.clone(), trim(0..3), two.clone(), trim(1..3), one.clone()],
        ),
        scenario(
            "parts of what was written",
            &[one.clone(), vec![Part(1, 2), Commit, Part(1, 0), Commit]],
        ),
        scenario(
            "zeroes over what was written",
            &[one.clone(), vec![Zeroes(0..3), Commit], two.clone()],
        ),
        scenario(
            "moves of what was written",
            &[write(0..3), vec![Defragment(0), Commit], one.clone()],
        ),
        scenario(
            "reads and flushes",
            &[one.clone(), vec![Read(0..3), Flush], two.clone(), vec![Read(0..3)], one],
        ),
    ]
}

fn of_several_queues(disk: Disk) -> Vec<Scenario> {
    let rounds = |sectors: &[u64]| -> Vec<Op> {
        sectors.iter().flat_map(|sector| write(*sector..sector + 1)).collect()
    };
    let scenario = |name: &str, queues: Vec<Vec<Op>>, lanes| {
        Scenario::new(&named(name, &disk), disk, queues).lanes(lanes)
    };
    let reader = vec![Read(0..4), Read(1..2), Commit, Read(0..4), Commit];
    let trims =
        vec![Trim(1..3, NeverWritten::Leave), Commit, Trim(1..2, NeverWritten::Zero), Commit];
    vec![
        scenario("two writers of two sectors", vec![rounds(&[1, 2, 1]), rounds(&[2, 1, 2])], 2),
        scenario(
            "two writers of one sector, one lane each",
            vec![rounds(&[1, 1]), rounds(&[1, 1])],
            1,
        ),
        scenario(
            "three writers of one sector",
            vec![rounds(&[1, 5]), rounds(&[1, 6]), rounds(&[1, 7])],
            4,
        ),
        scenario(
            "a sync while another queue stores",
            vec![rounds(&[2, 3, 5]), rounds(&[1, 1, 1])],
            2,
        ),
        scenario("trims while another queue writes", vec![rounds(&[1, 2, 1]), trims], 2),
        scenario("a reader of what is written", vec![rounds(&[1, 2, 1]), reader], 1),
        scenario(
            "moves while another queue writes",
            vec![rounds(&[1, 2, 1]), vec![Defragment(0), Commit]],
            2,
        ),
        scenario("four writers", [0, 1, 2, 3].map(|sector| rounds(&[sector, 1])).to_vec(), 2),
    ]
}

impl Deferred {
    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        let (effort, seeds) = if self.scenario.is_of_one_queue() {
            (&ONE_QUEUE, 1)
        } else {
            (&SEVERAL_QUEUES, self.seeds)
        };
        let start = Start::of(&self.scenario);
        let mut verified = Verified::default();
        (0..seeds).find_map(|seed| {
            let (_, trace) = start.run(&self.scenario, mutant, Box::new(AtRandom::new(seed)));
            figures.traces += 1;
            fault_of(&trace).or_else(|| {
                Cutter::new(&self.scenario, mutant, &trace).from(0, effort, &mut verified, figures)
            })
        })
    }
}
