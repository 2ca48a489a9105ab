//! The few elements of SVG that a drawing needs.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use crate::cli::xml::Escaped;

/// A drawing that grows downwards.
pub(super) struct Svg {
    body: String,
    width: f64,
    /// Classes of the shapes that were drawn.
    classes: BTreeSet<String>,
}

/// A rectangle, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Svg {
    pub(super) fn new(width: f64) -> Svg {
        Svg { body: String::new(), width, classes: BTreeSet::new() }
    }

    /// A rectangle of a class, with a text that shows when it is pointed at.
    pub(super) fn rect(&mut self, class: &str, rect: Rect, tip: &str) {
        let Rect { x, y, width, height } = rect;
        self.classes.insert(class.to_owned());
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}">"#
        ));
        if !tip.is_empty() {
            self.push(format_args!("<title>{}</title>", Escaped(tip)));
        }
        self.push(format_args!("</rect>\n"));
    }

    /// Rectangles without a border, all of a class.
    pub(super) fn cells(&mut self, class: &str, rects: &[Rect]) {
        if rects.is_empty() {
            return;
        }
        self.classes.insert(class.to_owned());
        self.push(format_args!("<path class=\"cell {class}\" d=\""));
        for Rect { x, y, width, height } in rects {
            self.push(format_args!("M{x:.0} {y:.1}h{width:.0}v{height:.1}h-{width:.0}z"));
        }
        self.push(format_args!("\"/>\n"));
    }

    /// Returns whether a shape of a class was drawn.
    pub(super) fn has(&self, class: &str) -> bool {
        self.classes.contains(class)
    }

    /// A text that begins at `x`, on the base line `y`.
    pub(super) fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = Escaped(text);
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n"
        ));
    }

    /// A text in the middle of a rectangle.
    pub(super) fn label(&mut self, rect: Rect, text: &str) {
        let (x, y) = (rect.x + rect.width / 2.0, rect.y + rect.height / 2.0 + 4.0);
        let text = Escaped(text);
        self.push(format_args!(
            "<text class=\"label\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{text}</text>\n"
        ));
    }

    /// The area between the lower edge of one rectangle and the upper edge of another: the one is shown
    /// larger in the other.
    pub(super) fn zoom(&mut self, from: Rect, to: Rect) {
        let (left, right, top) = (from.x, from.x + from.width, from.y + from.height);
        self.push(format_args!(
            "<path class=\"zoom\" d=\"M{left:.1} {top:.1}L{right:.1} {top:.1} {:.1} {:.1} {:.1} {:.1}z\"/>\n",
            to.x + to.width,
            to.y,
            to.x,
            to.y
        ));
    }

    /// The whole, `height` pixels high.
    pub(super) fn finish(self, height: f64, title: &str) -> String {
        let Svg { body, width, .. } = self;
        let title = Escaped(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" \
             font-size=\"12\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{width:.0}\" height=\"{height:.0}\"/>\n{body}</svg>\n"
        )
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(text);
    }
}

/// Colours for light and for dark surroundings.
const STYLE: &str = "
  .paper { fill: #ffffff }
  text { fill: #1f2933 } .small { font-size: 11px; fill: #52606d } .bold { font-size: 14px; font-weight: bold }
  .bad { fill: #b3261e; font-weight: bold }
  rect { stroke: #52606d; stroke-width: .8 } .paper, .cell { stroke: none } .cell { shape-rendering: crispEdges }
  .unused, .track { fill: #f1f3f5; stroke-dasharray: 3 2 } .damaged { fill: #d0342c } .namespace { fill: #dfe7f1 } .labels { fill: #f6d5dc }
  .arena { fill: #c9d8ea } .info { fill: #e3d3ef } .blocks { fill: #cfe3f7 } .map { fill: #d3ecca } .flog { fill: #fbe2b8 }
  .zoom { fill: #8899aa; opacity: .16 }
  .never { fill: #eceff2 } .data { fill: #2f6fb0 } .scattered { fill: #a9c4e4 } .zero { fill: #79c2b5 } .error { fill: #d0342c }
  .pristine { fill: #eceff2 } .applied { fill: #e0a030 } .superseded { fill: #f3cf8c } .pending { fill: #8a5cc2 }
  .undecided { fill: #d0342c } .owned { fill: #b9a3d6 }
  .device0 { fill: #8ecae6 } .device1 { fill: #f4b183 } .device2 { fill: #a3d9a5 } .device3 { fill: #f2d06b }
  .device4 { fill: #e5a3c0 } .device5 { fill: #b7c4e8 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #14181d }
    text { fill: #e4e7eb } .small { fill: #9fb0c0 } .bad { fill: #ff8a80 } .label { fill: #10151a }
    rect { stroke: #8fa1b3 } .paper, .cell { stroke: none }
    .unused, .track { fill: #222a33 } .damaged { fill: #ff6b60 } .namespace { fill: #a9bdd4 } .labels { fill: #d99aa8 }
    .arena { fill: #8fabc9 } .info { fill: #b79bd0 } .blocks { fill: #86b2dd } .map { fill: #8fc67d } .flog { fill: #dcb066 }
    .zoom { fill: #aabbcc; opacity: .14 }
    .never, .pristine { fill: #2b343e } .data { fill: #5aa2ea } .scattered { fill: #2f5a86 } .zero { fill: #58a99b } .error, .undecided { fill: #ff6b60 }
    .applied { fill: #d79a2e } .superseded { fill: #8f6f35 } .pending { fill: #b38ae6 }
    .owned { fill: #8f78b8 } .device0 { fill: #4f9fc4 } .device1 { fill: #d08a55 } .device2 { fill: #6fb574 }
    .device3 { fill: #c9a63f } .device4 { fill: #c0789a } .device5 { fill: #8090c8 }
  }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_cannot_break_out_of_their_text() {
        let mut svg = Svg::new(100.0);
        svg.text("small", 1.0, 2.0, "<a&b>\"\u{1}");
        let drawn = svg.finish(10.0, "x");
        assert!(drawn.contains(">&lt;a&amp;b&gt;&quot;\u{fffd}</text>"), "{drawn}");
    }
}
