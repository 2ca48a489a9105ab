//! The drawing of a DAX region to scale: the owner of each part, and the extents of each device.

#![allow(clippy::cast_precision_loss, reason = "a thousandth of a pixel is precise enough")]

use std::ops::Range;

use super::bar::{BAR, INNER, MARGIN};
use super::region::Region;
use super::svg::{Rect, Svg};
use crate::cli::size::Size;
use crate::dax::{DeviceInfo, PAGE_SIZE, PAGES_OFFSET};

/// Colours of devices, in turn.
const COLOURS: [&str; 6] = ["device0", "device1", "device2", "device3", "device4", "device5"];
/// Most devices that are drawn one by one.
const MOST_DEVICES: usize = 24;
/// Most extents of which each is a rectangle of its own, with a text when it is pointed at.
const MOST_EXTENTS: usize = 2000;
/// Height of a strip that shows one device.
const STRIP: f64 = 10.0;
/// Width of the text beside it.
const TEXT: f64 = 300.0;

/// Draws a region below `y`, which `from` shows in the file; returns where the drawing ends.
pub(super) fn draw(svg: &mut Svg, y: f64, from: Rect, region: &Region) -> f64 {
    let info = &region.info;
    let described = format!(
        "DAX region {}: {} devices, {} free in steps of {}, largest extent {}, {:.0} % fragmented",
        info.uuid,
        info.devices,
        Size(info.available),
        Size(info.align.bytes()),
        Size(info.largest),
        info.fragmentation() * 100.0
    );
    svg.text("small", MARGIN + 8.0, y, &described);
    let (class, state) = if region.report.is_clean() {
        ("small", "checked: clean")
    } else {
        ("bad", "checked: problems (see dax check)")
    };
    svg.text(class, MARGIN + 780.0, y - 17.0, state);
    let bar = Rect { x: MARGIN, y: y + 11.0, width: INNER, height: BAR };
    svg.zoom(from, bar);
    draw_pages(svg, bar, region);
    let mut y = bar.y + BAR + 8.0;
    for (number, device) in region.devices.iter().enumerate().take(MOST_DEVICES) {
        y = draw_device(svg, y, number, device, region);
    }
    if region.devices.len() > MOST_DEVICES {
        let rest = format!("and {} more devices", region.devices.len() - MOST_DEVICES);
        svg.text("small", MARGIN, y + 12.0, &rest);
        y += 18.0;
    }
    y + 24.0
}

/// Where bytes of the namespace are in a bar that shows all of it.
fn place(bar: Rect, region: &Region, bytes: &Range<u64>) -> Rect {
    let scale = bar.width / region.namespace.size() as f64;
    let width = (bytes.end - bytes.start) as f64 * scale;
    Rect { x: bar.x + bytes.start as f64 * scale, width, ..bar }
}

/// Metadata, owners, devices; what is left is free.
fn draw_pages(svg: &mut Svg, bar: Rect, region: &Region) {
    svg.rect(if region.info.free > 0 { "unused" } else { "track" }, bar, "free");
    draw_part(svg, bar, region, "info", "metadata", &(0..PAGES_OFFSET));
    for (owner, blocks) in &region.owners {
        let name = if owner.is_allocator { "journal".into() } else { owner.uuid.to_string() };
        for block in blocks.iter().take(MOST_EXTENTS) {
            let bytes = block.offset..block.offset + (PAGE_SIZE << block.order);
            draw_part(svg, bar, region, "owned", &name, &bytes);
        }
    }
    let mut rest = MOST_EXTENTS;
    for (number, device) in region.devices.iter().enumerate() {
        let class = COLOURS[number % COLOURS.len()];
        let (one_by_one, others) = device.extents.split_at(device.extents.len().min(rest));
        rest -= one_by_one.len();
        for extent in one_by_one {
            draw_part(svg, bar, region, class, &device.name, extent);
        }
        draw_cells(svg, bar, region, class, others);
    }
}

fn draw_part(
    svg: &mut Svg,
    bar: Rect,
    region: &Region,
    class: &str,
    name: &str,
    bytes: &Range<u64>,
) {
    let rect = place(bar, region, bytes);
    let size = Size(bytes.end - bytes.start);
    svg.rect(class, rect, &format!("{name}: {size} at byte {} of the namespace", bytes.start));
    let with_size = format!("{name}, {size}");
    // A letter is about seven pixels wide.
    let fits = |text: &&str| text.chars().count() as f64 * 7.0 < rect.width;
    if let Some(text) = [with_size.as_str(), name].into_iter().find(fits) {
        svg.label(rect, text);
    }
}

/// Extents as cells; those that fall into the same pixels as the one before them are left out.
fn draw_cells(svg: &mut Svg, bar: Rect, region: &Region, class: &str, extents: &[Range<u64>]) {
    let mut cells: Vec<Rect> = Vec::new();
    for extent in extents {
        let rect = place(bar, region, extent);
        let (x, end) = (rect.x.floor(), (rect.x + rect.width).ceil());
        let cell = Rect { x, width: end - x, ..rect };
        if cells.last() != Some(&cell) {
            cells.push(cell);
        }
    }
    svg.cells(class, &cells);
}

/// A line about a device, and where in the namespace it is.
fn draw_device(svg: &mut Svg, y: f64, number: usize, device: &DeviceInfo, region: &Region) -> f64 {
    let class = COLOURS[number % COLOURS.len()];
    svg.rect(class, Rect { x: MARGIN, y: y + 2.0, width: 14.0, height: 10.0 }, "");
    let extents = match device.extents.len() {
        1 => "1 extent".to_owned(),
        count => format!("{count} extents"),
    };
    let text = format!("{}: {} in {extents}", device.name, Size(device.size));
    svg.text("small", MARGIN + 20.0, y + 11.0, &text);
    let strip = Rect { x: MARGIN + TEXT, y: y + 2.0, width: INNER - TEXT, height: STRIP };
    svg.rect("track", strip, &device.uuid.to_string());
    draw_cells(svg, strip, region, class, &device.extents);
    y + STRIP + 6.0
}
