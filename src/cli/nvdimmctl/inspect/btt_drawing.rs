//! The drawing of a BTT to scale: its arenas, and how full they are.

#![allow(clippy::cast_precision_loss, reason = "a thousandth of a pixel is precise enough")]

use super::bar::{BAR, INNER, MARGIN, Piece, draw_bar, locate};
use super::svg::{Rect, Svg};
use crate::btt::check::{LaneCounts, Report, Verdict};
use crate::btt::{Copies, FoundArena, INFO_SIZE, Share, Usage};
use crate::cli::size::Size;
use crate::nvdimm::Namespace;

/// Height of a strip that shows how full a part is.
const STRIP: f64 = 14.0;
/// Narrowest mark of lost sectors, in pixels.
const LEAST_LOST: f64 = 4.0;
/// Most arenas of a namespace that are drawn one by one.
const MOST_ARENAS: usize = 16;
/// Pieces of such a strip.
pub(super) const PIECES: usize = 476;

/// A BTT, to be drawn.
pub(super) struct Btt {
    pub arenas: Vec<FoundArena>,
    /// How full each arena is; `None`: its map cannot be read.
    pub usages: Vec<Option<Usage>>,
    pub report: Report,
}

/// Draws the BTT of a namespace below its `heading`; `from` shows that in the file. Returns where the drawing ends.
pub(super) fn draw(
    svg: &mut Svg,
    heading: f64,
    from: Rect,
    namespace: &Namespace,
    btt: &Btt,
) -> f64 {
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
    let FoundArena { start, info, copies, .. } = btt.arenas[number];
    let geometry = info.geometry;
    let bar = Rect { x: MARGIN, y: y + 4.0, width: INNER, height: BAR };
    svg.zoom(from, bar);
    let [first, second] = info_classes(copies);
    let parts = [
        (first, "info", 0, geometry.dataoff),
        ("blocks", "data", geometry.dataoff, geometry.mapoff - geometry.dataoff),
        ("map", "map", geometry.mapoff, geometry.logoff - geometry.mapoff),
        ("flog", "flog", geometry.logoff, geometry.info2off - geometry.logoff),
        (second, "info", geometry.info2off, INFO_SIZE),
    ];
    let pieces =
        parts.map(|(class, label, offset, size)| Piece::new(class, label, start + offset, size));
    let rects = draw_bar(svg, bar, &pieces);
    let y = draw_strips(svg, bar.y + BAR, rects[1], number, btt);
    describe_arena(svg, y, number, btt) + 24.0
}

/// Draws what the blocks of an arena hold, under them (`blocks`), its sectors and its lanes. Returns where it ends.
fn draw_strips(svg: &mut Svg, mut y: f64, blocks: Rect, number: usize, btt: &Btt) -> f64 {
    let strip = |y| Rect { x: MARGIN + 124.0, y: y + 3.0, width: INNER - 124.0, height: STRIP };
    if let Some(Some(usage)) = btt.usages.get(number) {
        draw_strip(svg, Rect { y: y + 2.0, height: STRIP, ..blocks }, &usage.by_block);
        y += STRIP + 4.0;
        svg.text("small", MARGIN, y + 13.0, "sectors, by number:");
        draw_strip(svg, strip(y), &usage.by_sector);
        y += STRIP + 6.0;
    }
    if let Some(arena) = btt.report.arenas.get(number) {
        svg.text("small", MARGIN, y + 13.0, "lanes, by state:");
        draw_lanes(svg, strip(y), &arena.lanes);
        y += STRIP + 6.0;
    }
    y
}

