//! The extents of a device: which pages it grows by, and how they are written.

use std::cmp::Reverse;

use super::owners::no_space;
use super::state::{Device, State, extent_pages};
use super::transaction::Transaction;
use crate::dax::format::error::{Error, Space};
use crate::dax::format::layout::{self, BODY_AT, EXTENTS, INLINE_EXTENTS, LINK_AT, MOST_EXTENTS};
use crate::dax::format::page_kind::PageKind;
use crate::dax::format::units::Extent;

/// Byte offset of extent `index` of a device in its extent page.
fn place(chain: &[u64], index: usize) -> u64 {
    let behind = index - INLINE_EXTENTS;
    chain[behind / EXTENTS] + BODY_AT + (behind % EXTENTS) as u64 * 16
}

/// Which free pages a device gets that are not behind its last extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preference {
    /// Those at the lowest addresses, so that small gaps are filled up.
    Lowest,
    /// Those in the largest runs: the fewest extents, and so the fewest metadata pages.
    Fewest,
}

/// Takes `more` pages, a multiple of the alignment, for a device whose extents are `old`: first those
/// behind its last extent, then others by `preference`. A contiguous device takes what it can have.
pub(super) fn take(
    state: &mut State,
    device: &Device,
    old: &[Extent],
    more: u64,
    preference: Preference,
) -> Result<Vec<Extent>, Error> {
    let order = device.align.order();
    let last = old.last().map(|extent| extent.end());
    if state.buddy.available(order) < more {
        return Err(no_space(state, more, order));
    }
    if device.contiguous {
        let first = match last {
            Some(end) => (state.buddy.run(end, more) == more).then_some(end),
            None => {
                state.buddy.runs(order).iter().find(|run| run.pages >= more).map(|run| run.first)
            }
        };
        let first = first.filter(|_| more > 0);
        let extent = first.map(|first| Extent { first, pages: more });
        return match extent.filter(|extent| state.buddy.take(*extent)) {
            Some(extent) => Ok(vec![extent]),
            None if more == 0 => Ok(Vec::new()),
            None => Err(no_space(state, more, order)),
        };
    }
    Ok(scattered(state, order, last, more, preference))
}

/// Takes `more` pages, which are there, in units of 2^`order`: first from page `last` on.
fn scattered(
    state: &mut State,
    order: u32,
    last: Option<u64>,
    more: u64,
    preference: Preference,
) -> Vec<Extent> {
    let mut taken = Vec::new();
    let mut rest = more;
    if let Some(last) = last {
        rest -= take_run(state, last, rest, order, &mut taken);
    }
    match preference {
        Preference::Lowest => {
            while rest > 0
                && let Some(first) = state.buddy.lowest(order)
            {
                rest -= take_run(state, first, rest, order, &mut taken);
            }
        }
        Preference::Fewest => {
            let mut runs = state.buddy.runs(order);
            runs.sort_unstable_by_key(|run| (Reverse(run.pages), run.first));
            for run in runs {
                rest -= take_run(state, run.first, rest, order, &mut taken);
            }
        }
    }
    debug_assert_eq!(rest, 0, "so many pages were available");
    taken
}

/// Takes the free pages from `first` on in whole units of 2^`order`, up to `most`; returns how many.
fn take_run(state: &mut State, first: u64, most: u64, order: u32, taken: &mut Vec<Extent>) -> u64 {
    let run = state.buddy.run(first, most);
    let units = if mutant!(dax::PiecesMisaligned) { run } else { run >> order << order };
    let extent = Extent { first, pages: units };
    if extent.pages == 0 || !state.buddy.take(extent) {
        return 0;
    }
    append(taken, extent);
    extent.pages
}

/// Appends an extent, as one with the last if they touch.
pub(super) fn append(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.end() == extent.first => last.pages += extent.pages,
        _ => extents.push(extent),
    }
}

/// What is left of `extents` after the first `pages` pages are kept, and what goes.
pub(super) fn cut(extents: &[Extent], pages: u64) -> (Vec<Extent>, Vec<Extent>) {
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    let mut rest = pages;
    for &Extent { first, pages } in extents {
        let keeps = pages.min(rest);
        rest -= keeps;
        if keeps > 0 {
            kept.push(Extent { first, pages: keeps });
        }
        if keeps < pages {
            gone.push(Extent { first: first + keeps, pages: pages - keeps });
        }
    }
    (kept, gone)
}

/// Metadata pages that a change links and unlinks.
#[derive(Debug, Default)]
pub(super) struct Relinked {
    /// No longer in the pool.
    pub linked: Vec<u64>,
    /// In the pool again.
    pub unlinked: Vec<u64>,
}

/// Puts the extents of a device, which were `old` and are to be `new`, into its extent pages, as far
/// as they do not fit into the slot; the slot itself is for the caller.
///
/// However many they are, the transaction gets few stores: what only goes is no longer counted, one
/// extent that changes is stored, and where there are more than before, the pages from the first one
/// that changes on are made anew and linked instead.
pub(super) fn write(
    device: &mut Device,
    old: &[Extent],
    new: Vec<Extent>,
    pool: impl Iterator<Item = u64>,
    into: &mut Transaction,
) -> Result<Relinked, Error> {
    if new.len() > MOST_EXTENTS {
        return Err(Error::NoRoomFor(Space::Metadata));
    }
    let changed = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let mut relinked = Relinked::default();
    let keep = if new.len() > old.len() {
        changed.saturating_sub(INLINE_EXTENTS) / EXTENTS
    } else {
        if let Some(extent) = new.get(changed)
            && changed >= INLINE_EXTENTS
        {
            into.store(place(&device.chain, changed) + 8, extent.pages);
        }
        extent_pages(new.len())
    };
    let needed = extent_pages(new.len()).saturating_sub(keep);
    relinked.unlinked = device.chain.split_off(keep.min(device.chain.len()));
    relinked.linked = pool.take(needed).collect();
    if relinked.linked.len() < needed {
        return Err(Error::NoRoomFor(Space::Metadata));
    }
    let first = relinked.linked.first().copied().unwrap_or(0);
    let relinks = needed > 0 || !relinked.unlinked.is_empty();
    if let Some(last) = device.chain.last()
        && relinks
    {
        into.store(last + LINK_AT, first);
    }
    device.chain.extend(&relinked.linked);
    for (number, page) in (keep..).zip(&relinked.linked) {
        let next = device.chain.get(number + 1).copied().unwrap_or(0);
        into.fresh_page(*page, layout::new_page(PageKind::Extents, device.uuid, next));
        let behind = new.iter().skip(INLINE_EXTENTS + number * EXTENTS).take(EXTENTS);
        for (extent, at) in behind.zip((page + BODY_AT..).step_by(16)) {
            into.store(at, extent.first);
            into.store(at + 8, extent.pages);
        }
    }
    device.extents = new;
    Ok(relinked)
}
