//! Repairs: what becomes of each kind of damage, and of a repair that is cut off.

use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::btt::check::repair::{Plan, RepairOptions};
use crate::btt::map::Mapped;
use crate::pmem::simulated::{Effort, Random, Recorder, Unfenced};

const LANES: u32 = 4;
const SECTORS: u32 = 60;

/// A BTT of few blocks, of which every lane and some sectors were written to.
///
/// Sectors 0 to 3 are where lanes 0 to 3 wrote them; 4 has data in its own block, 5 is zero, 6 is lost.
fn small() -> Image {
    let geometry = Geometry {
        lba_size: LbaSize::new(4096).unwrap(),
        internal_lbasize: 4096,
        external_nlba: SECTORS,
        internal_nlba: SECTORS + LANES,
        nfree: LANES,
        nextoff: 0,
        dataoff: PAGE,
        mapoff: PAGE * 65,
        logoff: PAGE * 66,
        info2off: SIZE - 2 * PAGE,
    };
    let info = InfoBlock {
        uuid: Uuid::from_u128(1),
        parent_uuid: Uuid::from_u128(2),
        error: false,
        version: Version::V1_1,
        geometry,
    };
    let medium = Simulated::new(SIZE);
    for offset in [PAGE, PAGE + geometry.info2off] {
        medium.write_bytes(offset, &info.encode()).unwrap();
    }
    let image = Image { medium: Arc::new(medium), start: PAGE, geometry };
    for block in 0..geometry.internal_nlba {
        let offset = image.start + geometry.block_offset(Block(block));
        image.medium.write_bytes(offset, &[block as u8 + 1; 4096]).unwrap();
    }
    for lane in 0..LANES {
        let free = SECTORS + lane;
        image.set_entry(lane, 0, [lane, free, free, 1]);
        image.wrote(lane, lane);
    }
    image.set_map(4, MapEntry::data(Block(4)));
    image.set_map(5, MapEntry::zero(Block(5)));
    image.set_map(6, MapEntry::error(Block(6)));
    assert_clean(&image.check());
    image
}

/// The same, its flog in the old layout.
fn small_and_old() -> Image {
    let image = small();
    for lane in 0..LANES {
        image.set_entry(lane, 1, [0; 4]);
        image.set_entry(lane, 2, [lane, lane, SECTORS + lane, 2]);
    }
    assert_clean(&image.check());
    image
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct How {
    force: bool,
    rewrite_log: bool,
}

const CAREFULLY: How = How { force: false, rewrite_log: false };
const BY_FORCE: How = How { force: true, rewrite_log: false };

fn plan<M: PersistentMemory>(medium: &M, how: How) -> Plan {
    let How { force, rewrite_log } = how;
    let check = CheckOptions { namespace: Some(Uuid::from_u128(2)), ..CheckOptions::default() };
    Plan::make(medium, &RepairOptions { check, force, rewrite_log }, &mut |_, _| {})
}

/// What a sector holds: the byte that fills it, or that it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Byte(u8),
    Nothing,
}

/// What the map says that each sector holds.
fn sectors(image: &Image) -> Vec<Holds> {
    let exists = |block: Block| block.0 < image.geometry.internal_nlba;
    let holds = |lba: u32| match image.map(lba).mapped() {
        Mapped::NeverWritten => Holds::Byte(0),
        Mapped::Zero(block) if exists(block) => Holds::Byte(0),
        Mapped::Data(block) if exists(block) => {
            let mut byte = [0];
            let offset = image.start + image.geometry.block_offset(block);
            image.medium.read_bytes(offset, &mut byte).unwrap();
            Holds::Byte(byte[0])
        }
        Mapped::Zero(_) | Mapped::Data(_) | Mapped::Error(_) => Holds::Nothing,
    };
    (0..SECTORS).map(holds).collect()
}

/// Some damage, and what becomes of it.
struct Damage {
    name: &'static str,
    /// Done to the image.
    damage: fn(&Image),
    /// What a repair comes to, carefully and by force.
    verdicts: [Verdict; 2],
    /// The sectors that are lost by force, or found.
    changed: &'static [u32],
}

const CLEAN: [Verdict; 2] = [Verdict::Clean, Verdict::Clean];
const FORCED: [Verdict; 2] = [Verdict::Problems, Verdict::Clean];

