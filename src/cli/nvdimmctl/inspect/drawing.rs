//! `inspect --svg`: the file, its namespaces, and their arenas, to scale.

#![allow(clippy::cast_precision_loss, reason = "a thousandth of a pixel is precise enough")]

use std::path::Path;

use super::region::Region;
use super::region_drawing;
use super::svg::{Rect, Svg};
use crate::btt::check::{LaneCounts, Report, Verdict};
use crate::btt::{Density, FoundArena, INFO_SIZE, Share};
use crate::cli::size::Size;
use crate::nvdimm::{Namespace, NvdimmFile};

const WIDTH: f64 = 1000.0;
pub(super) const MARGIN: f64 = 24.0;
/// Pixels from margin to margin.
pub(super) const INNER: f64 = WIDTH - 2.0 * MARGIN;
/// Height of a bar.
pub(super) const BAR: f64 = 34.0;
/// Height of a strip that shows a density.
const STRIP: f64 = 14.0;
/// Narrowest piece of a bar that its name still fits in.
const LEAST: f64 = 46.0;
/// Most arenas of a namespace that are drawn one by one.
const MOST_ARENAS: usize = 16;
/// Pieces that a density strip has.
pub(super) const PIECES: usize = 476;

/// A namespace, and what was found in it.
pub(super) struct Inside {
    pub namespace: Namespace,
    /// What it holds, or why it is not known.
    pub contents: Result<Contents, String>,
}

/// What a namespace holds.
pub(super) enum Contents {
    /// In sector mode.
    Btt(Box<Btt>),
    /// In dax mode.
    Region(Box<Region>),
}

/// A BTT, to be drawn.
pub(super) struct Btt {
    pub arenas: Vec<FoundArena>,
    /// How full each arena is; `None`: its map cannot be read.
    pub densities: Vec<Option<Density>>,
    pub report: Report,
}

/// A piece of a bar.
struct Piece {
    class: &'static str,
    label: String,
    tip: String,
    size: u64,
}

impl Piece {
    fn new(class: &'static str, label: impl Into<String>, start: u64, size: u64) -> Piece {
        let label = label.into();
        let tip = format!("{label}: {} at byte {start}", Size(size));
        Piece { class, label, tip, size }
    }

    /// What nobody uses.
    fn unused(start: u64, size: u64) -> Piece {
        Piece::new("unused", "", start, size)
    }
}

/// Draws a file and what is in it.
pub(super) fn draw(path: &Path, file: &NvdimmFile, insides: &[Inside]) -> String {
    let mut svg = Svg::new(WIDTH);
    let mut y = MARGIN;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let labels = match file.labels() {
        Some(area) => format!("label storage area of {}", Size(area.size)),
        None => "no labels".into(),
    };
    let title = format!("{name}: {}", Size(file.size()));
    svg.text("bold", MARGIN, y, &title);
    let described =
        format!("{} bytes; {labels}; to scale, but for parts too small to be seen", file.size());
    svg.text("small", MARGIN, y + 17.0, &described);
    y += 28.0;
    let bar = Rect { x: MARGIN, y, width: INNER, height: BAR };
    let places = draw_file(&mut svg, bar, file);
    y += BAR + 22.0;
    for (index, inside) in insides.iter().enumerate() {
        let number = inside.namespace.number;
        let from = places.iter().find(|(of, _)| *of == number).map_or(bar, |(_, rect)| *rect);
        let from = if index == 0 { from } else { locate(&mut svg, y - 8.0, "namespace", from) };
        y = draw_namespace(&mut svg, y, from, inside);
    }
    y = legend(&mut svg, y + 8.0);
    svg.finish(y + MARGIN, &title)
}

/// Draws the file: namespaces, labels, and what is neither. Returns where the namespaces are.
fn draw_file(svg: &mut Svg, bar: Rect, file: &NvdimmFile) -> Vec<(usize, Rect)> {
    let mut pieces = Vec::new();
    let mut numbers = Vec::new();
    let mut end = 0;
    for namespace in file.namespaces() {
        let range = &namespace.range;
        if end < range.start {
            pieces.push(Piece::unused(end, range.start - end));
        }
        numbers.push((namespace.number, pieces.len()));
        pieces.push(Piece::new(
            "namespace",
            namespace.device_name(),
            range.start,
            namespace.size(),
        ));
        end = range.end;
    }
    let labels = file.labels().map_or(0, |area| area.size);
    let data_end = file.size() - labels;
    if end < data_end {
        pieces.push(Piece::unused(end, data_end - end));
    }
    if labels > 0 {
        pieces.push(Piece::new("labels", "labels", data_end, labels));
    }
    let rects = draw_bar(svg, bar, &pieces);
    numbers.into_iter().map(|(number, piece)| (number, rects[piece])).collect()
}

