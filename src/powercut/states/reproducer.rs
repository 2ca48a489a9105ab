//! The smallest state that fails like a given one.

use super::check::{Check, CheckError, Verdict};
use super::choice::{Choice, Piece, State};
use super::image::Image;
use super::minimise::minimise;
use super::timeline::{Content, Pending};

/// Finds the fewest sectors that have to be lost, or that have to be there, for `state` to fail as it does; the
/// better one of both.
///
/// # Errors
///
/// As [`Check::run`].
pub fn reproducer(
    check: &Check,
    image: &mut Image<'_>,
    state: &State,
) -> Result<State, CheckError> {
    if matches!(state.choice, Choice::Torn(..)) {
        return Ok(state.clone());
    }
    image.set(state)?;
    let (there, lost) = split(image, &state.choice);
    let position = state.position;
    let mut fails = |choice: Choice| {
        let verdict = check.run(image, &State { position, choice })?;
        Ok::<bool, CheckError>(verdict != Verdict::Passed)
    };
    let dropped = minimise(lost, &mut |some| fails(Choice::Drop(some.to_vec())))?;
    if dropped.len() <= 1 {
        return Ok(State { position, choice: Choice::Drop(dropped) });
    }
    let kept = minimise(there, &mut |some| fails(Choice::Keep(some.to_vec())))?;
    let choice =
        if kept.len() < dropped.len() { Choice::Keep(kept) } else { Choice::Drop(dropped) };
    Ok(State { position, choice })
}

/// The pending sectors that are there, and those that are not.
fn split(image: &Image<'_>, choice: &Choice) -> (Vec<Piece>, Vec<Piece>) {
    let chosen = choice.sectors(image.timeline()).contents;
    let (mut there, mut lost) = (Vec::new(), Vec::new());
    for (sector, versions) in image.timeline().versions() {
        let newest = chosen.get(sector);
        let mut is_lost = newest.is_none();
        // What is newer than what is there is lost; what is older is there, and cannot be seen.
        for content in versions {
            let Content::Written { entry, .. } = *content else { continue };
            let piece = Piece::Sector(Pending { entry, sector: *sector });
            if is_lost {
                lost.push(piece);
            } else {
                there.push(piece);
            }
            is_lost |= newest == Some(content);
        }
    }
    (there, lost)
}
