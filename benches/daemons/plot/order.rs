//! The plot of what ageing and putting in order do to reads and writes in sequence.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::{begin_titled, text};
use crate::cell::{Cell, Medium, Order};
use crate::peer::Kind;
use crate::report::Report;

const LEFT: f64 = 232.0;
const TOP: f64 = 64.0;
const BAR: f64 = 12.0;
const CELL: f64 = 3.0 * BAR + 10.0;
/// Width of a bar as long as a fresh disk's.
const FRESH: f64 = 400.0;

const SERIES: [(Order, &str); 3] =
    [(Order::Fresh, "#8a8f98"), (Order::Aged, "#d9822b"), (Order::Defragmented, "#3b82c4")];

/// Writes the plot into `folder`, if all of it was measured.
pub fn save(report: &Report, folder: &Path) -> io::Result<()> {
    let rate = |cell: Cell, order| {
        report.of(Cell { order, ..cell }, &Kind::PageCache).map(|measured| measured.rate)
    };
    let is_whole = |cell: &Cell| SERIES.iter().all(|(order, _)| rate(*cell, *order).is_some());
    let cells = report.cells().filter(|cell| {
        cell.order == Order::Defragmented && cell.medium == Medium::Memory && cell.depth == 32
    });
    let cells: Vec<Cell> = cells.filter(|cell| cell.polling).filter(is_whole).collect();
    if cells.is_empty() {
        return Ok(());
    }
    let height = TOP + CELL * cells.len() as f64 + 8.0;
    let series = SERIES.map(|(order, colour)| (order.to_string(), colour));
    let mut svg = begin_titled("128 KiB in sequence, page cache, depth 32", height, &series);
    for (row, cell) in cells.iter().enumerate() {
        let top = TOP + CELL * row as f64;
        let plural = if cell.queues == 1 { "" } else { "s" };
        let Cell { operation, sector_size, queues, .. } = cell;
        let name = format!("{} on {sector_size}, {queues} queue{plural}", operation.name());
        text(&mut svg, LEFT - 8.0, top + 1.5 * BAR + 4.0, "end", &name);
        let fresh = rate(*cell, Order::Fresh).unwrap_or(1.0);
        for (index, (order, colour)) in SERIES.into_iter().enumerate() {
            let Some(rate) = rate(*cell, order) else { continue };
            let (y, width) = (top + BAR * index as f64, rate / fresh * FRESH);
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"/>"#,
                BAR - 1.0
            );
            let figure = format!("{:.2} · {:.1} k/s", rate / fresh, rate / 1000.0);
            text(&mut svg, LEFT + width + 6.0, y + BAR - 2.0, "start", &figure);
        }
    }
    svg.push_str("</svg>\n");
    std::fs::write(folder.join("order.svg"), svg)
}
