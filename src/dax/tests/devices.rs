use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::dax::format::layout::{EXTENTS, INLINE_EXTENTS};

/// A region of which every other page of the first `2 * holes` is free, as devices see it, and all
/// behind.
fn fragmented(holes: u64, behind: u64) -> Region<Arc<Simulated>> {
    let region = region(2 * holes + behind);
    for hole in 0..holes {
        region.create_device(&device(&format!("{hole}.free"), 1)).unwrap();
        region.create_device(&device(&format!("{hole}.used"), 1)).unwrap();
    }
    for hole in 0..holes {
        region.destroy_device(&format!("{hole}.free")).unwrap();
    }
    region
}

#[test]
fn a_device_is_there_again_with_all_that_it_was() {
    let region = region(64);
    region.create_device(&device("one", 3)).unwrap();
    region.create_device(&device("seed", 0)).unwrap();
    let two = DeviceOptions { align: Some(Align::Page), contiguous: true, ..device("zwöi", 7) };
    region.create_device(&two).unwrap();
    assert_eq!(everything(&region), everything(&reopened(&region)));
    let info = reopened(&region).device("zwöi").unwrap();
    assert_eq!((info.size, info.uuid, &info.label), (7 * PAGE, two.uuid, &two.label));
    assert!(info.contiguous && !info.held);
    assert_eq!(reopened(&region).device_of(two.uuid), Some(two.name));
    region.rename_device("one", "eins").unwrap();
    region.destroy_device("zwöi").unwrap();
    let region = reopened(&region);
    let names: Vec<String> = region.devices().into_iter().map(|device| device.name).collect();
    assert_eq!(names, ["eins", "seed"]);
}

#[test]
fn growth_beyond_what_is_available_is_no_space_and_changes_nothing() {
    let region = region(10);
    region.create_device(&device("a", 3)).unwrap();
    let before = everything(&region);
    let full = Error::NoSpace { needed: 8 * PAGE, available: 7 * PAGE, largest: 7 * PAGE };
    assert_eq!(region.resize_device("a", 11 * PAGE), Err(full.clone()));
    assert_eq!(region.create_device(&device("b", 8)), Err(full));
    assert_eq!(before, everything(&region));
    assert_eq!(before, everything(&reopened(&region)));
    region.resize_device("a", 10 * PAGE).unwrap();
}

#[test]
fn growing_in_an_empty_region_works() {
    let region = region(10);
    region.create_device(&device("seed", 0)).unwrap();
    assert_eq!(region.device("seed").unwrap().size, 0);
    region.resize_device("seed", 4 * PAGE).unwrap();
    assert_eq!(extents(&region, "seed"), [(2, 4)]);
    assert_eq!(extents(&reopened(&region), "seed"), [(2, 4)]);
}

#[test]
fn a_size_that_is_no_multiple_of_the_alignment_is_misaligned() {
    let region = region(1024);
    let huge = DeviceOptions { align: Some(Align::Huge), ..device("huge", 1) };
    let misaligned = Error::Misaligned { size: PAGE, align: 2 * MIB };
    assert_eq!(region.create_device(&huge), Err(misaligned));
    region.create_device(&device("page", 1)).unwrap();
    let misaligned = Error::Misaligned { size: 100, align: PAGE };
    assert_eq!(region.resize_device("page", 100), Err(misaligned));
}

#[test]
fn device_offsets_keep_the_alignment_of_the_device() {
    let region = region(4 * 512 - 2);
    region.create_device(&device("small", 1)).unwrap();
    let huge = DeviceOptions { align: Some(Align::Huge), ..device("huge", 512) };
    region.create_device(&huge).unwrap();
    region.create_device(&device("between", 512 + 5)).unwrap();
    region.resize_device("huge", 2 * 512 * PAGE).unwrap();
    let huge = region.device("huge").unwrap();
    let mut offset = 0;
    for extent in huge.extents {
        assert!(extent.start.is_multiple_of(2 * MIB), "{extent:?}");
        assert_eq!(region.resolve("huge", offset).unwrap(), extent);
        offset += extent.end - extent.start;
        assert!(offset.is_multiple_of(2 * MIB));
    }
}

