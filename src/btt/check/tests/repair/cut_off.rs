//! Repairs that are cut off, at every point of every one.

use std::collections::BTreeMap;

use super::*;
use crate::pmem::simulated::{Effort, Event, Random, Recorder, Unfenced};

/// Cuts the repair off after each event, tries what may be left then, and repairs again.
fn cut_off_everywhere(name: &str, image: &Image, how: How) -> usize {
    let base = image.medium.snapshot();
    let plan_all = plan(&*image.medium, how);
    let recorder = Recorder::new(Simulated::of(base.clone()));
    plan_all.carry_out(&recorder, &mut |_, _| {}).unwrap();
    let end = recorder.medium().snapshot();
    let of = |contents: &Contents| Image {
        medium: Arc::new(Simulated::of(contents.clone())),
        ..image.clone()
    };
    let (before, last) = (sectors(image), sectors(&of(&end)));
    let (mut unfenced, mut durable) = (Unfenced::default(), base.clone());
    let mut random = Random::new(1);
    let effort = Effort { most: 400, random: 4, lines: 4 };
    let mut seen = HashSet::new();
    for event in trace_mutants::carried_out(recorder.take_trace()) {
        event.replay(&mut unfenced, &mut durable);
        unfenced.images(&durable, &effort, &mut random, &mut |left| {
            if !seen.insert(left.fingerprint(&base)) {
                return;
            }
            let left = of(&left);
            for (lba, holds) in (0..).zip(sectors(&left)) {
                let states: BTreeMap<&str, Holds> =
                    [("before", before[lba]), ("after", last[lba])].into();
                // One that is given up in the end may be so already, or have its pending write before.
                let is_given_up = how.force && [holds, last[lba]].contains(&Holds::Nothing);
                assert!(
                    is_given_up || states.values().any(|state| *state == holds),
                    "{name} {how:?}: sector {lba} holds {holds:?} when cut off, {states:?}"
                );
            }
            let again = after(&left, &plan(&*left.medium, how));
            let again = again.medium.snapshot();
            assert!(again == end, "{name} {how:?}: the second repair comes to another end");
        });
    }
    seen.len()
}

#[test]
pub(super) fn a_repair_that_is_cut_off_is_taken_up_by_the_next_one() {
    let mut images = 0;
    for Damage { name, inflict, .. } in damages::all() {
        for how in [CAREFULLY, BY_FORCE] {
            let image = small();
            inflict(&image);
            images += cut_off_everywhere(name, &image, how);
        }
    }
    for image in [small(), small_and_old()] {
        image.set_map(3, MapEntry(0));
        images += cut_off_everywhere("rewrite", &image, How { force: false, rewrite_log: true });
    }
    assert!(images > 3000, "{images}");
}

/// The poison is there until the page is zeroed, all of it; what is left of the page besides is anything.
#[test]
pub(super) fn a_page_of_lanes_that_is_cleared_may_be_cut_off() {
    for (image, seed) in [small(), small_and_old()].into_iter().zip(1..) {
        image.set_map(3, MapEntry(0));
        let base = image.medium.snapshot();
        let poison = image.lane_offset(1)..image.lane_offset(2);
        let poisoned = |contents: Contents, is_clear: bool| {
            let medium = Arc::new(Simulated::of(contents));
            if !is_clear {
                medium.poison(poison.clone());
            }
            Image { medium, ..image.clone() }
        };
        let recorder = Recorder::new(Simulated::of(base.clone()));
        recorder.medium().poison(poison.clone());
        let plan_all = plan(&*poisoned(base.clone(), false).medium, CAREFULLY);
        plan_all.carry_out(&recorder, &mut |_, _| {}).unwrap();
        let (end, trace) =
            (recorder.medium().snapshot(), trace_mutants::carried_out(recorder.take_trace()));
        let (mut unfenced, mut durable) = (Unfenced::default(), base.clone());
        let (mut random, mut is_clear) = (Random::new(seed), false);
        let effort = Effort { most: 100, random: 60, lines: 4 };
        let mut seen = HashSet::new();
        for event in trace {
            event.replay(&mut unfenced, &mut durable);
            is_clear |= matches!(event, Event::ZeroEnds { .. });
            unfenced.images(&durable, &effort, &mut random, &mut |left| {
                if !seen.insert((left.fingerprint(&base), is_clear)) {
                    return;
                }
                let left = poisoned(left, is_clear);
                let again = plan(&*left.medium, CAREFULLY);
                again.carry_out(&*left.medium, &mut |_, _| {}).unwrap();
                assert!(left.medium.snapshot() == end, "after {event:?}");
            });
        }
    }
}

#[test]
pub(super) fn a_rebuilt_arena_is_taken_up_too() {
    let image = Image::of_arenas(4096, Version::V1_1, 2 * SIZE + PAGE, SIZE);
    let start = image.start + SIZE;
    let mut info = [0; 4096];
    image.medium.read_bytes(start, &mut info).unwrap();
    let geometry = InfoBlock::decode(&info).unwrap().geometry;
    let noise: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    for offset in [start, start + geometry.info2off] {
        image.medium.write_bytes(offset, &noise).unwrap();
    }
    let report = check(&*image.medium, &CheckOptions::default(), &mut |_, _| {});
    assert_eq!(report.findings.count(Kind::InfoLost), 1);
    // A copy that is torn is worked out again; one that is whole is copied.
    cut_off_everywhere("rebuilt", &image, BY_FORCE);
    assert_clean(&after(&image, &plan(&*image.medium, BY_FORCE)).check());
}

/// One in so many random repairs is cut off everywhere.
const CUT_OFF: u64 = 4;

/// Whatever the damage: a repair comes to an end, and leaves nothing for the next; what could be read
/// can be read, unless it was given up by force; and what is clean can be opened.
#[test]
pub(super) fn random_damage_is_repaired_once_and_for_all() {
    let original = small();
    let (mut clean, mut left) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let image = original.copy();
        for _ in 0..random.within(1..6) {
            let flog = image.lane_offset(0);
            let (start, length) = match random.within(0..8) {
                0 => (image.primary_offset(), 128),
                1 => (image.backup_offset(), 128),
                2..5 => (flog, u64::from(LANES) * 64),
                _ => (image.map_offset(0), u64::from(SECTORS) * 4),
            };
            let offset = start + random.within(0..length / 4) * 4;
            let word = image.medium.load_u32(offset).unwrap();
            let value = match random.within(0..4) {
                0 => 0,
                1 => word ^ 1 << random.within(0..32),
                2 => word ^ random.within(0..4) as u32,
                _ => random.any() as u32,
            };
            image.medium.store_u32(offset, value).unwrap();
        }
        for how in [CAREFULLY, BY_FORCE] {
            let plan_all = plan(&*image.medium, how);
            let repaired = after(&image, &plan_all);
            let again = plan(&*repaired.medium, how);
            assert_eq!(again.repairs, [], "seed {seed} {how:?}");
            assert_eq!(again.verdict(), plan_all.verdict());
            if plan_all.verdict() == Verdict::Clean {
                clean += 1;
                repaired.open();
            } else {
                left += 1;
            }
            if how == CAREFULLY {
                check_sectors("random", how, &image, &repaired, &[]);
            }
            if seed % CUT_OFF == 0 {
                cut_off_everywhere(&format!("random damage {seed}"), &image, how);
            }
        }
    }
    assert!(clean > 300 && left > 20, "{clean} {left}");
}
