//! Repairs: what becomes of each kind of damage, and of a repair that is cut off.

use std::collections::HashSet;

use super::*;
use crate::btt::check::repair::{Plan, RepairOptions};
use crate::btt::format::map::Mapped;

mod cut_off;
mod damages;
#[cfg(feature = "mutants")]
mod mutants;
#[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "made by the tests of mutants"))]
mod trace_mutants;

use self::damages::Damage;

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

#[test]
fn every_damage_comes_to_the_end_it_should() {
    for Damage { name, inflict, verdicts, changed } in damages::all() {
        for (how, verdict) in [CAREFULLY, BY_FORCE].into_iter().zip(verdicts) {
            let image = small();
            inflict(&image);
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
                let mut after = vec![0; saved.after.len()];
                repaired.medium.read_bytes(saved.offset, &mut after).unwrap();
                assert_eq!(after, saved.after, "{name}");
                let before = saved.before.as_ref().expect("there is no poison");
                repaired.medium.write_bytes(saved.offset, before).unwrap();
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
fn the_error_flag_of_either_info_block_stays() {
    for copy in [Image::primary_offset, Image::backup_offset] {
        let image = small();
        image.change_info(copy(&image), |info| info.error = true);
        let repaired = after(&image, &plan(&*image.medium, CAREFULLY));
        let [primary, backup] = [image.primary_offset(), image.backup_offset()].map(|offset| {
            let mut bytes = [0; 4096];
            repaired.medium.read_bytes(offset, &mut bytes).unwrap();
            InfoBlock::decode(&bytes).unwrap()
        });
        assert!(primary.error && primary == backup);
    }
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
    assert_eq!(saved[0].before, None, "what cannot be read cannot be saved");
    plan.carry_out(&*image.medium, &mut |_, _| {}).unwrap();
    assert_clean(&image.check());
}

#[test]
fn lanes_that_cannot_be_read_come_back_with_the_others_of_their_page() {
    for image in [small(), small_and_old()] {
        let contents = sectors(&image);
        image.set_map(3, MapEntry(0));
        image.medium.poison(image.lane_offset(1)..image.lane_offset(2));
        let plan_all = plan(&*image.medium, CAREFULLY);
        assert_eq!(plan_all.verdict(), Verdict::Clean, "{:#?}", lines(&plan_all.after));
        // The copies of the image know nothing of poison.
        plan_all.carry_out(&*image.medium, &mut |_, _| {}).unwrap();
        assert_clean(&image.check());
        let mut replayed = contents;
        replayed[3] = Holds::Byte(64);
        assert_eq!(sectors(&image), replayed, "what was pending is completed first");
        image.open();
    }
}

#[test]
fn lanes_that_cannot_be_read_stay_so_while_anything_else_is_in_doubt() {
    let in_doubt: [fn(&Image); 3] = [
        |image| image.set_map(4, MapEntry::data(Block(1000))),
        |image| image.set_map(4, MapEntry::data(Block(5))),
        |image| image.medium.poison(image.map_offset(0)..image.map_offset(1)),
    ];
    for inflict in in_doubt {
        let image = small();
        inflict(&image);
        image.medium.poison(image.lane_offset(1)..image.lane_offset(2));
        for how in [CAREFULLY, BY_FORCE] {
            assert_eq!(plan(&*image.medium, how).repairs, []);
        }
    }
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

        // Foreign bytes where its flog would be.
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
        assert_eq!(arena.layout, crate::btt::format::flog::LogLayout::Standard);
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