#[test]
fn growth_prefers_extending_the_last_extent_and_then_the_lowest_address() {
    let region = region(20);
    for (name, pages) in [("low", 3), ("a", 2), ("gap", 2), ("b", 1)] {
        region.create_device(&device(name, pages)).unwrap();
    }
    region.destroy_device("low").unwrap();
    region.destroy_device("gap").unwrap();
    // Behind the last extent are pages 7 and 8; then come 2, 3 and 4; then those behind b.
    region.resize_device("a", 3 * PAGE).unwrap();
    assert_eq!(extents(&region, "a"), [(5, 3)]);
    region.resize_device("a", 8 * PAGE).unwrap();
    assert_eq!(extents(&region, "a"), [(5, 4), (2, 3), (10, 1)]);
    assert_eq!(everything(&region), everything(&reopened(&region)));
}

/// Behind the last extent are more free pages than whole units of the device.
#[test]
pub(super) fn growth_behind_the_last_extent_takes_whole_units_only() {
    let unit = 512;
    let region = region(5 * unit);
    let huge = DeviceOptions { align: Some(Align::Huge), ..device("huge", unit) };
    region.create_device(&huge).unwrap();
    let (first, _) = extents(&region, "huge")[0];
    assert_eq!(first, unit);
    // Free are one unit and 88 pages behind it, and then one more unit.
    region.create_device(&device("low", unit - 2)).unwrap();
    region.create_device(&device("gap", unit + 88)).unwrap();
    region.create_device(&device("used", 1)).unwrap();
    assert_eq!(extents(&region, "gap"), [(2 * unit, unit + 88)]);
    region.destroy_device("gap").unwrap();
    region.resize_device("huge", 3 * unit * PAGE).unwrap();
    assert_eq!(extents(&region, "huge"), [(unit, 2 * unit), (4 * unit, unit)]);
    assert_eq!(everything(&region), everything(&reopened(&region)));
}

#[test]
pub(super) fn growth_takes_few_large_extents_where_small_ones_need_a_metadata_page_that_is_not_there()
 {
    let region = fragmented(4, 20);
    region.create_device(&device("d", 1)).unwrap();
    region.change().unwrap().pool.clear();
    let hold_up = region.info().free;
    region.resize_device("d", 7 * PAGE).unwrap();
    assert_eq!(extents(&region, "d"), [(2, 1), (10, 6)]);
    assert_eq!(region.info().free, hold_up - 6 * PAGE);
    // Behind the last extent there is more, and then there is nothing without a page.
    region.resize_device("d", 21 * PAGE).unwrap();
    assert_eq!(extents(&region, "d"), [(2, 1), (10, 20)]);
    let before = everything(&region);
    let full = Err(Error::NoRoomFor(Space::Metadata));
    assert_eq!(region.resize_device("d", 22 * PAGE), full);
    assert_eq!(before, everything(&region));
    assert_eq!(region.devices(), reopened(&region).devices());
    assert!(check::check(region.medium()).is_clean());
}

#[test]
fn a_new_device_is_made_of_few_large_extents_if_there_is_one_metadata_page_left() {
    let region = fragmented(64, 20);
    {
        let mut state = region.change().unwrap();
        let last = *state.pool.first().unwrap();
        state.pool.retain(|page| *page == last);
    }
    region.create_device(&device("d", 22)).unwrap();
    // The page that is left is the one for extents: the slot has two.
    assert_eq!(extents(&region, "d").len(), 22);
    region.create_device(&device("e", 21)).unwrap();
    assert_eq!(extents(&region, "e"), [(130, 20), (46, 1)]);
    assert_eq!(region.devices(), reopened(&region).devices());
}

#[test]
fn shrinking_frees_from_the_highest_device_offset() {
    let region = region(20);
    for (name, pages) in [("low", 3), ("a", 2), ("b", 1)] {
        region.create_device(&device(name, pages)).unwrap();
    }
    region.destroy_device("low").unwrap();
    region.resize_device("a", 4 * PAGE).unwrap();
    assert_eq!(extents(&region, "a"), [(5, 2), (2, 2)]);
    region.resize_device("a", 3 * PAGE).unwrap();
    assert_eq!(extents(&region, "a"), [(5, 2), (2, 1)]);
    region.resize_device("a", PAGE).unwrap();
    assert_eq!(extents(&region, "a"), [(5, 1)]);
    assert_eq!(everything(&region), everything(&reopened(&region)));
}

