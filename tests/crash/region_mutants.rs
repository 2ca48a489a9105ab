//! Errors in what is done to a region of DAX devices, made in the trace of a change.
//!
//! What is not done, or done at another time, is left out of the trace or moved in it: these mutants need
//! no place in the region's code.

use vhost_user_btt::dax::{PAGE_SIZE, PAGES_OFFSET};
use vhost_user_btt::pmem::simulated::Event;

/// Byte offset of the backup of the superblock, and of the superblock.
const SUPERBLOCKS: [u64; 2] = [0, PAGE_SIZE];
/// Bytes of the journal of the regions here, which have two buckets.
const JOURNAL_SIZE: u64 = 2 * PAGE_SIZE;

/// An error in what is done to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionMutant {
    /// The stores that apply an entry are not flushed.
    ApplyUnflushed,
    /// The stores that apply an entry are not fenced before the next entry.
    ApplyUnfenced,
    /// An entry is written over what another one has left that was cut off.
    PlaceNotZeroed,
    /// Pages are zeroed after they were given to their owner.
    ZeroedLate,
    /// Pages are zeroed when they are freed and at no other time.
    ZeroedAtFreeOnly,
    /// Pages are zeroed while they are still their owner's.
    ZeroedBeforeFree,
    /// The superblock of a new region is written before its tables.
    SuperblockFirst,
    /// The superblock is written before its backup, in one go.
    SuperblocksUnfenced,
    /// A region that is replaced is not invalidated first.
    OldRegionLeft,
    /// The journal of a new region keeps what was there.
    JournalNotZeroed,
    /// Superblock and backup of a region that grows are written in one go.
    GrownAtOnce,
    /// The backup of a region that grows is written while the superblock is unusable.
    GrownFromBackup,
    /// A repair does not go through the journal.
    MendedInPlace,
    /// A repair empties the journal before it begins.
    JournalEmptied,
}

/// What part of a region a change is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Superblocks,
    Metadata,
    Journal,
    Pages,
}

fn part(offset: u64) -> Part {
    match offset {
        _ if offset < 2 * PAGE_SIZE => Part::Superblocks,
        _ if offset < PAGES_OFFSET => Part::Metadata,
        _ if offset < PAGES_OFFSET + JOURNAL_SIZE => Part::Journal,
        _ => Part::Pages,
    }
}

fn offset_of(event: &Event) -> Option<u64> {
    match *event {
        Event::Store { offset, .. }
        | Event::Stream { offset, .. }
        | Event::Flush { offset, .. }
        | Event::ZeroBegins { offset, .. }
        | Event::ZeroEnds { offset, .. } => Some(offset),
        _ => None,
    }
}

fn is_in(event: &Event, wanted: Part) -> bool {
    offset_of(event).is_some_and(|offset| part(offset) == wanted)
}

fn is_zeroing(event: &Event) -> bool {
    matches!(event, Event::ZeroBegins { .. } | Event::ZeroEnds { .. })
}

fn is_fence(event: &Event) -> bool {
    matches!(event, Event::Fence { .. })
}

/// Returns whether a stream makes a place in the journal void.
fn is_voiding(event: &Event) -> bool {
    matches!(event, Event::Stream { bytes, .. } if bytes.iter().all(|byte| *byte == 0))
        && is_in(event, Part::Journal)
}

/// Returns whether a stream is a journal entry.
fn is_entry(event: &Event) -> bool {
    matches!(event, Event::Stream { .. }) && is_in(event, Part::Journal) && !is_voiding(event)
}

impl RegionMutant {
    pub const ALL: [RegionMutant; 14] = [
        RegionMutant::ApplyUnflushed,
        RegionMutant::ApplyUnfenced,
        RegionMutant::PlaceNotZeroed,
        RegionMutant::ZeroedLate,
        RegionMutant::ZeroedAtFreeOnly,
        RegionMutant::ZeroedBeforeFree,
        RegionMutant::SuperblockFirst,
        RegionMutant::SuperblocksUnfenced,
        RegionMutant::OldRegionLeft,
        RegionMutant::JournalNotZeroed,
        RegionMutant::GrownAtOnce,
        RegionMutant::GrownFromBackup,
        RegionMutant::MendedInPlace,
        RegionMutant::JournalEmptied,
    ];