fn draw_namespace(svg: &mut Svg, y: f64, from: Rect, inside: &Inside) -> f64 {
    let namespace = &inside.namespace;
    let name = match namespace.name.as_str() {
        "" => namespace.device_name(),
        name => format!("{} {name:?}", namespace.device_name()),
    };
    let heading = y + 12.0;
    svg.text("bold", MARGIN + 8.0, heading, &name);
    match &inside.contents {
        Ok(Contents::Btt(btt)) => draw_btt(svg, heading, from, namespace, btt),
        Ok(Contents::Region(region)) => region_drawing::draw(svg, heading + 17.0, from, region),
        Err(why) => {
            svg.text("small", MARGIN + 8.0, heading + 17.0, why);
            heading + 40.0
        }
    }
}

fn draw_btt(svg: &mut Svg, heading: f64, from: Rect, namespace: &Namespace, btt: &Btt) -> f64 {
    // `find` finds at least one arena, and all say the same of this.
    let info = &btt.arenas[0].info;
    let sectors: u64 =
        btt.arenas.iter().map(|arena| u64::from(arena.info.geometry.external_nlba)).sum();
    let described = format!(
        "BTT {} {}: {sectors} sectors of {} bytes",
        info.version,
        info.uuid,
        info.geometry.lba_size.external()
    );
    svg.text("small", MARGIN + 8.0, heading + 17.0, &described);
    let (class, state) = match btt.report.verdict() {
        Verdict::Clean => ("small", "checked: clean"),
        Verdict::Problems => ("bad", "checked: problems (see check-namespace)"),
    };
    svg.text(class, MARGIN + 560.0, heading + 17.0, state);
    let bar = Rect { x: MARGIN, y: heading + 28.0, width: INNER, height: BAR };
    svg.zoom(Rect { height: from.height, ..from }, bar);
    let places = draw_arenas(svg, bar, namespace, btt);
    let mut y = bar.y + BAR + 18.0;
    for (number, place) in places.into_iter().enumerate().take(MOST_ARENAS) {
        let place = if number == 0 { place } else { locate(svg, y - 12.0, "arena", place) };
        y = draw_arena(svg, y, place, number, btt);
    }
    if btt.arenas.len() > MOST_ARENAS {
        let rest = format!("and {} more arenas", btt.arenas.len() - MOST_ARENAS);
        svg.text("small", MARGIN, y + 12.0, &rest);
        y += 24.0;
    }
    y
}

/// Shows again, in a thin bar, where in its own bar `place` is: what is drawn in between would be covered by
/// lines that lead there.
fn locate(svg: &mut Svg, y: f64, class: &str, place: Rect) -> Rect {
    svg.rect("unused", Rect { x: MARGIN, y, width: INNER, height: 5.0 }, "");
    let here = Rect { y, height: 5.0, ..place };
    svg.rect(class, here, "");
    here
}

/// Draws a namespace: its arenas, and what is in none. Returns where the arenas are.
fn draw_arenas(svg: &mut Svg, bar: Rect, namespace: &Namespace, btt: &Btt) -> Vec<Rect> {
    let mut pieces = Vec::new();
    let mut numbers = Vec::new();
    let mut end = 0;
    for (number, arena) in btt.arenas.iter().enumerate() {
        if end < arena.start {
            pieces.push(Piece::unused(end, arena.start - end));
        }
        let size = arena.info.geometry.size();
        numbers.push(pieces.len());
        pieces.push(Piece::new("arena", format!("arena {number}"), arena.start, size));
        end = arena.start + size;
    }
    if end < namespace.size() {
        pieces.push(Piece::unused(end, namespace.size() - end));
    }
    // A file of many terabytes has more arenas than would be legible: then names are left out.
    let rects = draw_bar(svg, bar, &pieces);
    numbers.into_iter().map(|piece| rects[piece]).collect()
}