#[test]
fn a_device_has_as_many_extents_as_it_takes_in_one_transaction_of_few_stores() {
    let holes = (INLINE_EXTENTS + 2 * EXTENTS + 9) as u64;
    let region = fragmented(holes, 4);
    region.create_device(&device("d", holes)).unwrap();
    assert_eq!(extents(&region, "d").len() as u64, holes);
    assert_eq!(everything(&region), everything(&reopened(&region)));
    let all = region.info().free_metadata_pages;
    let sizes = [holes - 1, holes + 3, 700, 701, 510, 511, 3, 2, 1, 2, 3, holes, 0, holes];
    for size in sizes {
        region.resize_device("d", size * PAGE).unwrap();
        assert_eq!(region.device("d").unwrap().size, size * PAGE);
        assert_eq!(everything(&region), everything(&reopened(&region)), "size {size}");
    }
    assert_eq!(region.info().free_metadata_pages, all);
    region.destroy_device("d").unwrap();
    assert_eq!(region.info().free_metadata_pages, all + 3);
    assert_eq!(everything(&region), everything(&reopened(&region)));
}

#[test]
fn a_contiguous_device_is_one_extent_or_there_is_no_space() {
    let region = fragmented(5, 4);
    let contiguous = |name, pages| DeviceOptions { contiguous: true, ..device(name, pages) };
    let full = Error::NoSpace { needed: 5 * PAGE, available: 9 * PAGE, largest: 4 * PAGE };
    assert_eq!(region.create_device(&contiguous("c", 5)), Err(full));
    region.create_device(&contiguous("c", 2)).unwrap();
    assert_eq!(extents(&region, "c"), [(12, 2)]);
    region.resize_device("c", 4 * PAGE).unwrap();
    let full = Error::NoSpace { needed: PAGE, available: 5 * PAGE, largest: PAGE };
    assert_eq!(region.resize_device("c", 5 * PAGE), Err(full));
    assert_eq!(everything(&region), everything(&reopened(&region)));
}

#[test]
fn a_held_device_can_grow_and_neither_shrink_nor_go() {
    let region = region(20);
    region.create_device(&device("d", 4)).unwrap();
    let hold = region.hold("d").unwrap();
    assert!(region.device("d").unwrap().held);
    let busy = Err(Error::Busy { name: "d".into() });
    region.resize_device("d", 6 * PAGE).unwrap();
    assert_eq!(region.resize_device("d", 5 * PAGE), busy);
    assert_eq!(region.destroy_device("d"), busy);
    region.rename_device("d", "e").unwrap();
    assert!(region.device("e").unwrap().held);
    drop(hold);
    assert!(!region.device("e").unwrap().held);
    region.resize_device("e", 5 * PAGE).unwrap();
    region.destroy_device("e").unwrap();
}

#[test]
fn a_pending_resize_changes_nothing_until_it_is_committed() {
    let medium = medium(20);
    let region = open(&medium);
    region.create_device(&device("d", 6)).unwrap();
    let start = region.device("d").unwrap().extents[0].start;
    medium.write_bytes(start + 4 * PAGE, b"still there").unwrap();
    let _hold = region.hold("d").unwrap();
    let before = everything(&region);
    let layout = region.lock_layout();
    let pending = layout.begin_resize("d", 4 * PAGE).unwrap();
    assert_eq!(pending.device(), region.device("d").unwrap());
    assert_eq!(pending.doomed(), std::slice::from_ref(&(start + 4 * PAGE..start + 6 * PAGE)));
    drop(pending);
    let pending = layout.begin_resize("d", 4 * PAGE).unwrap();
    // Look-ups do not wait for what the caller does meanwhile.
    assert_eq!(before, everything(&region));
    let mut bytes = [0; 11];
    medium.read_bytes(start + 4 * PAGE, &mut bytes).unwrap();
    assert_eq!(&bytes, b"still there");
    pending.commit().unwrap();
    let info = region.device("d").unwrap();
    assert_eq!((info.size, info.held), (4 * PAGE, true));
    assert_eq!(
        layout.begin_resize("d", 0).unwrap().doomed(),
        std::slice::from_ref(&(start..start + 4 * PAGE))
    );
    assert_eq!(layout.begin_resize("d", 9 * PAGE).unwrap().doomed(), []);
}

#[test]
fn what_a_resize_dooms_is_the_rest_of_an_extent_and_all_that_follow() {
    let region = fragmented(3, 4);
    region.create_device(&device("d", 3)).unwrap();
    region.resize_device("d", 6 * PAGE).unwrap();
    let info = region.device("d").unwrap();
    let layout = region.lock_layout();
    for kept in 0..=6 {
        let pending = layout.begin_resize("d", kept * PAGE).unwrap();
        let pages = |ranges: &[std::ops::Range<u64>]| -> Vec<u64> {
            ranges.iter().flat_map(|range| range.clone().step_by(PAGE as usize)).collect()
        };
        assert_eq!(pages(&pending.doomed()), pages(&info.extents)[kept as usize..]);
    }
}

