//! Power-fail atomicity: every point at which the power may fail, and what it may leave.
//!
//! See `--help`. The persistence model is that of `pmem::simulated`; `scripts/test crash` runs all this
//! and more.

#![allow(missing_docs, reason = "a test")]

mod chains;
mod creation;
mod cuts;
mod dax;
mod dax_creation;
mod dax_growth;
mod dax_repair;
mod dax_resizing;
mod dax_torn;
mod deferred;
mod defragmented;
mod exhaust;
mod failing;
mod figures;
mod flushed;
mod groups;
mod growth;
mod killed;
mod killed_change;
mod limits;
mod linux;
mod medium;
mod medium_mutants;
mod mutants;
mod oracle;
mod random;
mod records;
mod region_mutants;
mod ring;
mod scenario;
mod scenarios;
mod trace;
mod update;
mod update_mutants;
mod value;
mod verify;
mod worker;

use std::fmt;
use std::panic;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::cuts::Violation;
use crate::figures::Figures;
use crate::limits::Ended;
use crate::mutants::AnyMutant;

/// How long a mutant is hunted.
const MOST_OF_A_MUTANT: Duration = Duration::from_secs(10 * 60);

/// Cuts the power at every point of a set of scenarios and at some points of long random histories,
/// verifies all that may be left, and hunts mutants.
#[derive(Debug, Parser)]
#[command(name = "crash", version)]
struct Args {
    /// More preemptions, and more seeds.
    #[arg(long)]
    deep: bool,
    /// Number of random histories; otherwise 100, or 5000 if --deep.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Nothing but the random histories of this seed.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Nothing but scenarios and mutants with this in their name.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    oracle::check_itself();
    limits::watch();
    if let Some(seed) = args.seed {
        return one_seed(seed);
    }
    let begun = Instant::now();
    let mut total = Figures::default();
    println!(
        "{:<24}{:>8}{:>9}{:>11}{:>11}{:>10}{:>12}{:>9}",
        "", "traces", "points", "images", "unique", "nested", "violations", "seconds"
    );
    let preemptions = scenarios::PREEMPTIONS + usize::from(args.deep);
    total += cut_all("scenarios", &args.wanted(scenarios::all()), |scenario, figures| {
        exhaust::exhaust(scenario, AnyMutant::None, preemptions, figures)
    });
    total += cut_all("defragmented", &args.wanted(defragmented::all()), |scenario, figures| {
        exhaust::exhaust_moves(scenario, AnyMutant::None, preemptions - 1, figures)
    });
    total += cut_all("wide", &args.wanted(scenarios::wide(args.deep)), |scenario, figures| {
        exhaust::sample(scenario, AnyMutant::None, figures)
    });
    total += cut_all("deferred", &args.wanted(deferred::all(args.deep)), |deferred, figures| {
        deferred.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("groups", &args.wanted(groups::all(args.deep)), |grouped, figures| {
        grouped.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("chains", &args.wanted(chains::all(args.deep)), |chains, figures| {
        chains.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("through a ring", &args.wanted(ring::all()), |ring, figures| {
        ring.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("killed", &args.wanted(killed::all()), |killed, figures| {
        killed.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("killed change", &args.wanted(killed_change::all()), |killed, figures| {
        killed.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("failing", &args.wanted(failing::all(args.deep)), |faulty, figures| {
        faulty.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("creation", &args.wanted(creation::all()), |creation, figures| {
        creation.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("growth", &args.wanted(growth::all()), |growth, figures| {
        growth.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("dax creation", &args.wanted(dax_creation::all()), |creation, figures| {
        creation.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("dax growth", &args.wanted(dax_growth::all()), |growth, figures| {
        growth.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("dax resizing", &args.wanted(dax_resizing::all()), |resizing, figures| {
        resizing.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("dax repair", &args.wanted(dax_repair::all()), |repair, figures| {
        repair.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("dax torn twice", &args.wanted(dax_torn::all()), |twice, figures| {
        twice.exhaust(AnyMutant::None, figures)
    });
    total += cut_all("dax", &args.wanted(dax::all()), |history, figures| {
        history.exhaust(AnyMutant::None, figures)
    });
    let histories = args.wanted((0..args.seed_count() / 10).map(dax::random).collect());
    total += cut_all("dax random", &histories, |history, figures| {
        history.exhaust(AnyMutant::None, figures)
    });
    let seeds = args.wanted((0..args.seed_count()).map(Seed).collect());
    total += cut_all("random histories", &seeds, |seed, figures| random::run(seed.0, figures));
    let mutants = args.wanted(AnyMutant::all());
    let killed = hunt_all(&mutants);
    println!("\nfigures: page-cache {}", total.left);
    println!(
        "figures: crash {total} mutants={} killed={killed} seeds={} seconds={}",
        mutants.len(),
        seeds.len(),
        begun.elapsed().as_secs(),
    );
    if total.violations == 0 && killed == mutants.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Args {
    /// Those that were asked for.
    fn wanted<T: fmt::Display>(&self, mut all: Vec<T>) -> Vec<T> {
        if let Some(only) = &self.only {
            all.retain(|item| item.to_string().contains(only.as_str()));
        }
        all
    }

    fn seed_count(&self) -> u64 {
        self.seeds.unwrap_or(if self.deep { 5_000 } else { 100 })
    }
}

/// A random history.
struct Seed(u64);

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} (again: scripts/test crash --seed {0})", self.0)
    }
}

/// The history of a disk, and that of a region of DAX devices.
fn one_seed(seed: u64) -> ExitCode {
    println!("{:#?}", random::scenario(seed));
    let disk = random::run(seed, &mut Figures::default());
    let history = dax::random(seed);
    println!("{history:#?}");
    let region = history.exhaust(AnyMutant::None, &mut Figures::default());
    let mut is_right = true;
    for (what, violation) in [("disk", disk), ("dax", region)] {
        match violation {
            None => println!("seed {seed}, {what}: nothing is wrong"),
            Some(violation) => {
                is_right = false;
                println!("seed {seed}, {what}: {violation}");
            }
        }
    }
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Cuts all of them off, on all CPUs, and prints a line of the table.
fn cut_all<T: fmt::Display + Sync>(
    name: &str,
    all: &[T],
    cut: impl Fn(&T, &mut Figures) -> Option<Violation> + Sync,
) -> Figures {
    let begun = Instant::now();
    let total = Mutex::new(Figures::default());
    for_each(all, |item| {
        let mut figures = Figures::default();
        let violation = limits::within_limit(&item.to_string(), || cut(item, &mut figures));
        if let Some(violation) = violation {
            figures.violations += 1;
            println!("VIOLATION in {item}: {violation}");
        }
        *total.lock().unwrap() += figures;
    });
    let total = total.into_inner().unwrap();
    println!(
        "{name:<24}{:>8}{:>9}{:>11}{:>11}{:>10}{:>12}{:>9}",
        total.traces,
        total.points,
        total.images,
        total.unique,
        total.nested,
        total.violations,
        begun.elapsed().as_secs(),
    );
    total
}

/// Returns how many mutants were noticed.
fn hunt_all(mutants: &[AnyMutant]) -> usize {
    // Mutants may well panic, which is one way to be noticed.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let killed = AtomicUsize::new(0);
    for_each(mutants, |mutant| {
        let (hunted, begun) = (*mutant, Instant::now());
        let noticed = match limits::try_within(MOST_OF_A_MUTANT, move || mutants::hunt(hunted)) {
            Ended::Normally(None) => {
                println!("mutant {mutant} LIVES");
                return;
            }
            Ended::Normally(Some((scenario, violation))) => format!("{scenario}: {violation}"),
            Ended::ByPanic => "panic".to_owned(),
            Ended::Not => "it hangs".to_owned(),
        };
        killed.fetch_add(1, Ordering::Relaxed);
        println!("mutant {mutant}, {} s: {noticed}", begun.elapsed().as_secs());
    });
    panic::set_hook(hook);
    println!("mutants killed: {} of {}", killed.load(Ordering::Relaxed), mutants.len());
    killed.into_inner()
}

fn for_each<T: Sync>(items: &[T], act: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    act(item);
                }
            });
        }
    });
}