fn draw_arena(svg: &mut Svg, y: f64, from: Rect, number: usize, btt: &Btt) -> f64 {
    let FoundArena { start, info, .. } = btt.arenas[number];
    let geometry = info.geometry;
    let bar = Rect { x: MARGIN, y: y + 4.0, width: INNER, height: BAR };
    svg.zoom(from, bar);
    let parts = [
        ("info", "info", 0, geometry.dataoff),
        ("blocks", "data", geometry.dataoff, geometry.mapoff - geometry.dataoff),
        ("map", "map", geometry.mapoff, geometry.logoff - geometry.mapoff),
        ("flog", "flog", geometry.logoff, geometry.info2off - geometry.logoff),
        ("info", "info", geometry.info2off, INFO_SIZE),
    ];
    let pieces =
        parts.map(|(class, label, offset, size)| Piece::new(class, label, start + offset, size));
    let rects = draw_bar(svg, bar, &pieces);
    let mut y = bar.y + BAR;
    if let Some(Some(density)) = btt.densities.get(number) {
        // Under the data area: what its blocks hold.
        draw_strip(svg, Rect { y: y + 2.0, height: STRIP, ..rects[1] }, &density.by_block);
        y += STRIP + 4.0;
        svg.text("small", MARGIN, y + 13.0, "sectors, by number:");
        let strip = Rect { x: MARGIN + 124.0, y: y + 3.0, width: INNER - 124.0, height: STRIP };
        draw_strip(svg, strip, &density.by_sector);
        y += STRIP + 6.0;
    }
    if let Some(arena) = btt.report.arenas.get(number) {
        svg.text("small", MARGIN, y + 13.0, "lanes, by state:");
        let strip = Rect { x: MARGIN + 124.0, y: y + 3.0, width: INNER - 124.0, height: STRIP };
        draw_lanes(svg, strip, &arena.lanes);
        y += STRIP + 6.0;
    }
    let read_only = if info.error { "; READ-ONLY after an error" } else { "" };
    let text = format!(
        "arena {number} at byte {start}: {} blocks of {} bytes; map {} at {:#x}; flog {} ({} lanes) at \
         {:#x}; second info block at {:#x}{read_only}",
        geometry.internal_nlba,
        geometry.internal_lbasize,
        Size(geometry.logoff - geometry.mapoff),
        geometry.mapoff,
        Size(geometry.info2off - geometry.logoff),
        geometry.nfree,
        geometry.logoff,
        geometry.info2off,
    );
    svg.text(if info.error { "bad" } else { "small" }, MARGIN, y + 14.0, &text);
    y += 18.0;
    if let Some(arena) = btt.report.arenas.get(number) {
        let LaneCounts { pristine, applied, superseded, pending, undecided } = arena.lanes;
        let map = arena.map;
        let text = format!(
            "sectors: {} with data, {} zero, {} lost, {} never written; lanes: {pristine} never used, \
             {applied} applied, {superseded} superseded, {pending} pending, {undecided} undecided",
            map.data, map.zero, map.error, map.never_written
        );
        svg.text("small", MARGIN, y + 12.0, &text);
        y += 16.0;
    }
    y + 24.0
}

/// Draws pieces one after another; returns where they are.
fn draw_bar(svg: &mut Svg, bar: Rect, pieces: &[Piece]) -> Vec<Rect> {
    let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
    let mut x = bar.x;
    let mut rects = Vec::with_capacity(pieces.len());
    for (piece, width) in pieces.iter().zip(widths(&sizes, bar.width)) {
        let rect = Rect { x, width, ..bar };
        svg.rect(piece.class, rect, &piece.tip);
        let with_size = format!("{}, {}", piece.label, Size(piece.size));
        let fitting = [with_size.as_str(), piece.label.as_str()];
        // A letter is about seven pixels wide.
        let fits = |text: &&str| text.len() as f64 * 7.0 < width;
        if let Some(text) = fitting.into_iter().find(fits).filter(|_| !piece.label.is_empty()) {
            svg.label(rect, text);
        }
        rects.push(rect);
        x += width;
    }
    rects
}

