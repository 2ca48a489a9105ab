//! The smallest state that fails like a given one.

use super::choice::{Choice, Piece, State};
use super::minimise::minimise;
use super::timeline::{Content, Pending, Timeline};

/// The pending sectors of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Number of entries before the failure.
    position: usize,
    there: Vec<Piece>,
    lost: Vec<Piece>,
}

impl Parts {
    /// Those of `choice` at the point where `timeline` stands; `None`: of a torn sector there is nothing smaller.
    #[must_use]
    pub fn of(timeline: &Timeline<'_>, choice: &Choice) -> Option<Parts> {
        if matches!(choice, Choice::Torn(..)) {
            return None;
        }
        let chosen = choice.sectors(timeline).contents;
        let position = timeline.point().position;
        let mut parts = Parts { position, ..Parts::default() };
        for (sector, versions) in timeline.versions() {
            let newest = chosen.get(sector);
            let mut is_lost = newest.is_none();
            // What is newer than what is there is lost; what is older is there, and cannot be seen.
            for content in versions {
                let Content::Written { entry, .. } = *content else { continue };
                let piece = Piece::Sector(Pending { entry, sector: *sector });
                if is_lost {
                    parts.lost.push(piece);
                } else {
                    parts.there.push(piece);
                }
                is_lost |= newest == Some(content);
            }
        }
        Some(parts)
    }

    /// Finds the fewest sectors that have to be lost, or that have to be there, for a state to fail; the better one
    /// of both.
    ///
    /// # Errors
    ///
    /// Those of `fails`.
    pub fn reproducer<E>(
        self,
        fails: &mut dyn FnMut(State) -> Result<bool, E>,
    ) -> Result<State, E> {
        let Parts { position, there, lost } = self;
        let mut fails = |choice: Choice| fails(State { position, choice });
        let dropped = minimise(lost, &mut |some| fails(Choice::Drop(some.to_vec())))?;
        if dropped.len() <= 1 {
            return Ok(State { position, choice: Choice::Drop(dropped) });
        }
        let kept = minimise(there, &mut |some| fails(Choice::Keep(some.to_vec())))?;
        let choice =
            if kept.len() < dropped.len() { Choice::Keep(kept) } else { Choice::Drop(dropped) };
        Ok(State { position, choice })
    }
}