/// Says where the parts of an arena are, and what its map and its lanes hold. Returns where the text ends.
fn describe_arena(svg: &mut Svg, mut y: f64, number: usize, btt: &Btt) -> f64 {
    let FoundArena { start, info, copies, .. } = btt.arenas[number];
    let geometry = info.geometry;
    let read_only = if info.error { "; READ-ONLY after an error" } else { "" };
    let damage = damage_of(copies);
    let text = format!(
        "arena {number} at byte {start}: {} blocks of {} bytes; map {} at {:#x}; flog {} ({} lanes) at \
         {:#x}; second info block at {:#x}{read_only}{damage}",
        geometry.internal_nlba,
        geometry.internal_lbasize,
        Size(geometry.logoff - geometry.mapoff),
        geometry.mapoff,
        Size(geometry.info2off - geometry.logoff),
        geometry.nfree,
        geometry.logoff,
        geometry.info2off,
    );
    let is_bad = info.error || copies != Copies::Intact;
    svg.text(if is_bad { "bad" } else { "small" }, MARGIN, y + 14.0, &text);
    y += 18.0;
    if let Some(arena) = btt.report.arenas.get(number) {
        let LaneCounts { pristine, applied, superseded, pending, undecided } = arena.lanes;
        let map = arena.map;
        let text = format!(
            "sectors: {} with data ({} out of order), {} zero, {} lost, {} never written; lanes: {pristine} never used, \
             {applied} applied, {superseded} superseded, {pending} pending, {undecided} undecided",
            map.data, map.out_of_order, map.zero, map.error, map.never_written
        );
        let is_bad = map.error > 0 || undecided > 0;
        svg.text(if is_bad { "bad" } else { "small" }, MARGIN, y + 12.0, &text);
        y += 16.0;
    }
    y
}

/// Returns what is wrong with the info blocks of an arena, to follow its description.
fn damage_of(copies: Copies) -> &'static str {
    match copies {
        Copies::Intact => "",
        Copies::Differ => "; THE INFO BLOCKS DIFFER",
        Copies::OnlyPrimary(_) => "; SECOND INFO BLOCK DAMAGED",
        Copies::OnlyBackup(_) => "; FIRST INFO BLOCK DAMAGED",
    }
}

/// Returns the classes of the first and the second info block of an arena.
fn info_classes(copies: Copies) -> [&'static str; 2] {
    match copies {
        Copies::Intact => ["info", "info"],
        Copies::Differ => ["damaged", "damaged"],
        Copies::OnlyPrimary(_) => ["info", "damaged"],
        Copies::OnlyBackup(_) => ["damaged", "info"],
    }
}

/// Draws how many sectors of each piece are in which state, stacked from below.
fn draw_strip(svg: &mut Svg, strip: Rect, shares: &[Share]) {
    svg.rect("never", strip, "");
    let step = strip.width / shares.len().max(1) as f64;
    let edge = |index: usize| (strip.x + index as f64 * step).round();
    let mut cells = [("data", Vec::new()), ("scattered", Vec::new()), ("zero", Vec::new())];
    let mut lost = Vec::new();
    let mut index = 0;
    while index < shares.len() {
        // Pieces that look the same are drawn as one.
        let same = shares[index..].iter().take_while(|share| **share == shares[index]).count();
        let share = &shares[index];
        let mut bottom = strip.y + strip.height;
        let in_order = share.data - share.out_of_order;
        let counts = [in_order, share.out_of_order, share.zero];
        for ((_, cells), count) in cells.iter_mut().zip(counts) {
            if count > 0 {
                // What is there at all is seen.
                let height = (strip.height * count as f64 / share.total() as f64).max(1.5);
                let (x, y) = (edge(index), (bottom - height).max(strip.y));
                cells.push(Rect { x, y, width: edge(index + same) - x, height });
                bottom = y;
            }
        }
        if share.error > 0 {
            // One lost sector among millions is seen, too: over the whole height, and not too narrow.
            let x = edge(index);
            let width = (edge(index + same) - x).max(LEAST_LOST);
            lost.push(Rect { x: x.min(strip.x + strip.width - width), width, ..strip });
        }
        index += same;
    }
    for (class, cells) in cells {
        svg.cells(class, &cells);
    }
    svg.cells("error", &lost);
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