/// Widths in proportion to `sizes`, but none so narrow that it cannot be read, all together `total`.
fn widths(sizes: &[u64], total: f64) -> Vec<f64> {
    let least = LEAST.min(total / sizes.len().max(1) as f64 / 2.0);
    let mut is_least = vec![false; sizes.len()];
    loop {
        let small = is_least.iter().filter(|is_least| **is_least).count() as f64;
        let rest: f64 =
            sizes.iter().zip(&is_least).filter(|(_, least)| !**least).map(|(s, _)| *s as f64).sum();
        let scale = (total - small * least) / rest.max(1.0);
        let too_small = |(size, done): (&u64, &bool)| !*done && *size as f64 * scale < least;
        if let Some(index) = sizes.iter().zip(&is_least).position(too_small) {
            is_least[index] = true;
            continue;
        }
        let width = |(size, is_least): (&u64, &bool)| {
            if *is_least { least } else { *size as f64 * scale }
        };
        return sizes.iter().zip(&is_least).map(width).collect();
    }
}

/// Draws how many sectors of each piece are in which state, stacked from below.
fn draw_strip(svg: &mut Svg, strip: Rect, shares: &[Share]) {
    svg.rect("never", strip, "");
    let step = strip.width / shares.len().max(1) as f64;
    let edge = |index: usize| (strip.x + index as f64 * step).round();
    let mut cells = [("data", Vec::new()), ("zero", Vec::new()), ("error", Vec::new())];
    let mut index = 0;
    while index < shares.len() {
        // Pieces that look the same are drawn as one.
        let same = shares[index..].iter().take_while(|share| **share == shares[index]).count();
        let share = &shares[index];
        let mut bottom = strip.y + strip.height;
        for ((_, cells), count) in cells.iter_mut().zip([share.data, share.zero, share.error]) {
            if count > 0 {
                // What is there at all is seen.
                let height = (strip.height * count as f64 / share.total() as f64).max(1.5);
                let (x, y) = (edge(index), (bottom - height).max(strip.y));
                cells.push(Rect { x, y, width: edge(index + same) - x, height });
                bottom = y;
            }
        }
        index += same;
    }
    for (class, cells) in cells {
        svg.cells(class, &cells);
    }
}

fn draw_lanes(svg: &mut Svg, strip: Rect, lanes: &LaneCounts) {
    let LaneCounts { pristine, applied, superseded, pending, undecided } = *lanes;
    let states = [
        ("applied", applied),
        ("superseded", superseded),
        ("pending", pending),
        ("undecided", undecided),
        ("pristine", pristine),
    ];
    let total: u32 = states.iter().map(|(_, count)| count).sum();
    let mut x = strip.x;
    for (class, count) in states.into_iter().filter(|(_, count)| *count > 0) {
        let width = strip.width * f64::from(count) / f64::from(total);
        svg.rect(class, Rect { x, width, ..strip }, &format!("{count} lanes {class}"));
        x += width;
    }
}

fn legend(svg: &mut Svg, y: f64) -> f64 {
    let entries = [
        ("data", "data"),
        ("zero", "zero (Z)"),
        ("error", "lost (E)"),
        ("never", "never written, free"),
        ("applied", "lane: write applied"),
        ("superseded", "superseded"),
        ("pending", "pending"),
        ("owned", "of an owner"),
        ("unused", "unused"),
    ];
    let mut x = MARGIN;
    for (class, text) in entries {
        svg.rect(class, Rect { x, y, width: 14.0, height: 12.0 }, "");
        svg.text("small", x + 19.0, y + 10.5, text);
        x += 19.0 + text.len() as f64 * 6.6 + 18.0;
    }
    y + 12.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_to_scale_and_legible() {
        assert_eq!(widths(&[1, 3], 400.0), [100.0, 300.0]);
        let all = widths(&[4096, 32 << 20, 32768, 16384, 4096], 952.0);
        assert!((all.iter().sum::<f64>() - 952.0).abs() < 0.001);
        assert!(all.iter().all(|width| *width >= LEAST));
        assert!(all[1] > 700.0);
        assert_eq!(widths(&[0], 100.0), [LEAST], "nothing is shown as something");
        assert_eq!(widths(&[], 100.0), [0.0; 0]);
        // As many as there is room for, and more: narrower, and still all.
        let many = widths(&vec![1 << 39; 200], 952.0);
        assert!((many.iter().sum::<f64>() - 952.0).abs() < 0.001);
    }
}
