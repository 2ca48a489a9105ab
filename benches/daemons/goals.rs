//! The ratios that this daemon is meant to reach, and those that it has.

use std::fmt::Write as _;

use crate::cell::{Cell, Operation};
use crate::peer::Kind;
use crate::report::{Measured, Report};

/// A ratio to qemu-storage-daemon in the same run.
struct Goal {
    cell: Cell,
    daemon: Kind,
    figure: Figure,
    /// The least ratio of a rate, or the most of a cost.
    bound: f64,
}

#[derive(Clone, Copy)]
enum Figure {
    /// Requests per second: the goal is a least ratio.
    Rate,
    /// CPU time per request: a most.
    Cpu,
    /// Latency of the median request: a most.
    P50,
}

impl Figure {
    fn name(self) -> &'static str {
        match self {
            Figure::Rate => "requests/s",
            Figure::Cpu => "CPU per request",
            Figure::P50 => "median latency",
        }
    }

    fn of(self, measured: &Measured) -> f64 {
        match self {
            Figure::Rate => measured.rate,
            Figure::Cpu => measured.cpu,
            Figure::P50 => measured.p50,
        }
    }

    fn is_met(self, ratio: f64, bound: f64) -> bool {
        match self {
            Figure::Rate => ratio >= bound,
            Figure::Cpu | Figure::P50 => ratio <= bound,
        }
    }
}

fn random(operation: Operation, sector_size: u32, depth: usize, queues: usize) -> Cell {
    let (length, polling, is_aged) = (sector_size as usize, true, true);
    Cell { operation, length, sector_size, depth, queues, polling, is_aged }
}

fn goals() -> Vec<Goal> {
    use Operation::{RandRead, RandWrite, SeqRead, SeqWrite};
    let mut goals = Vec::new();
    let mut add = |cell, figure, [page_cache, dax]: [f64; 2]| {
        goals.push(Goal { cell, daemon: Kind::PageCache, figure, bound: page_cache });
        goals.push(Goal { cell, daemon: Kind::Dax, figure, bound: dax });
    };
    for sector_size in [4096, 512] {
        for operation in [RandRead, RandWrite] {
            add(random(operation, sector_size, 32, 1), Figure::Cpu, [0.3, 0.3]);
        }
    }
    add(random(RandWrite, 4096, 32, 1), Figure::Rate, [3.5, 3.2]);
    add(random(RandRead, 4096, 32, 1), Figure::Rate, [3.0, 3.0]);
    add(random(RandWrite, 512, 32, 1), Figure::Rate, [4.5, 4.0]);
    add(random(RandRead, 512, 32, 1), Figure::Rate, [4.0, 4.0]);
    add(random(RandWrite, 4096, 32, 2), Figure::Rate, [5.5, 5.5]);
    add(random(RandRead, 4096, 32, 2), Figure::Rate, [7.0, 7.0]);
    for sector_size in [4096, 512] {
        for operation in [RandRead, RandWrite] {
            add(random(operation, sector_size, 1, 1), Figure::P50, [0.4, 0.4]);
        }
    }
    for (operation, goal) in [(SeqWrite, 2.5), (SeqRead, 1.5)] {
        let cell = Cell { operation, length: 128 << 10, ..random(operation, 4096, 32, 1) };
        add(cell, Figure::Rate, [goal, goal]);
    }
    goals
}

/// The goals whose cells were measured, as a table in Markdown, and the cells that are slower than
/// qemu-storage-daemon.
pub fn table(report: &Report) -> String {
    let mut table = String::from(
        "| measure | durability | to reach, × QSD | reached | |\n|---|---|---|---|---|\n",
    );
    for Goal { cell, daemon, figure, bound } in goals() {
        let of = |daemon| report.of(cell, daemon).map(|measured| figure.of(measured));
        let (Some(ours), Some(theirs)) = (of(daemon), of(Kind::QemuStorageDaemon)) else {
            continue;
        };
        let ratio = ours / theirs;
        let sign = if matches!(figure, Figure::Rate) { '≥' } else { '≤' };
        let verdict = if figure.is_met(ratio, bound) { "reached" } else { "**missed**" };
        let figure = figure.name();
        let _ = writeln!(
            table,
            "| {figure}: {cell} | {daemon} | {sign} {bound} | {ratio:.2} | {verdict} |"
        );
    }
    for daemon in [Kind::PageCache, Kind::Dax] {
        let mut ratios: Vec<(f64, Cell)> = report
            .cells()
            .filter_map(|cell| Some((report.rate_ratio(cell, daemon)?, cell)))
            .collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let slower: Vec<_> = ratios.iter().filter(|(ratio, _)| *ratio < 1.0).collect();
        let _ = writeln!(
            table,
            "\n{daemon}: {} of {} cells are slower than QSD.",
            slower.len(),
            ratios.len()
        );
        for (ratio, cell) in slower {
            let _ = writeln!(table, "- {cell}: {ratio:.2}");
        }
    }
    table
}
