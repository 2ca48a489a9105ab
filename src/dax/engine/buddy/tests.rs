use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const FIRST: u64 = 4096;

/// Bounds of a namespace at the start of its file.
fn to(end: u64) -> Bounds {
    Bounds { end, base: 0 }
}

fn of(pages: u64) -> Buddy {
    Buddy::new(FIRST, to(FIRST + pages), &[]).unwrap()
}

/// All free pages, and that the invariant holds.
fn pages(buddy: &Buddy) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    for (blocks, order) in buddy.free.iter().zip(0u32..) {
        for block in blocks {
            assert!(block.is_multiple_of(1 << order), "block {block} of order {order}");
            assert!(*block >= buddy.first && block + (1 << order) <= buddy.end);
            let has_buddy = order < MOST_ORDER && blocks.contains(&(block ^ 1 << order));
            assert!(!has_buddy, "block {block} of order {order} and its buddy");
            for page in *block..block + (1 << order) {
                assert!(pages.insert(page), "page {page} is in two blocks");
            }
        }
    }
    pages
}

#[derive(Debug, Clone)]
enum Op {
    Best(u32),
    Lowest(u32),
    Take(u64, u64),
    Give(u64, u64),
}

fn ops() -> impl Strategy<Value = (u64, Vec<Op>)> {
    (1u64..700).prop_flat_map(|size| {
        let op = prop_oneof![
            (0u32..11).prop_map(Op::Best),
            (0u32..11).prop_map(Op::Lowest),
            (0..size, 1u64..100).prop_map(|(at, pages)| Op::Take(at, pages)),
            (0..size, 1u64..100).prop_map(|(at, pages)| Op::Give(at, pages)),
        ];
        (Just(size), prop::collection::vec(op, 0..60))
    })
}

proptest! {
    /// No overlap, full merge, alignment, and agreement with a set of pages in everything.
    #[test]
    fn it_is_a_set_of_pages_in_fewest_blocks((size, ops) in ops()) {
        let mut buddy = of(size);
        let mut model: BTreeSet<u64> = (FIRST..FIRST + size).collect();
        for op in ops {
            match op {
                Op::Best(order) | Op::Lowest(order) => {
                    let unit = 1u64 << order;
                    let is_free = |at: &u64| (*at..*at + unit).all(|page| model.contains(&page));
                    let lowest = (FIRST / unit * unit..FIRST + size)
                        .step_by(unit as usize).find(is_free);
                    let found = match op {
                        Op::Best(_) => buddy.best(order),
                        _ => buddy.lowest(order),
                    };
                    prop_assert_eq!(found.is_some(), lowest.is_some());
                    if let Some(first) = found {
                        let fits = first.is_multiple_of(unit) && is_free(&first);
                        prop_assert!(fits);
                        let is_best = matches!(op, Op::Best(_));
                        prop_assert!(is_best || Some(first) == lowest);
                        let block = Extent { first, pages: unit };
                        prop_assert!(buddy.take(block));
                        model.retain(|page| !(first..first + unit).contains(page));
                    }
                }
                Op::Take(at, pages) => {
                    let extent = Extent { first: FIRST + at, pages };
                    let all = (extent.first..extent.end()).all(|page| model.contains(&page));
                    prop_assert_eq!(buddy.take(extent), all);
                    if all {
                        model.retain(|page| !(extent.first..extent.end()).contains(page));
                    }
                }
                Op::Give(at, pages) => {
                    let extent = Extent { first: FIRST + at, pages };
                    let none = !(extent.first..extent.end()).any(|page| model.contains(&page));
                    let gives = none && extent.end() <= FIRST + size;
                    prop_assert_eq!(buddy.is_taken(extent), none);
                    prop_assert_eq!(buddy.give(extent), gives);
                    if gives {
                        model.extend(extent.first..extent.end());
                    }
                }
            }
            prop_assert_eq!(&pages(&buddy), &model);
            prop_assert_eq!(buddy.available(0), model.len() as u64);
            let runs: u64 = buddy.runs(0).iter().map(|run| run.pages).sum();
            prop_assert_eq!(runs, model.len() as u64);
        }
        // However it came about, it is what would be rebuilt from the pages in use.
        let used: Vec<Extent> = (FIRST..FIRST + size).filter(|page| !model.contains(page))
            .map(|first| Extent { first, pages: 1 }).collect();
        prop_assert_eq!(&Buddy::new(FIRST, to(FIRST + size), &used).unwrap(), &buddy);
        for extent in used {
            prop_assert!(buddy.give(extent));
        }
        prop_assert_eq!(buddy, of(size));
    }
}

