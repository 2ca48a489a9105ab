//! Plots of the results: one SVG for each number of queues and kind of client, with the ratio of
//! requests per second to qemu-storage-daemon's as bars.

mod order;

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::cell::{Cell, Medium};
use crate::peer::Kind;
use crate::report::Report;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 232.0;
const TOP: f64 = 64.0;
/// Height of a bar; a cell has two.
const BAR: f64 = 9.0;
const CELL: f64 = 2.0 * BAR + 7.0;
/// Room on the right for the figure of the longest bar.
const RIGHT: f64 = 150.0;

/// Colours of our daemon's durabilities; both are readable on light and on dark.
const SERIES: [(Kind, &str); 2] = [(Kind::PageCache, "#3b82c4"), (Kind::Dax, "#d9822b")];

/// Writes the plots of `report` into `folder`.
pub fn save(report: &Report, folder: &Path) -> io::Result<()> {
    for queues in [1, 2] {
        for (polling, client) in [(true, "polling"), (false, "sleeping")] {
            let is_of_this = |cell: &Cell| {
                let is_of_clients = cell.queues == queues && cell.polling == polling;
                is_of_clients && cell.medium == Medium::Memory
            };
            let cells: Vec<Cell> = report.cells().filter(is_of_this).collect();
            if !cells.is_empty() {
                let plural = if queues == 1 { "" } else { "s" };
                let title = format!("{queues} queue{plural}, client {client}");
                let path = folder.join(format!("{queues}-queue{plural}-{client}.svg"));
                std::fs::write(path, plot(report, &title, &cells))?;
            }
        }
    }
    order::save(report, folder)
}

/// A plot of `cells`.
fn plot(report: &Report, title: &str, cells: &[Cell]) -> String {
    let ratio = |cell: &Cell, daemon: &Kind| report.rate_ratio(*cell, daemon).unwrap_or(0.0);
    let most = cells.iter().flat_map(|cell| SERIES.map(|(daemon, _)| ratio(cell, &daemon)));
    let scale = (WIDTH - LEFT - RIGHT) / most.fold(2.0, f64::max);
    let height = TOP + CELL * cells.len() as f64 + 24.0;
    let mut svg = begin(title, height);
    let bottom = TOP + CELL * cells.len() as f64;
    let one = LEFT + scale;
    for (row, cell) in cells.iter().enumerate() {
        let top = TOP + CELL * row as f64;
        let name = format!("{} {}, depth {}", cell.operation.name(), length(cell), cell.depth);
        text(&mut svg, LEFT - 8.0, top + BAR + 3.0, "end", &name);
        for (index, (daemon, colour)) in SERIES.into_iter().enumerate() {
            let Some(measured) = report.of(*cell, &daemon) else { continue };
            let (y, width) = (top + BAR * index as f64, ratio(cell, &daemon) * scale);
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"/>"#,
                BAR - 1.0
            );
            let figure =
                format!("{:.1}× · {:.0} k/s", ratio(cell, &daemon), measured.rate / 1000.0);
            let _ = writeln!(
                svg,
                r#"<text class="small" x="{:.1}" y="{:.1}">{figure}</text>"#,
                LEFT + width + 4.0,
                y + BAR - 2.0
            );
        }
    }
    let _ = writeln!(
        svg,
        r#"<line x1="{one:.1}" y1="{:.1}" x2="{one:.1}" y2="{bottom:.1}" stroke="currentColor" stroke-dasharray="3 3"/>"#,
        TOP - 6.0
    );
    svg.push_str("</svg>\n");
    svg
}

/// The length of a cell's requests, and the sector size if that is not it.
fn length(cell: &Cell) -> String {
    if cell.is_sequential() {
        format!("128 KiB ({}, {})", cell.sector_size, cell.order)
    } else {
        cell.length.to_string()
    }
}

fn begin(title: &str, height: f64) -> String {
    let title = format!("Requests per second, × qemu-storage-daemon (dashed: 1) — {title}");
    begin_titled(&title, height, &SERIES.map(|(daemon, colour)| (daemon.name().to_owned(), colour)))
}

/// The head of a plot, with the names of its series and their colours.
fn begin_titled(title: &str, height: f64, series: &[(String, &str)]) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<style>svg {{ background: #fff; color: #222 }} text {{ fill: currentColor }} .small {{ font-size: 9px }} .title {{ font-size: 15px; font-weight: bold }}</style>
"#
    );
    let _ = writeln!(svg, r#"<text class="title" x="16" y="24">{title}</text>"#);
    let mut x = LEFT;
    for (name, colour) in series {
        let _ = writeln!(svg, r#"<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>"#);
        text(&mut svg, x + 17.0, 46.0, "start", name);
        x += 120.0;
    }
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}
