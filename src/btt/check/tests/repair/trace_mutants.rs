//! Errors in the order in which a repair is carried out, made in the trace of that.

use std::cell::Cell;

use crate::btt::format::geometry::INFO_SIZE;
use crate::pmem::simulated::Event;

/// An error in what a repair does to the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TraceMutant {
    /// No step of a repair is durable before the next.
    Unfenced,
    /// Map entries that a repair stores are not flushed.
    MapUnflushed,
    /// Both info blocks are written in one step.
    InfosTogether,
    /// Of a flog entry that is written anew, the half that commits is stored first.
    LaneCommitFirst,
}

thread_local! {
    static ACTIVE: Cell<Option<TraceMutant>> = const { Cell::new(None) };
}

/// Makes repairs of the current thread have an error from now on, or none.
pub(super) fn activate(mutant: Option<TraceMutant>) {
    ACTIVE.set(mutant);
}

impl TraceMutant {
    pub(super) const ALL: [TraceMutant; 4] = [
        TraceMutant::Unfenced,
        TraceMutant::MapUnflushed,
        TraceMutant::InfosTogether,
        TraceMutant::LaneCommitFirst,
    ];
}

/// What is done with the active mutant instead of `events`.
pub(super) fn carried_out(mut events: Vec<Event>) -> Vec<Event> {
    match ACTIVE.get() {
        None => {}
        Some(TraceMutant::Unfenced) => {
            events.retain(|event| !matches!(event, Event::Fence { .. }));
        }
        // Map entries are the only words of four bytes.
        Some(TraceMutant::MapUnflushed) => {
            events.retain(|event| !matches!(event, Event::Flush { length: 4, .. }));
        }
        Some(TraceMutant::InfosTogether) => unfence_info_blocks(&mut events),
        Some(TraceMutant::LaneCommitFirst) => swap_halves(&mut events),
    }
    events
}

fn is_info_block(event: &Event) -> bool {
    matches!(event, Event::Stream { bytes, .. } if bytes.len() as u64 == INFO_SIZE)
}

/// Leaves out the fence between two info blocks.
fn unfence_info_blocks(events: &mut Vec<Event>) {
    let mut number = 0;
    while number + 2 < events.len() {
        let is_between = is_info_block(&events[number])
            && matches!(events[number + 1], Event::Fence { .. })
            && is_info_block(&events[number + 2]);
        if is_between {
            events.remove(number + 1);
        }
        number += 1;
    }
}

/// Swaps the stores to the two halves of each slot of the flog; each is flushed before the next.
fn swap_halves(events: &mut [Event]) {
    let half_at = |event: &Event| match *event {
        Event::Store { offset, ref bytes } if bytes.len() == 8 => Some(offset),
        _ => None,
    };
    let stores: Vec<usize> =
        (0..events.len()).filter(|number| half_at(&events[*number]).is_some()).collect();
    for pair in stores.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let (what, commit) = (half_at(&events[first]), half_at(&events[second]));
        if what.is_some_and(|what| what.is_multiple_of(16) && commit == Some(what + 8)) {
            // With the flush that follows each.
            events.swap(first, second);
            events.swap(first + 1, second + 1);
        }
    }
}
