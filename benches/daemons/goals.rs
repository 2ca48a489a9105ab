//! The ratios that this daemon is meant to reach, and those that it has.

use std::fmt::Write as _;

use crate::cell::{Cell, Medium, Operation, Order};
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
    let (length, polling, order) = (sector_size as usize, true, Order::Aged);
    let medium = Medium::Memory;
    Cell { operation, length, sector_size, depth, queues, polling, order, medium }
}

/// Writes of 4 KiB that are durable when they complete, on a disk.
fn durable(depth: usize, queues: usize) -> Cell {
    let (polling, order, medium) = (false, Order::Fresh, Medium::Disk);
    Cell { polling, order, medium, ..random(Operation::RandWrite, 4096, depth, queues) }
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
    for (depth, queues, bound) in [(1, 1, 0.45), (32, 1, 0.8), (32, 4, 1.0)] {
        let (cell, figure) = (durable(depth, queues), Figure::Rate);
        goals.push(Goal { cell, daemon: Kind::Strict, figure, bound });
    }
    goals
}

/// How a disk reads and writes in sequence once it was put in order, in terms of how it did when it was new.
fn order_table(report: &Report) -> String {
    let mut table = String::new();
    for cell in report.cells().filter(|cell| cell.order == Order::Defragmented) {
        for daemon in [Kind::PageCache, Kind::Dax] {
            let rate = |order| report.of(Cell { order, ..cell }, &daemon).map(|it| it.rate);
            let (Some(fresh), Some(aged), Some(now)) =
                (rate(Order::Fresh), rate(Order::Aged), rate(Order::Defragmented))
            else {
                continue;
            };
            let verdict = if now / fresh >= 0.9 { "reached" } else { "**missed**" };
            let _ = writeln!(
                table,
                "| {cell} | {daemon} | {:.2} | {:.2} | {verdict} |",
                aged / fresh,
                now / fresh
            );
        }
    }
    if table.is_empty() {
        return table;
    }
    format!(
        "\n| cell | durability | aged, × fresh | defragmented, × fresh (≥ 0.9) | |\n|---|---|---|---|---|\n{table}"
    )
}

/// The goals whose cells were measured, as a table in Markdown, and the cells that are slower than
/// qemu-storage-daemon.
pub fn table(report: &Report) -> String {
    let mut table = String::from(
        "| measure | durability | to reach, × QSD | reached | |\n|---|---|---|---|---|\n",
    );
    for Goal { cell, daemon, figure, bound } in goals() {
        let of = |daemon: &Kind| report.of(cell, daemon).map(|measured| figure.of(measured));
        let (Some(ours), Some(theirs)) = (of(&daemon), of(&Kind::reference(cell.medium))) else {
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
    table.push_str(&order_table(report));
    for daemon in [Kind::PageCache, Kind::Dax, Kind::Strict] {
        let mut ratios: Vec<(f64, Cell)> = report
            .cells()
            .filter_map(|cell| Some((report.rate_ratio(cell, &daemon)?, cell)))
            .collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        if ratios.is_empty() {
            continue;
        }
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