fn all_damage() -> Vec<Damage> {
    let damage = |name, verdicts, changed, damage| Damage { name, damage, verdicts, changed };
    let beyond = MapEntry::data(Block(SECTORS + LANES));
    assert!(beyond.block(Lba(0)).0 == SECTORS + LANES);
    vec![
        damage("nothing", CLEAN, &[], |_| {}),
        damage("no primary", CLEAN, &[], |image| {
            image.medium.zero(image.primary_offset(), PAGE).unwrap();
        }),
        damage("no backup", CLEAN, &[], |image| {
            image.medium.zero(image.backup_offset(), PAGE).unwrap();
        }),
        damage("ERROR in the backup alone", CLEAN, &[], |image| {
            image.change_info(image.backup_offset(), |info| info.error = true);
        }),
        damage("ERROR", CLEAN, &[], |image| image.change_infos(|info| info.error = true)),
        damage("another parent", FORCED, &[], |image| {
            image.change_infos(|info| info.parent_uuid = Uuid::from_u128(9));
        }),
        damage("a pending write", CLEAN, &[], |image| image.set_map(2, MapEntry(0))),
        damage("pending writes one behind another", CLEAN, &[], |image| {
            image.set_map(0, MapEntry(0));
            image.set_entry(1, 0, [0, 60, 61, 3]);
            image.set_entry(1, 1, [1, 1, 61, 2]);
            image.set_map(1, MapEntry(0));
        }),
        damage("two pending for a sector", FORCED, &[], |image| {
            image.set_map(0, MapEntry(0));
            image.set_map(1, MapEntry(0));
            image.set_entry(1, 1, [0, 0, 61, 2]);
        }),
        damage("writes that chase each other", FORCED, &[0], |image| {
            image.set_entry(1, 0, [0, 60, 0, 3]);
            image.set_entry(1, 1, [1, 1, 61, 2]);
            image.set_map(0, MapEntry::data(Block(60)));
        }),
        damage("an entry beyond the last block", CLEAN, &[], |image| {
            image.set_map(9, MapEntry::data(Block(SECTORS + LANES)));
        }),
        damage("two entries beyond the last block", FORCED, &[9, 10], |image| {
            image.set_map(9, MapEntry::data(Block(SECTORS + LANES)));
            image.set_map(10, MapEntry::data(Block(0x3fff_ffff)));
        }),
        damage("a block of two sectors", FORCED, &[4, 9], |image| {
            image.set_map(9, MapEntry::data(Block(4)));
        }),
        damage("a block of four sectors", FORCED, &[4, 9, 10, 11], |image| {
            (9..12).for_each(|lba| image.set_map(lba, MapEntry::data(Block(4))));
        }),
        damage("two sectors that have each other's block", CLEAN, &[], |image| {
            image.set_map(9, MapEntry::data(Block(10)));
            image.set_map(10, MapEntry::data(Block(9)));
        }),
        damage("a block of a sector and a lane", FORCED, &[9], |image| {
            image.set_map(9, MapEntry::data(Block(2)));
        }),
        damage("a block of two lanes", CLEAN, &[], |image| {
            image.set_entry(3, 1, [3, 2, 63, 2]);
        }),
        damage("an illegal pair", CLEAN, &[], |image| image.set_entry(2, 0, [2, 62, 62, 2])),
        damage("a flog of zeroes", CLEAN, &[], |image| {
            image.medium.zero(image.lane_offset(0), 256).unwrap();
        }),
        damage("an illegal pair and an entry beyond", FORCED, &[9], |image| {
            image.set_entry(2, 0, [2, 62, 62, 2]);
            image.set_map(9, MapEntry::data(Block(SECTORS + LANES)));
        }),
        damage("everything at once", FORCED, &[4, 9, 10, 11], |image| {
            image.medium.zero(image.primary_offset(), PAGE).unwrap();
            image.set_map(2, MapEntry(0));
            image.set_entry(3, 0, [2, 62, 62, 2]);
            image.set_entry(1, 3, [1, 1, 1, 1]);
            image.set_map(4, MapEntry::data(Block(SECTORS + LANES)));
            image.set_map(9, MapEntry::data(Block(10)));
            image.set_map(11, MapEntry::zero(Block(1)));
        }),
        damage("a lane that names no sector", CLEAN, &[], |image| {
            image.set_entry(2, 1, [SECTORS, 2, 62, 2]);
        }),
        damage("a lane that names no block", CLEAN, &[], |image| {
            image.set_entry(2, 1, [2, SECTORS + LANES, 62, 2]);
        }),
        damage("a damaged lane with a sector's block", CLEAN, &[], |image| {
            image.set_entry(2, 1, [SECTORS, 4, 62, 2]);
        }),
        damage("a lane that replaces a block by itself", CLEAN, &[], |image| {
            image.set_entry(2, 0, [2, 2, 2, 3]);
        }),
        damage("an entry in the fourth place", CLEAN, &[], |image| {
            image.set_entry(1, 3, [7, 7, 7, 1]);
        }),
        damage("half an entry of noise", CLEAN, &[], |image| {
            image.set_entry(1, 0, [7, 7, 7, 1]);
            image.set_entry(1, 0, [0, 61, 61, 1]);
            image.set_entry(1, 2, [7, 7, 7, 0]);
        }),
        damage("a lane in the old layout", CLEAN, &[], |image| {
            image.set_entry(3, 1, [0; 4]);
            image.set_entry(3, 2, [3, 3, 63, 2]);
        }),
        damage("E in an old_map", CLEAN, &[], |image| {
            image.set_entry(3, 1, [3, MapEntry::error(Block(3)).0, 63, 2]);
        }),
        damage("a block without flags", CLEAN, &[], |image| image.set_map(9, MapEntry(33))),
    ]
}