    /// Returns what a region with this error does instead of the `events` of a creation, a growth or a
    /// repair.
    fn of_update(self, events: Vec<Event>) -> Vec<Event> {
        match self {
            RegionMutant::SuperblockFirst => superblock_first(events),
            RegionMutant::SuperblocksUnfenced => superblocks_unfenced(events),
            RegionMutant::GrownAtOnce => fenced_at_the_ends(events),
            RegionMutant::GrownFromBackup => superblock_written_late(events),
            RegionMutant::JournalEmptied => [journal_emptied(), events].concat(),
            RegionMutant::MendedInPlace => without_fences_of(events, Part::Journal),
            RegionMutant::OldRegionLeft => {
                without(events, |event| is_zeroing(event) && is_in(event, Part::Superblocks))
            }
            RegionMutant::JournalNotZeroed => {
                without(events, |event| is_zeroing(event) && is_in(event, Part::Journal))
            }
            _ => self.of_change(events),
        }
    }

    /// Returns what a region with this error does instead of the `events` of a change that one journal
    /// entry commits.
    fn of_change(self, events: Vec<Event>) -> Vec<Event> {
        match self {
            RegionMutant::ApplyUnflushed => without(events, |event| {
                matches!(event, Event::Flush { .. }) && is_in(event, Part::Metadata)
            }),
            RegionMutant::ApplyUnfenced => unfenced_after_stores(events),
            RegionMutant::PlaceNotZeroed => without(events, is_voiding),
            RegionMutant::ZeroedAtFreeOnly => take_zeroing(events, Side::BeforeEntry).1,
            RegionMutant::ZeroedLate => zeroed_late(events),
            RegionMutant::ZeroedBeforeFree => zeroed_early(events),
            _ => events,
        }
    }
}

/// What is done with `mutant` instead of the `events` of a creation, a growth or a repair.
pub fn update(mutant: Option<RegionMutant>, events: Vec<Event>) -> Vec<Event> {
    match mutant {
        None => events,
        Some(mutant) => mutant.of_update(events),
    }
}

/// What is done with `mutant` instead of `events`; a mark is at the beginning of each change.
pub fn changes(mutant: Option<RegionMutant>, events: Vec<Event>) -> Vec<Event> {
    let Some(mutant) = mutant else { return events };
    let mut changed = Vec::new();
    let mut rest = events.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut change = vec![first];
        while let Some(event) = rest.next_if(|event| !matches!(event, Event::Mark(_))) {
            change.push(event);
        }
        changed.extend(mutant.of_change(change));
    }
    changed
}

fn without(mut events: Vec<Event>, is_left_out: impl Fn(&Event) -> bool) -> Vec<Event> {
    events.retain(|event| !is_left_out(event));
    events
}

/// Leaves out what is written to `part`, with the fences after that.
fn without_fences_of(events: Vec<Event>, part: Part) -> Vec<Event> {
    let mut was_left_out = false;
    without_each(events, |event| {
        let is_left_out =
            if is_fence(event) { was_left_out } else { is_in(event, part) && !is_zeroing(event) };
        was_left_out = is_left_out;
        is_left_out
    })
}

fn without_each(mut events: Vec<Event>, mut is_left_out: impl FnMut(&Event) -> bool) -> Vec<Event> {
    events.retain(|event| !is_left_out(event));
    events
}

/// Leaves out fences after stores to metadata that are flushed.
fn unfenced_after_stores(events: Vec<Event>) -> Vec<Event> {
    let mut is_after_flush = false;
    without_each(events, |event| {
        let is_left_out = is_fence(event) && is_after_flush;
        is_after_flush = matches!(event, Event::Flush { .. }) && is_in(event, Part::Metadata);
        is_left_out
    })
}

