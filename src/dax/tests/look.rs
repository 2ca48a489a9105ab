//! Looking at a region without a claim, while its holder changes it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hooked::Hooked;
use super::*;

/// What the holder does between two accesses of the one that looks.
type Change = Box<dyn FnOnce(&Arc<Simulated>) + Send>;

/// Looks at `medium`, to which `change` is done before access number `at`. `None`: there are not that many.
fn look_while(medium: &Arc<Simulated>, at: usize, change: Change) -> Option<Everything> {
    let (done, count) = (Arc::new(Mutex::new(Some(change))), AtomicUsize::new(0));
    let (holder, waiting) = (Arc::clone(medium), Arc::clone(&done));
    let hooked = Hooked::new(medium, move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) == at {
            let change = waiting.lock().unwrap().take();
            change.unwrap()(&holder);
        }
        true
    });
    let looked_at = Region::look_at(hooked).unwrap();
    done.lock().unwrap().is_none().then(|| everything(&looked_at))
}

/// Wherever the change comes, the region is seen as it was before or after it. Returns how often it was
/// seen either way.
fn before_or_after(
    medium: impl Fn() -> Arc<Simulated>,
    change: impl Fn(&Arc<Simulated>) + Clone + Send + 'static,
) -> (usize, usize) {
    let (whole, changed) = (medium(), medium());
    change(&changed);
    let seen = |medium: &Arc<Simulated>| everything(&Region::look_at(Arc::clone(medium)).unwrap());
    let (before, after) = (seen(&whole), seen(&changed));
    let (mut seen_before, mut seen_after) = (0, 0);
    for at in 0.. {
        let Some(seen) = look_while(&medium(), at, Box::new(change.clone())) else { break };
        match seen {
            seen if seen == before => seen_before += 1,
            seen if seen == after => seen_after += 1,
            other => panic!("changed before access {at}, it is seen as {other:?}"),
        }
    }
    (seen_before, seen_after)
}

fn sample() -> Arc<Simulated> {
    let medium = medium(12);
    let region = open(&medium);
    for name in ["a", "b", "c"] {
        region.create_device(&device(name, 2)).unwrap();
    }
    medium
}

#[test]
pub(super) fn changes_are_seen_wholly_or_not_at_all() {
    let (before, after) = before_or_after(sample, |medium| {
        let region = open(medium);
        region.destroy_device("a").unwrap();
        region.resize_device("c", 6 * PAGE).unwrap();
        region.rename_device("b", "a").unwrap();
        region.allocate(A, "", 1).unwrap();
    });
    assert!(before > 0 && after > 5, "{before} {after}");
}

/// The same, as far as the journal tells: a device goes from one page to another and back.
#[test]
fn a_change_that_is_undone_is_seen_wholly_or_not_at_all() {
    before_or_after(sample, |medium| {
        let region = open(medium);
        region.destroy_device("a").unwrap();
        region.create_device(&device("a", 2)).unwrap();
    });
}

/// A region of twelve pages in a namespace that has room for twenty.
fn small_region() -> Arc<Simulated> {
    let small = sample();
    let mut contents = crate::pmem::simulated::Contents::zeroes(small.size() + 8 * PAGE);
    contents.write(0, &small.contents());
    Arc::new(Simulated::of(contents))
}

#[test]
pub(super) fn a_device_in_pages_that_the_region_has_just_got_is_seen() {
    let (before, after) = before_or_after(small_region, |medium| {
        grow(medium).unwrap();
        open(medium).create_device(&device("d", 12)).unwrap();
    });
    assert!(before > 0 && after > 5, "{before} {after}");
}

#[test]
fn growth_alone_is_seen_wholly_or_not_at_all() {
    before_or_after(small_region, |medium| {
        grow(medium).unwrap();
    });
}

#[test]
fn a_region_that_never_holds_still_is_not_seen() {
    let medium = sample();
    let (region, renames) = (open(&medium), AtomicUsize::new(0));
    let hooked = Hooked::new(&medium, move |_, offset| {
        if offset == PAGES_OFFSET {
            let number = renames.fetch_add(1, Ordering::Relaxed);
            let names = ["a", "z"];
            region.rename_device(names[number % 2], names[(number + 1) % 2]).unwrap();
        }
        true
    });
    assert_eq!(Region::look_at(hooked).map(drop), Err(Error::Unsteady));
}
