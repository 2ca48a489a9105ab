//! Bars of pieces, to scale: each level of a drawing is made of them.

#![allow(clippy::cast_precision_loss, reason = "a thousandth of a pixel is precise enough")]

use super::svg::{Rect, Svg};
use crate::cli::size::Size;

/// Pixels from edge to edge.
pub(super) const WIDTH: f64 = 1000.0;
/// Margin around the drawing, in pixels.
pub(super) const MARGIN: f64 = 24.0;
/// Pixels from margin to margin.
pub(super) const INNER: f64 = WIDTH - 2.0 * MARGIN;
/// Height of a bar.
pub(super) const BAR: f64 = 34.0;
/// Narrowest piece of a bar that its name still fits in.
const LEAST: f64 = 46.0;

/// A piece of a bar.
pub(super) struct Piece {
    class: &'static str,
    label: String,
    /// A shorter label, for a piece that is too narrow for the other.
    short: String,
    tip: String,
    size: u64,
}

impl Piece {
    pub(super) fn new(
        class: &'static str,
        label: impl Into<String>,
        start: u64,
        size: u64,
    ) -> Piece {
        let label = label.into();
        let tip = format!("{label}: {} at byte {start}", Size(size));
        Piece { class, short: label.clone(), label, tip, size }
    }

    /// Gives the piece a label for where the other does not fit.
    pub(super) fn or_shorter(self, short: impl Into<String>) -> Piece {
        Piece { short: short.into(), ..self }
    }

    /// Unused space.
    pub(super) fn unused(start: u64, size: u64) -> Piece {
        Piece { label: String::new(), ..Piece::new("unused", "unused", start, size) }
    }
}

/// Draws pieces one after another; returns where they are.
pub(super) fn draw_bar(svg: &mut Svg, bar: Rect, pieces: &[Piece]) -> Vec<Rect> {
    let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
    let mut x = bar.x;
    let mut rects = Vec::with_capacity(pieces.len());
    for (piece, width) in pieces.iter().zip(widths(&sizes, bar.width)) {
        let rect = Rect { x, width, ..bar };
        svg.rect(piece.class, rect, &piece.tip);
        let with_size = format!("{}, {}", piece.label, Size(piece.size));
        let fitting = [with_size.as_str(), piece.label.as_str(), piece.short.as_str()];
        // A letter is about seven pixels wide.
        let fits = |text: &&str| text.chars().count() as f64 * 7.0 < width;
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

/// Shows again, in a thin bar, where in its own bar `place` is: what is drawn in between would be covered by
/// lines that lead there.
pub(super) fn locate(svg: &mut Svg, y: f64, class: &str, place: Rect) -> Rect {
    svg.rect("track", Rect { x: MARGIN, y, width: INNER, height: 5.0 }, "");
    let here = Rect { y, height: 5.0, ..place };
    svg.rect(class, here, "");
    here
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