/// Which zeroing of pages is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// That for the next owner, before the journal entry that gives them to it.
    BeforeEntry,
    /// That of pages that are free, after the entry that frees them.
    AfterEntry,
}

/// Takes the zeroing of pages out of a change. Returns it, and the rest.
fn take_zeroing(events: Vec<Event>, side: Side) -> (Vec<Event>, Vec<Event>) {
    let mut is_committed = false;
    events.into_iter().partition(|event| {
        is_committed |= is_entry(event);
        let is_meant = is_committed == (side == Side::AfterEntry);
        is_meant && is_zeroing(event) && is_in(event, Part::Pages)
    })
}

fn zeroed_late(events: Vec<Event>) -> Vec<Event> {
    let (zeroing, mut rest) = take_zeroing(events, Side::BeforeEntry);
    let applied = rest.iter().rposition(|event| is_in(event, Part::Metadata));
    let fenced = applied.map_or(rest.len(), |applied| (applied + 2).min(rest.len()));
    rest.splice(fenced..fenced, zeroing);
    rest
}

fn zeroed_early(events: Vec<Event>) -> Vec<Event> {
    let (zeroing, mut rest) = take_zeroing(events, Side::AfterEntry);
    let entry = rest.iter().position(is_entry).unwrap_or(0);
    rest.splice(entry..entry, zeroing);
    rest
}

/// Takes the streams to the superblock at `offset` out of `events`, each with the fence after it.
fn take_superblock(events: &mut Vec<Event>, offset: u64) -> Vec<Event> {
    let written =
        |event: &Event| matches!(event, Event::Stream { offset: at, .. } if *at == offset);
    match events.iter().position(written) {
        Some(at) => events.drain(at..(at + 2).min(events.len())).collect(),
        None => Vec::new(),
    }
}

fn superblock_first(mut events: Vec<Event>) -> Vec<Event> {
    let backup = take_superblock(&mut events, SUPERBLOCKS[0]);
    let is_invalidation = |event: &Event| is_zeroing(event) && is_in(event, Part::Superblocks);
    let at = events.iter().rposition(is_invalidation).map_or(0, |last| last + 1);
    events.splice(at..at, backup);
    events
}

fn superblocks_unfenced(mut events: Vec<Event>) -> Vec<Event> {
    let [backup, superblock] =
        SUPERBLOCKS.map(|offset| without(take_superblock(&mut events, offset), is_fence));
    [events, superblock, backup].concat()
}

fn superblock_written_late(mut events: Vec<Event>) -> Vec<Event> {
    let superblock = take_superblock(&mut events, SUPERBLOCKS[1]);
    let is_of_superblock =
        |event: &Event| matches!(event, Event::Store { offset, .. } if *offset >= PAGE_SIZE);
    let at = events.iter().position(is_of_superblock).unwrap_or(events.len());
    events.splice(at..at, superblock);
    events
}

/// Leaves out all fences but the first, which ends what comes before the change, and the last.
fn fenced_at_the_ends(events: Vec<Event>) -> Vec<Event> {
    let first = events.iter().position(is_fence);
    let last = events.iter().rposition(is_fence);
    let numbered = events.into_iter().enumerate();
    let kept = numbered
        .filter(|(number, event)| !is_fence(event) || [first, last].contains(&Some(*number)));
    kept.map(|(_, event)| event).collect()
}

/// From the end of the journal on: the newest entry is gone while the one before is still there.
fn journal_emptied() -> Vec<Event> {
    let zeroed = |back| {
        let (offset, length) = (PAGES_OFFSET + JOURNAL_SIZE - back, 64);
        [Event::ZeroBegins { offset, length }, Event::ZeroEnds { offset, length }]
    };
    (64..=JOURNAL_SIZE).step_by(64).flat_map(zeroed).collect()
}
