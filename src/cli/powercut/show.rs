//! `powercut show`.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit;
use crate::cli::output::{is_whole, say};
use crate::cli::xml::Escaped;
use crate::cli::{complain, one_line, print_document};
use crate::powercut::log::{Entry, Log, flag};

/// Shows what was recorded
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The log
    log: PathBuf,

    /// Print it as JSON
    #[arg(long, conflicts_with = "svg")]
    json: bool,

    /// Draw it to this file: entries from left to right, sectors from top to bottom
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
}

impl ShowArgs {
    pub(super) fn run(&self) -> ExitCode {
        let log = match Log::open(&self.log) {
            Ok(log) => log,
            Err(error) => {
                complain(format_args!("powercut: {}", one_line(&error)));
                return ExitCode::from(exit::BAD_INPUT);
            }
        };
        let is_shown = match &self.svg {
            Some(path) => match fs::write(path, draw(&log)) {
                Ok(()) => true,
                Err(error) => {
                    complain(format_args!("powercut: cannot write {}: {error}", path.display()));
                    false
                }
            },
            None if self.json => print_document(&format!("{:#}", to_json(&log))),
            None => {
                print_text(&log);
                is_whole()
            }
        };
        if is_shown { ExitCode::SUCCESS } else { ExitCode::from(exit::BAD_INPUT) }
    }
}

/// What an entry is.
fn kind(entry: &Entry) -> &'static str {
    match entry {
        _ if entry.mark.is_some() => "mark",
        _ if entry.has(flag::DISCARD) => "discard",
        _ if entry.sectors > 0 => "write",
        _ if entry.has(flag::FLUSH) => "flush",
        _ => "nothing",
    }
}

fn print_text(log: &Log) {
    for (number, entry) in log.entries().iter().enumerate() {
        let mut line = format!("{number:6} {:8}", kind(entry));
        if entry.sectors > 0 {
            let _ = write!(line, "{} sectors at {}", entry.sectors, entry.sector);
        }
        if let Some(text) = &entry.mark {
            let _ = write!(line, "{text}");
        }
        let bits = [
            (flag::FLUSH, ", flush before"),
            (flag::FUA, ", durable"),
            (flag::METADATA, ", metadata"),
        ];
        for (_, text) in bits.iter().filter(|(bit, _)| entry.sectors > 0 && entry.has(*bit)) {
            line.push_str(text);
        }
        if let Some(note) = entry.note {
            let _ = write!(line, ", queue {} at {} us", note.queue, note.microseconds);
            line.push_str(if note.in_flight { ", in flight at the end" } else { "" });
        }
        say!("{line}");
    }
    if log.missing() > 0 {
        say!("cut off: {} entries are missing", log.missing());
    }
}

fn to_json(log: &Log) -> serde_json::Value {
    let entries = log.entries().iter().map(|entry| {
        json!({
            "kind": kind(entry),
            "sector": entry.sector,
            "sectors": entry.sectors,
            "flags": entry.flags,
            "mark": entry.mark,
            "queue": entry.note.map(|note| note.queue),
            "microseconds": entry.note.map(|note| note.microseconds),
            "in_flight": entry.note.is_some_and(|note| note.in_flight),
        })
    });
    json!({
        "sector_size": log.sector_size(),
        "missing": log.missing(),
        "entries": entries.collect::<Vec<_>>(),
    })
}

/// Height of the drawing of all sectors.
const HEIGHT: f64 = 400.0;
/// Width of an entry.
const STEP: f64 = 6.0;
/// Room for the texts of marks.
const TOP: f64 = 80.0;

#[allow(clippy::cast_precision_loss, reason = "a drawing is no more exact than its pixels")]
fn draw(log: &Log) -> String {
    let entries = log.entries();
    let extent = entries.iter().map(|entry| entry.sector + entry.sectors).max().unwrap_or(0).max(1);
    let (width, bottom) = (STEP * (entries.len() + 2) as f64, TOP + HEIGHT);
    let y = |sector: u64| TOP + HEIGHT * sector as f64 / extent as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"9\">\n",
        bottom + 20.0
    );
    for (number, entry) in entries.iter().enumerate() {
        let x = STEP * (number + 1) as f64;
        svg.push_str(&match kind(entry) {
            "mark" => vertical(x, "#2a2") + &label(x, entry.mark.as_deref().unwrap_or_default()),
            "flush" => vertical(x, "#d33"),
            kind => {
                let (top, end) = (y(entry.sector), y(entry.sector + entry.sectors));
                let colour = if kind == "discard" { "#bbb" } else { "#36c" };
                let title = format!("{number}: {} sectors at {}", entry.sectors, entry.sector);
                bar((x, top, (end - top).max(2.0)), colour, &title)
            }
        });
    }
    svg + &format!(
        "<text x=\"4\" y=\"{}\">blue: writes; grey: discards; red: flushes; green: marks</text>\n</svg>",
        bottom + 14.0
    )
}

fn vertical(x: f64, colour: &str) -> String {
    let bottom = TOP + HEIGHT;
    format!("<line x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\n")
}

fn label(x: f64, text: &str) -> String {
    let (y, text) = (TOP - 4.0, Escaped(text));
    format!("<text transform=\"translate({x},{y}) rotate(-60)\">{text}</text>\n")
}

fn bar((x, y, height): (f64, f64, f64), colour: &str, title: &str) -> String {
    let width = STEP - 1.0;
    format!(
        "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height:.1}\" fill=\"{colour}\">\
         <title>{title}</title></rect>\n"
    )
}