#[test]
fn every_damage_comes_to_the_end_it_should() {
    for Damage { name, damage, verdicts, changed } in all_damage() {
        for (how, verdict) in [CAREFULLY, BY_FORCE].into_iter().zip(verdicts) {
            let image = small();
            damage(&image);
            let before = image.medium.snapshot();
            let plan = plan(&image.shared(true), how);
            assert_eq!(plan.verdict(), verdict, "{name} {how:?} {:#?}", lines(&plan.after));
            let shown: Vec<String> = plan.repairs.iter().map(ToString::to_string).collect();
            assert_eq!(shown.is_empty(), before == after(&image, &plan).medium.snapshot());

            let repaired = after(&image, &plan);
            let report = repaired.check_with(&CheckOptions {
                namespace: Some(Uuid::from_u128(2)),
                most_findings: 1 << 17,
                ..CheckOptions::default()
            });
            assert_eq!(faults(&report), faults(&plan.after), "{name}: as was planned");
            if verdict == Verdict::Clean {
                repaired.open();
            }
            check_sectors(name, how, &image, &repaired, changed);

            // What was saved puts everything back.
            let saved = plan.save(&*image.medium);
            for saved in &saved {
                repaired.medium.write_bytes(saved.offset, &saved.bytes).unwrap();
            }
            assert!(repaired.medium.snapshot() == before, "{name}");
        }
    }
}

/// The image after its repair.
fn after(image: &Image, plan: &Plan) -> Image {
    let copy = image.copy();
    plan.carry_out(&*copy.medium, &mut |_, _| {}).unwrap();
    copy
}

/// A careful repair takes nothing away that could be read; by force, only what was in doubt.
fn check_sectors(name: &str, how: How, image: &Image, repaired: &Image, changed: &[u32]) {
    let replayed = image.check();
    let pending: HashSet<u32> = replayed.pending.iter().map(|write| write.lba.0).collect();
    let pairs = (0..).zip(sectors(image).into_iter().zip(sectors(repaired)));
    for (lba, (before, after)) in pairs.filter(|(lba, _)| !pending.contains(lba)) {
        match (before, how.force && changed.contains(&lba)) {
            (_, true) => assert_eq!(after, Holds::Nothing, "{name}: sector {lba}"),
            (Holds::Byte(_), false) => assert_eq!(after, before, "{name}: sector {lba}"),
            (Holds::Nothing, false) => {}
        }
    }
}

#[test]
fn the_only_sector_without_a_block_gets_its_data_back_by_force_alone() {
    let image = small();
    image.set_map(4, MapEntry::data(Block(1000)));
    for (how, entry) in
        [(CAREFULLY, MapEntry::error(Block(4))), (BY_FORCE, MapEntry::data(Block(4)))]
    {
        assert_eq!(after(&image, &plan(&*image.medium, how)).map(4), entry);
    }
    // Where the flags are gone too, it may have been zeroes.
    image.set_map(4, MapEntry::zero(Block(1000)));
    assert_eq!(after(&image, &plan(&*image.medium, BY_FORCE)).map(4), MapEntry::error(Block(4)));
}

#[test]
fn an_arena_that_is_read_only_after_an_error_is_left_alone() {
    let image = small();
    image.change_infos(|info| info.error = true);
    image.set_map(2, MapEntry(0));
    image.set_entry(3, 0, [3, 63, 63, 2]);
    assert_eq!(plan(&*image.medium, CAREFULLY).repairs, []);
    let repaired = after(&image, &plan(&*image.medium, BY_FORCE));
    assert!(!repaired.info().error);
    assert_eq!(repaired.map(2), MapEntry::data(Block(62)));
    assert_clean(&repaired.check());
}

