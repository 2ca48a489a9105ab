//! States in words.

use std::path::Path;

use super::recording::BASE_MARK;
use crate::powercut::log::Log;
use crate::powercut::states::{Choice, Model, Piece, State};

/// The command that makes an image of a state again.
pub(super) fn again(log: &Path, base: &Path, model: Model, state: &State) -> String {
    let (log, base) = (log.display(), base.display());
    // What was not durable depends on this model; on the others, it does not.
    let model = if model.ignores_flushes() { " --model ignore-flush" } else { "" };
    format!("powercut states {log} --base {base}{model} --state '{state}' --out bad.raw")
}

/// Says what a state is, in words.
pub(super) fn describe(log: &Log, state: &State) -> String {
    let place = format!("at entry {}, {}", state.position, between(log, state.position));
    match &state.choice {
        Choice::Drop(pieces) if pieces.is_empty() => {
            format!("losing no write, {place},")
        }
        Choice::Drop(pieces) => format!("dropping only {}, {place},", list(log, pieces)),
        Choice::Keep(pieces) if pieces.is_empty() => {
            format!("losing every write that was not flushed, {place},")
        }
        Choice::Keep(pieces) => {
            format!("keeping only {} of what was not flushed, {place},", list(log, pieces))
        }
        Choice::Random(seed) => format!("keeping what the seed {seed} says, {place},"),
        Choice::Torn(piece, tear) => format!(
            "tearing sector {} of request {} ({tear:?}), {place},",
            piece.sector, piece.entry
        ),
    }
}

fn list(log: &Log, pieces: &[Piece]) -> String {
    let words = pieces.iter().map(|piece| match piece {
        Piece::Sector(piece) => {
            format!(
                "sector {} (request {}, {})",
                piece.sector,
                piece.entry,
                between(log, piece.entry)
            )
        }
        Piece::Request(entry) => format!("request {entry} ({})", between(log, *entry)),
    });
    words.collect::<Vec<_>>().join(" and ")
}

/// The marks around a position.
pub(super) fn between(log: &Log, position: usize) -> String {
    let entries = log.entries();
    let is_set = |mark: &&String| !mark.starts_with(BASE_MARK);
    let position = position.min(entries.len());
    let before = entries[..position].iter().filter_map(|it| it.mark.as_ref()).rfind(is_set);
    let after = entries[position..].iter().filter_map(|it| it.mark.as_ref()).find(is_set);
    match (before, after) {
        (Some(before), Some(after)) => format!("between marks {before} and {after}"),
        (Some(before), None) => format!("after mark {before}"),
        (None, Some(after)) => format!("before mark {after}"),
        (None, None) => "without marks".into(),
    }
}