#[test]
fn merging_respects_the_first_page() {
    // Page 4096 + 64 is no multiple of 128: its buddy of order 6 lies in front of it.
    let mut buddy = Buddy::new(FIRST + 64, to(FIRST + 128), &[]).unwrap();
    assert_eq!(buddy.best(6), Some(FIRST + 64));
    assert_eq!(buddy.best(7), None);
    let block = Extent { first: FIRST + 64, pages: 64 };
    assert!(buddy.take(block) && buddy.give(block));
    assert_eq!(buddy.free[6].len(), 1);
    assert_eq!(buddy.free[7].len(), 0);
    assert!(!buddy.give(Extent { first: FIRST, pages: 64 }), "pages in front of the first");
}

#[test]
fn page_counts_are_64_bit() {
    let size = 1 << 40;
    let mut buddy = of(size);
    assert_eq!(buddy.available(0), size);
    assert_eq!(buddy.runs(18).iter().map(|run| run.pages).max(), Some(size - (1 << 18)));
    let last = Extent { first: FIRST + size - 1, pages: 1 };
    assert!(buddy.take(last) && !buddy.take(last));
    assert_eq!(buddy.available(0), size - 1);
}

#[test]
fn the_bitmap_covers_the_whole_range() {
    for size in [1, 63, 64, 65, 511, 512, 513] {
        let mut buddy = of(size);
        for page in 0..size {
            assert!(buddy.take(Extent { first: FIRST + page, pages: 1 }), "page {page} of {size}");
        }
        assert_eq!(buddy.best(0), None);
        assert!(!buddy.give(Extent { first: FIRST + size, pages: 1 }), "a page behind the last");
    }
}

#[test]
fn pages_in_use_twice_are_told() {
    let used = [Extent { first: FIRST + 3, pages: 5 }, Extent { first: FIRST + 7, pages: 1 }];
    assert_eq!(Buddy::new(FIRST, to(FIRST + 64), &used), Err(FIRST + 7));
}

#[test]
fn alignment_counts_from_the_base() {
    // Page 4096 is page 4096 + 509 of the file: the first multiple of 512 of the file is page 4099.
    let bounds = Bounds { end: FIRST + 1030, base: 509 };
    let mut buddy = Buddy::new(FIRST, bounds, &[Extent { first: FIRST + 1, pages: 1 }]).unwrap();
    assert_eq!((buddy.lowest(9), buddy.best(9)), (Some(FIRST + 3), Some(FIRST + 3)));
    assert_eq!(buddy.lowest(0), Some(FIRST));
    assert_eq!(buddy.available(9), 1024);
    assert_eq!(buddy.runs(9), [Extent { first: FIRST + 3, pages: 1024 }]);
    assert_eq!((buddy.run(FIRST + 2, 2000), buddy.run(FIRST + 1, 9)), (1028, 0));
    assert!(buddy.is_taken(Extent { first: FIRST + 1, pages: 1 }));
    assert!(!buddy.is_taken(Extent { first: FIRST + 2, pages: 1 }));
    let whole = Extent { first: FIRST + 3, pages: 1024 };
    let before = buddy.clone();
    assert!(buddy.take(whole) && !buddy.take(whole));
    assert_eq!(buddy.available(9), 0);
    assert!(buddy.give(whole) && !buddy.give(whole));
    assert_eq!(buddy, before);
    assert!(!buddy.give(Extent { first: FIRST + 1030, pages: 1 }), "behind the end");
    let twice = [Extent { first: FIRST + 7, pages: 2 }, Extent { first: FIRST + 8, pages: 1 }];
    assert_eq!(Buddy::new(FIRST, bounds, &twice), Err(FIRST + 8));
}
