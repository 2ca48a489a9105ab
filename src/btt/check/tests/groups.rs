//! Writes that are all or nothing, of which a part is there.

use std::sync::Arc;

use uuid::Uuid;
use vm_memory::VolatileSlice;

use crate::btt::check::repair::{Plan, RepairOptions};
use crate::btt::check::{CheckOptions, Report, Verdict, check};
use crate::btt::{
    Btt, CreateOptions, Geometry, LaneIndex, Lba, LbaSize, OpenOptions, Version, create, find,
};
use crate::pmem::PersistentMemory;
use crate::pmem::simulated::Simulated;

const SIZE: u64 = 16 << 20;
const PAGE: u64 = 4;
const OPEN: OpenOptions =
    OpenOptions { version: None, namespace: None, read_only: false, queues: 2, atomic: 16384 };

/// A medium on which the first page was written, and then again in `rounds`.
fn written(rounds: u8) -> (Simulated, Geometry) {
    let medium = Arc::new(Simulated::new(SIZE));
    let lba_size = LbaSize::new(4096).unwrap();
    let (uuid, parent_uuid) = (Uuid::max(), Uuid::nil());
    let options =
        CreateOptions { lba_size, version: Version::V2_0, uuid, parent_uuid, arena_size: SIZE };
    create(&medium, &options, |_, _| {}).unwrap();
    let (_, mut queues) = Btt::open(medium.clone(), &OPEN).unwrap();
    for round in 1..=rounds {
        let mut data = vec![round; PAGE as usize * 4096];
        let mut batch = queues[0].batch();
        batch.write(0, &VolatileSlice::from(&mut data[..]), 0).unwrap();
        batch.commit();
    }
    let geometry = find(&medium, None).unwrap()[0].info.geometry;
    (Simulated::of(medium.snapshot()), geometry)
}

/// Undoes the map entries of the first write, and forgets the flog entry of the member `missing`.
fn cut_off(medium: &Simulated, geometry: &Geometry, missing: Option<u32>) {
    for lba in 0..PAGE as u32 {
        medium.store_u32(geometry.map_entry_offset(Lba(lba)), 0).unwrap();
    }
    if let Some(missing) = missing {
        let lane = geometry.flog_offset(LaneIndex(2 * missing));
        medium.write_bytes(lane + 16, &[0; 16]).unwrap();
    }
}

fn checked(medium: &Simulated) -> Report {
    let report = check(medium, &CheckOptions::default(), &mut |_, _| {});
    assert_eq!(report.verdict(), Verdict::Clean, "{:?}", report.findings);
    report
}

fn repaired(medium: &Simulated) -> Plan {
    let check = CheckOptions::default();
    let options = RepairOptions { check, force: false, rewrite_log: false };
    let plan = Plan::make(medium, &options, &mut |_, _| {});
    plan.carry_out(medium, &mut |_, _| {}).unwrap();
    plan
}

/// What the first page reads as, to a reader that does not know groups.
fn page(medium: &Simulated) -> Vec<u8> {
    let medium = Simulated::of(medium.snapshot());
    let geometry = find(&medium, None).unwrap()[0].info.geometry;
    medium.write_bytes(geometry.record_offset(0), &[0; 64]).unwrap();
    let (_, mut queues) = Btt::open(medium, &OpenOptions { atomic: 0, ..OPEN }).unwrap();
    let mut data = vec![0xff; PAGE as usize * 4096];
    queues[0].batch().read(0, &VolatileSlice::from(&mut data[..])).unwrap();
    data
}

#[test]
fn a_complete_group_is_pending_and_is_completed() {
    let (medium, geometry) = written(1);
    assert_eq!(checked(&medium).arenas[0].records, 1);
    cut_off(&medium, &geometry, None);
    let report = checked(&medium);
    assert_eq!((report.pending_count(), report.taken_back.len()), (4, 0));
    assert_eq!(repaired(&medium).repairs.len(), 4);
    assert_eq!(page(&medium), [1; PAGE as usize * 4096]);
}

#[test]
fn an_incomplete_group_is_named_and_taken_back() {
    for missing in 0..PAGE as u32 {
        let (medium, geometry) = written(1);
        cut_off(&medium, &geometry, Some(missing));
        let report = checked(&medium);
        assert_eq!((report.pending_count(), report.taken_back.len()), (0, 3));
        let plan = repaired(&medium);
        assert_eq!(plan.repairs.len(), 3);
        assert!(plan.repairs[0].to_string().contains("take back the write of"));
        assert!(checked(&medium).taken_back.is_empty());
        assert_eq!(page(&medium), [0; PAGE as usize * 4096], "without {missing}");
    }
}

#[test]
fn what_the_checker_takes_back_is_what_opening_takes_back() {
    for rounds in 1..=3 {
        let (medium, geometry) = written(rounds);
        if rounds == 1 {
            cut_off(&medium, &geometry, Some(1));
        }
        let plain = page(&medium);
        let (btt, mut queues) = Btt::open(Simulated::of(medium.snapshot()), &OPEN).unwrap();
        let mut data = vec![0xff; PAGE as usize * 4096];
        queues[0].batch().read(0, &VolatileSlice::from(&mut data[..])).unwrap();
        drop(btt);
        repaired(&medium);
        assert_eq!(page(&medium), data);
        assert_eq!(plain == data, rounds > 1, "only a part of it is torn");
    }
}

#[test]
fn a_record_that_contradicts_the_arena_is_no_record() {
    let (medium, geometry) = written(1);
    let offset = geometry.record_offset(0);
    cut_off(&medium, &geometry, Some(1));
    medium.write_bytes(offset + 12, &[1]).unwrap();
    let report = checked(&medium);
    assert_eq!((report.arenas[0].records, report.taken_back.len()), (0, 0));
    assert_eq!(report.pending_count(), 3);
}

#[cfg(feature = "mutants")]
mod mutants {
    use crate::btt::mutant::{Mutant, activate};

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_repair_that_completes_groups_is_noticed() {
        activate(Some(Mutant::GroupsRepaired));
        super::an_incomplete_group_is_named_and_taken_back();
    }
}