#[test]
fn metadata_that_cannot_be_read_stay_as_they_are() {
    let image = small();
    image.medium.poison(image.map_offset(0)..image.map_offset(1));
    image.set_entry(3, 0, [3, 63, 63, 2]);
    for how in [CAREFULLY, BY_FORCE] {
        let plan = plan(&*image.medium, how);
        assert_eq!(plan.repairs, []);
        assert_eq!(plan.verdict(), Verdict::Problems);
    }
    // An info block is not lost with its place: zeroing clears the poison.
    let image = small();
    image.medium.poison(image.primary_offset()..image.primary_offset() + 64);
    let plan = plan(&*image.medium, CAREFULLY);
    let saved = plan.save(&*image.medium);
    assert_eq!(saved, [], "what cannot be read cannot be saved");
    plan.carry_out(&*image.medium, &mut |_, _| {}).unwrap();
    assert_clean(&image.check());
}

#[test]
fn a_later_arena_without_info_blocks_is_worked_out_if_it_fits() {
    let chain = |arenas: u64| Image::of_arenas(4096, Version::V1_1, arenas * SIZE + PAGE, SIZE);
    for (arenas, lost) in [(2, 1), (3, 1), (3, 2)] {
        let image = chain(arenas);
        let start = image.start + lost * SIZE;
        let mut info = [0; 4096];
        image.medium.read_bytes(start, &mut info).unwrap();
        let geometry = InfoBlock::decode(&info).unwrap().geometry;
        image.medium.zero(start, PAGE).unwrap();
        image.medium.zero(start + geometry.info2off, PAGE).unwrap();
        assert_eq!(plan(&*image.medium, CAREFULLY).verdict(), Verdict::Problems);
        let forced = plan(&*image.medium, BY_FORCE);
        assert_eq!(forced.verdict(), Verdict::Clean, "{:#?}", lines(&forced.after));
        let repaired = after(&image, &forced);
        assert!(repaired.medium.snapshot() == chain(arenas).medium.snapshot());

        // Somebody else's bytes where its flog would be.
        let flog = start + geometry.logoff;
        image.medium.write_bytes(flog, &[0x55; 4096]).unwrap();
        let forced = plan(&*image.medium, BY_FORCE);
        assert_eq!((forced.repairs.len(), forced.verdict()), (0, Verdict::Problems));
    }
}

#[test]
fn the_flog_is_rewritten_in_the_standard_layout() {
    for image in [small(), small_and_old()] {
        image.set_map(3, MapEntry(0));
        image.set_entry(1, 0, [1, MapEntry::error(Block(1)).0, 61, 3]);
        let how = How { force: false, rewrite_log: true };
        let contents = sectors(&image);
        let repaired = after(&image, &plan(&*image.medium, how));
        let report = repaired.check();
        assert_clean(&report);
        let arena = report.arenas[0];
        assert_eq!(arena.layout, crate::btt::flog::LogLayout::Standard);
        assert_eq!(arena.lanes, LaneCounts { pristine: LANES, ..LaneCounts::default() });
        let mut replayed = contents;
        replayed[3] = Holds::Byte(64);
        assert_eq!(sectors(&repaired), replayed);
        // The block that could not be read is still known as such.
        let word = repaired.medium.load_u32(repaired.lane_offset(1) + 4).unwrap();
        assert_eq!(word, MapEntry::error(Block(1)).0);
        assert_eq!(plan(&*repaired.medium, how).repairs, []);
    }
}

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
    for event in recorder.take_trace() {
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
fn a_repair_that_is_cut_off_is_taken_up_by_the_next_one() {
    let mut images = 0;
    for Damage { name, damage, .. } in all_damage() {
        for how in [CAREFULLY, BY_FORCE] {
            let image = small();
            damage(&image);
            images += cut_off_everywhere(name, &image, how);
        }
    }
    for image in [small(), small_and_old()] {
        image.set_map(3, MapEntry(0));
        images += cut_off_everywhere("rewrite", &image, How { force: false, rewrite_log: true });
    }
    assert!(images > 3000, "{images}");
}

#[test]
fn a_rebuilt_arena_is_taken_up_too() {
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
fn random_damage_is_repaired_once_and_for_all() {
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
