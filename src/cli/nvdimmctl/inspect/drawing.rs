//! `inspect --svg`: the file, its namespaces, and their arenas, to scale.

#![allow(clippy::cast_precision_loss, reason = "a thousandth of a pixel is precise enough")]

use std::path::Path;

use super::bar::{BAR, INNER, MARGIN, Piece, WIDTH, draw_bar, locate};
use super::btt_drawing::{self, Btt};
use super::region::Region;
use super::region_drawing;
use super::svg::{Rect, Svg};
use crate::cli::size::Size;
use crate::nvdimm::{Namespace, NvdimmFile};

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
    if let Some(problem) = problem_of_labels(file) {
        y += 17.0;
        svg.text("bad", MARGIN, y + 17.0, &problem);
    }
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

/// Draws the file: namespaces, free bytes, those of lost labels, and labels. Returns where the namespaces are.
fn draw_file(svg: &mut Svg, bar: Rect, file: &NvdimmFile) -> Vec<(usize, Rect)> {
    let labels = file.labels().map_or(0, |area| area.size);
    let data_end = file.size() - labels;
    let free = file.free_extents().into_iter().map(|extent| (extent, None));
    let used = file.namespaces().iter().map(|it| (it.range.clone(), Some(it)));
    let mut parts: Vec<_> = free.chain(used).chain([(data_end..data_end, None)]).collect();
    parts.sort_by_key(|(range, _)| (range.start, range.end));
    let mut pieces = Vec::new();
    let mut numbers = Vec::new();
    let mut end = 0;
    for (range, namespace) in parts {
        // Neither free nor of a namespace that is there: see `check-labels`.
        if end < range.start {
            pieces.push(Piece::new("damaged", "label lost", end, range.start - end));
        }
        end = range.end;
        let size = range.end - range.start;
        if let Some(namespace) = namespace {
            numbers.push((namespace.number, pieces.len()));
            let piece = Piece::new("namespace", names(namespace), range.start, size);
            pieces.push(piece.or_shorter(namespace.name.as_str()));
        } else if size > 0 {
            pieces.push(Piece::unused(range.start, size));
        }
    }
    if labels > 0 {
        let class = if problem_of_labels(file).is_some() { "damaged" } else { "labels" };
        pieces.push(Piece::new(class, "labels", data_end, labels));
    }
    let rects = draw_bar(svg, bar, &pieces);
    numbers.into_iter().map(|(number, piece)| (number, rects[piece])).collect()
}

/// Returns what is wrong with the labels, if anything is.
fn problem_of_labels(file: &NvdimmFile) -> Option<String> {
    let index = file.labels()?.unusable.map(|(number, _)| format!("index block {number} unusable"));
    let lost = match file.lost() {
        [] => None,
        [one] => Some(format!("label of slot {} lost", one.slot)),
        several => Some(format!("{} labels lost", several.len())),
    };
    let problems: Vec<String> = index.into_iter().chain(lost).collect();
    (!problems.is_empty()).then(|| format!("{} (see check-labels)", problems.join(", ")))
}

/// Returns the device name of a namespace, and its name if it has one.
fn names(namespace: &Namespace) -> String {
    match namespace.name.as_str() {
        "" => namespace.device_name(),
        name => format!("{} {name:?}", namespace.device_name()),
    }
}

fn draw_namespace(svg: &mut Svg, y: f64, from: Rect, inside: &Inside) -> f64 {
    let namespace = &inside.namespace;
    let heading = y + 12.0;
    svg.text("bold", MARGIN + 8.0, heading, &names(namespace));
    match &inside.contents {
        Ok(Contents::Btt(btt)) => btt_drawing::draw(svg, heading, from, namespace, btt),
        Ok(Contents::Region(region)) => region_drawing::draw(svg, heading + 17.0, from, region),
        Err(why) => {
            svg.text("small", MARGIN + 8.0, heading + 17.0, why);
            heading + 40.0
        }
    }
}

/// Explains the colours that the drawing has.
fn legend(svg: &mut Svg, y: f64) -> f64 {
    let entries = [
        ("data", "data"),
        ("scattered", "data, not behind the sector before"),
        ("zero", "zero (Z)"),
        ("error", "lost (E)"),
        ("never", "never written, free"),
        ("pristine", "lane: never used"),
        ("applied", "lane: write applied"),
        ("superseded", "lane: superseded"),
        ("pending", "lane: pending"),
        ("undecided", "lane: undecided"),
        ("owned", "of an owner"),
        ("damaged", "damaged"),
        ("unused", "unused"),
    ];
    let drawn: Vec<_> = entries.into_iter().filter(|(class, _)| svg.has(class)).collect();
    let (mut x, mut y) = (MARGIN, y);
    for (class, text) in drawn {
        let width = 19.0 + text.len() as f64 * 6.6 + 18.0;
        if x + width > WIDTH {
            (x, y) = (MARGIN, y + 18.0);
        }
        svg.rect(class, Rect { x, y, width: 14.0, height: 12.0 }, "");
        svg.text("small", x + 19.0, y + 10.5, text);
        x += width;
    }
    y + 12.0
}
