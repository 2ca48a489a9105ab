//! The points of a log whose states include those of all other points.

use std::ops::RangeInclusive;

use super::super::log::{Entry, Log, LogError, flag};
use super::super::states::Timeline;
use super::search::Undecided;

/// Goes through a log from one moment to the next.
///
/// While nothing becomes durable, the states of a point are among those of the next one: that has one more request,
/// which need not be there. So only the last point before a flush, a durable write or the end is a moment; if the
/// check is told of marks, the last point before a mark as well.
pub struct Moments<'l> {
    timeline: Timeline<'l>,
    positions: RangeInclusive<usize>,
    sees_marks: bool,
    /// Hash of what was durable at the last moment, what was undecided, and the number of marks.
    last: Option<(u128, Undecided, usize)>,
    has_begun: bool,
}

impl<'l> Moments<'l> {
    /// Stands before the first moment at `positions` of `log`.
    #[must_use]
    pub fn new(log: &'l Log, positions: RangeInclusive<usize>, sees_marks: bool) -> Moments<'l> {
        let timeline = Timeline::new(log, false);
        Moments { timeline, positions, sees_marks, last: None, has_begun: false }
    }

    /// Goes to the next moment that differs from the one before. Returns what is undecided there; `None`: there is no
    /// other.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn advance(&mut self) -> Result<Option<Undecided>, LogError> {
        loop {
            if std::mem::replace(&mut self.has_begun, true) && self.timeline.advance()?.is_none() {
                return Ok(None);
            }
            let position = self.timeline.point().position;
            if position > *self.positions.end() {
                return Ok(None);
            }
            if self.positions.contains(&position) && self.is_moment(position) {
                let undecided = self.timeline.undecided()?;
                let marks = if self.sees_marks { self.timeline.point().marks.len() } else { 0 };
                let moment = (self.timeline.hash_with([])?, undecided, marks);
                if self.last.as_ref() != Some(&moment) {
                    let undecided = moment.1.clone();
                    self.last = Some(moment);
                    return Ok(Some(undecided));
                }
            }
        }
    }

    fn is_moment(&self, position: usize) -> bool {
        let makes_durable = |entry: &Entry| entry.has(flag::FLUSH) || entry.has(flag::FUA);
        let is_told = |entry: &Entry| self.sees_marks && entry.mark.is_some();
        let next = self.timeline.log().entries().get(position);
        let is_last = position == *self.positions.end();
        is_last || next.is_none_or(|next| makes_durable(next) || is_told(next))
    }

    /// Where it stands.
    #[must_use]
    pub fn timeline(&self) -> &Timeline<'l> {
        &self.timeline
    }
}