#[test]
fn no_device_is_held_while_the_layout_is_locked() {
    let region = &region(20);
    region.create_device(&device("d", 6)).unwrap();
    let is_held = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let layout = region.lock_layout();
        let holder = scope.spawn(move || {
            let hold = region.hold("d").unwrap();
            is_held.store(true, Ordering::Release);
            (region.device("d").unwrap().size, hold)
        });
        layout.begin_resize("d", 2 * PAGE).unwrap().commit().unwrap();
        assert!(!is_held.load(Ordering::Acquire));
        drop(layout);
        assert_eq!(holder.join().unwrap().0, 2 * PAGE);
    });
    assert!(is_held.load(Ordering::Acquire));
}

#[test]
fn names_and_uuids_are_checked_and_there_once() {
    let region = region(20);
    region.create_device(&device("d", 1)).unwrap();
    let long = "thirty-three bytes are too many!!".to_owned();
    for name in ["", "a/b", "a\0b", &long] {
        assert_eq!(region.create_device(&device(name, 1)), Err(Error::BadName(name.into())));
        assert_eq!(region.rename_device("d", name), Err(Error::BadName(name.into())));
    }
    assert_eq!(region.create_device(&device("d", 1)), Err(Error::DeviceExists("d".into())));
    let same = DeviceOptions { uuid: uuid_of("d"), ..device("e", 1) };
    assert_eq!(region.create_device(&same), Err(Error::UuidInUse(same.uuid)));
    region.create_device(&device("e", 1)).unwrap();
    assert_eq!(region.rename_device("e", "d"), Err(Error::DeviceExists("d".into())));
    let unknown = Error::UnknownDevice("x".into());
    assert_eq!(region.rename_device("x", "y"), Err(unknown.clone()));
    assert_eq!(region.resize_device("x", 0), Err(unknown.clone()));
    assert_eq!(region.destroy_device("x"), Err(unknown.clone()));
    assert_eq!(region.resolve("x", 0), Err(unknown));
    let behind = Error::BehindEnd { name: "d".into(), offset: PAGE, size: PAGE };
    assert_eq!(region.resolve("d", PAGE), Err(behind));
}

#[test]
fn a_look_up_while_resizing_never_sees_a_half_made_state() {
    let region = &fragmented(8, 0);
    region.create_device(&device("d", 2)).unwrap();
    let [small, large] = [2, 7].map(|pages| {
        region.resize_device("d", pages * PAGE).unwrap();
        region.device("d").unwrap()
    });
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) || seen < 100 {
                let found = region.device("d").unwrap();
                assert!(found == small || found == large, "{found:?}");
                assert_eq!(region.resolve("d", PAGE).unwrap(), small.extents[1]);
                seen += 1;
            }
        });
        for _ in 0..100 {
            for pages in [2, 7] {
                region.resize_device("d", pages * PAGE).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

/// A reader without a claim sees the region before or after each change, and never in between.
#[test]
fn a_region_can_be_looked_at_while_its_holder_changes_it() {
    let medium = medium(24);
    let region = open(&medium);
    let total = region.info().free;
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sizes = (4..12).cycle();
            while !is_done.load(Ordering::Relaxed) {
                let pages = sizes.next().unwrap();
                region.create_device(&device("a", pages / 4)).unwrap();
                region.create_device(&device("b", 2)).unwrap();
                region.resize_device("a", pages * PAGE).unwrap();
                region.rename_device("b", "c").unwrap();
                for name in ["a", "c"] {
                    region.destroy_device(name).unwrap();
                }
                std::thread::yield_now();
            }
        });
        let mut looks = 0;
        let result = loop {
            match Region::look_at(Arc::clone(&medium)) {
                Ok(looked_at) => {
                    let devices = looked_at.devices();
                    let sizes = devices.iter().map(|device| device.size);
                    let sum = sizes.sum::<u64>() + looked_at.info().free;
                    looks += 1;
                    if sum != total || looks == 100 {
                        break Ok(sum);
                    }
                }
                Err(Error::Unsteady) => {}
                Err(error) => break Err(error),
            }
        };
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(result, Ok(total), "look {looks}");
    });
    assert_eq!(Region::look_at(medium).unwrap().info().free, total);
}
