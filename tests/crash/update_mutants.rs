//! Errors in the order in which a BTT is created or grows, made in the trace of that.

use std::ops::Range;

use vhost_user_btt::btt::FoundArena;
use vhost_user_btt::pmem::simulated::Event;

/// An error in the creation or the growth of a BTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateMutant {
    /// The info block that commits a new BTT is written before its backup.
    PrimaryBeforeBackup,
    /// The first arena of a new BTT is written first.
    FirstArenaFirst,
    /// The map of a new BTT keeps what was there.
    MapNotZeroed,
    /// A BTT that is replaced is not invalidated first.
    OldBttLeft,
    /// A BTT that grows leads on to its new arenas before they are there.
    LinkedEarly,
}

impl UpdateMutant {
    pub const ALL: [UpdateMutant; 5] = [
        UpdateMutant::PrimaryBeforeBackup,
        UpdateMutant::FirstArenaFirst,
        UpdateMutant::MapNotZeroed,
        UpdateMutant::OldBttLeft,
        UpdateMutant::LinkedEarly,
    ];
}

/// What is done with `mutant` instead of the `events` of the creation of `arenas`.
pub fn created(
    mutant: Option<UpdateMutant>,
    arenas: &[FoundArena],
    mut events: Vec<Event>,
) -> Vec<Event> {
    // Before the map of the last arena is zeroed, an old BTT is invalidated.
    let maps: Vec<Range<u64>> = arenas.iter().map(map_of).collect();
    let is_of_map = |event: &Event| {
        zeroed_at(event).is_some_and(|offset| maps.iter().any(|map| map.contains(&offset)))
    };
    let begun = events.iter().position(is_of_map).unwrap_or(0);
    match mutant {
        Some(UpdateMutant::OldBttLeft) => drop(events.drain(..begun)),
        Some(UpdateMutant::MapNotZeroed) => events.retain(|event| !is_of_map(event)),
        Some(UpdateMutant::FirstArenaFirst) => {
            let created = events.split_off(begun);
            events.extend(first_arena_first(arenas, created));
        }
        Some(UpdateMutant::PrimaryBeforeBackup) => swap_info_blocks(arenas, &mut events),
        Some(UpdateMutant::LinkedEarly) | None => {}
    }
    events
}

/// What is done with `mutant` instead of the `events` of a growth behind the arena `last`.
pub fn grown(mutant: Option<UpdateMutant>, last: &FoundArena, events: Vec<Event>) -> Vec<Event> {
    if mutant != Some(UpdateMutant::LinkedEarly) {
        return events;
    }
    let end = last.start + last.info.geometry.size();
    let mut is_link = false;
    let (link, arenas): (Vec<Event>, Vec<Event>) = events.into_iter().partition(|event| {
        // A fence belongs to what comes before it.
        is_link = changed_at(event).map_or(is_link, |offset| offset < end);
        is_link
    });
    [link, arenas].concat()
}

/// The map and the flog of an arena, which are zeroed together.
fn map_of(arena: &FoundArena) -> Range<u64> {
    let geometry = &arena.info.geometry;
    arena.start + geometry.mapoff..arena.start + geometry.info2off
}

fn zeroed_at(event: &Event) -> Option<u64> {
    match *event {
        Event::ZeroBegins { offset, .. } | Event::ZeroEnds { offset, .. } => Some(offset),
        _ => None,
    }
}

fn changed_at(event: &Event) -> Option<u64> {
    match *event {
        Event::Store { offset, .. } | Event::Stream { offset, .. } => Some(offset),
        _ => zeroed_at(event),
    }
}

/// The arenas are created from the last to the first, one after another.
fn first_arena_first(arenas: &[FoundArena], events: Vec<Event>) -> Vec<Event> {
    let mut of_arenas = vec![Vec::new(); arenas.len()];
    let mut current = arenas.len() - 1;
    for event in events {
        if let Some(offset) = changed_at(&event) {
            current = arenas.iter().rposition(|arena| arena.start <= offset).unwrap_or(0);
        }
        of_arenas[current].push(event);
    }
    of_arenas.concat()
}

/// Swaps the streams to the two info blocks of each arena. A fence follows each.
fn swap_info_blocks(arenas: &[FoundArena], events: &mut [Event]) {
    let stream_to = |events: &[Event], wanted: u64| {
        events
            .iter()
            .position(|event| matches!(event, Event::Stream { offset, .. } if *offset == wanted))
    };
    for arena in arenas {
        let backup = stream_to(events, arena.start + arena.info.geometry.info2off);
        let primary = stream_to(events, arena.start);
        if let (Some(backup), Some(primary)) = (backup, primary) {
            events.swap(backup, primary);
        }
    }
}
