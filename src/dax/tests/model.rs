//! Random operations, against a plain model: which page belongs to whom.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Allocate(u8, u32),
    /// Frees one of the owner's blocks, with this error in the order.
    Free(u8, usize, u32),
    Create {
        name: u8,
        pages: u64,
        huge: bool,
        contiguous: bool,
    },
    Resize(u8, u64),
    Destroy(u8),
    Rename(u8, u8),
    Reopen,
}

/// Beside the journal; two units of 2 MiB.
const PAGES: u64 = 1022;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let pages = prop_oneof![0u64..20, 0u64..400, Just(512)];
    let resized = prop_oneof![0u64..20, 0u64..400, Just(512), Just(1024)];
    let op = prop_oneof![
        3 => (0u8..3, 0u32..8).prop_map(|(owner, order)| Op::Allocate(owner, order)),
        2 => (0u8..3, any::<usize>(), prop_oneof![9 => Just(0u32), 1 => Just(1)])
            .prop_map(|(owner, which, wrong)| Op::Free(owner, which, wrong)),
        3 => (0u8..5, pages, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(name, pages, huge, contiguous)| Op::Create { name, pages, huge, contiguous }),
        4 => (0u8..5, resized).prop_map(|(name, pages)| Op::Resize(name, pages)),
        1 => (0u8..5).prop_map(Op::Destroy),
        1 => (0u8..5, 0u8..5).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..40)
}

#[derive(Debug, Clone, PartialEq)]
struct Modelled {
    unit: u64,
    contiguous: bool,
    /// Pages in the order of device offsets, with what was written to them.
    pages: Vec<(u64, u64)>,
}

/// The owner of each page.
#[derive(Default)]
struct Model {
    owners: BTreeMap<u8, BTreeMap<u64, u32>>,
    devices: BTreeMap<u8, Modelled>,
    writes: u64,
}

impl Model {
    fn used(&self) -> BTreeSet<u64> {
        let blocks = self.owners.values().flatten();
        let blocks = blocks.flat_map(|(first, order)| *first..first + (1 << order));
        let devices = self.devices.values().flat_map(|device| &device.pages).map(|(page, _)| *page);
        let journal = PAGES_OFFSET / PAGE..PAGES_OFFSET / PAGE + 2;
        blocks.chain(devices).chain(journal).collect()
    }

    /// Free, aligned units of so many pages, by address.
    fn free_units(&self, unit: u64) -> Vec<u64> {
        let used = self.used();
        let first = PAGES_OFFSET / PAGE;
        let units = (first..first + PAGES + 2).step_by(unit as usize);
        units.filter(|at| used.range(*at..at + unit).next().is_none()).collect()
    }

    /// The units that a device grows by; `None`: no space.
    fn growth(&self, device: &Modelled, more: u64) -> Option<Vec<u64>> {
        let mut free = self.free_units(device.unit);
        let count = (more / device.unit) as usize;
        let mut units = Vec::new();
        let mut last = device.pages.last().map(|(page, _)| page + 1);
        if device.contiguous && last.is_none() {
            let starts = free.iter().position(|at| {
                (0..count as u64).all(|unit| free.contains(&(at + unit * device.unit)))
            });
            last = Some(free[starts.filter(|_| count > 0)?]);
        }
        while units.len() < count {
            let next = last.and_then(|last| free.iter().position(|at| *at == last));
            if next.is_none() && (device.contiguous || free.is_empty()) {
                return None;
            }
            let at = free.remove(next.unwrap_or(0));
            last = Some(at + device.unit);
            units.push(at);
        }
        Some(units)
    }
}

fn name(number: u8) -> String {
    format!("device {number}")
}

fn owner(number: u8) -> Uuid {
    Uuid::from_u128(0xff00 + u128::from(number))
}

fn write(medium: &Simulated, page: u64, value: u64) {
    medium.store_u64(page * PAGE + 128, value).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_region_does_what_a_plain_model_does(ops in ops()) {
        let medium = medium(PAGES);
        let mut region = open(&medium);
        let mut model = Model::default();
        let mut uuids = 1000;
        for op in ops {
            let before = everything(&region);
            let mut failed = false;
            match op {
                Op::Allocate(number, order) => {
                    let has_room = !model.free_units(1 << order).is_empty();
                    match region.allocate(owner(number), "", order) {
                        Ok(offset) => {
                            prop_assert!(offset.is_multiple_of(PAGE << order));
                            let first = offset / PAGE;
                            prop_assert!(model.used().range(first..first + (1 << order)).next().is_none());
                            for page in first..first + (1 << order) {
                                prop_assert_eq!(medium.load_u64(page * PAGE + 128), Ok(0));
                                write(&medium, page, 99);
                            }
                            model.owners.entry(number).or_default().insert(first, order);
                        }
                        Err(error) => {
                            failed = true;
                            let is_full = matches!(error, Error::NoSpace { .. });
                            prop_assert!(is_full && !has_room, "{}", error);
                        }
                    }
                }
                Op::Free(number, which, wrong) => {
                    let blocks = model.owners.entry(number).or_default();
                    if let Some((&first, &order)) = blocks.iter().nth(which % blocks.len().max(1)) {
                        let freed = region.free(owner(number), first * PAGE, order + wrong);
                        prop_assert_eq!(freed.is_ok(), wrong == 0);
                        failed = wrong > 0;
                        if !failed {
                            blocks.remove(&first);
                        }
                    }
                }
                Op::Create { name: number, pages, huge, contiguous } => {
                    uuids += 1;
                    let unit = if huge { 512 } else { 1 };
                    let align = if huge { Align::Huge } else { Align::Page };
                    let options = DeviceOptions {
                        uuid: Uuid::from_u128(uuids), align: Some(align), contiguous, ..device(&name(number), pages)
                    };
                    let mut new = Modelled { unit, contiguous, pages: Vec::new() };
                    let growth = if pages == 0 { Some(Vec::new()) } else { model.growth(&new, pages) };
                    let created = region.create_device(&options);
                    failed = created.is_err();
                    match created {
                        Err(Error::Misaligned { .. }) => prop_assert!(pages % unit != 0),
                        Err(Error::DeviceExists(_)) => prop_assert!(model.devices.contains_key(&number)),
                        Err(Error::NoSpace { .. }) => prop_assert!(growth.is_none()),
                        Err(error) => prop_assert!(false, "{}", error),
                        Ok(()) => {
                            let growth = growth.expect("there is space");
                            new.pages = growth.iter().flat_map(|at| *at..at + unit).map(|page| (page, 0)).collect();
                            prop_assert_eq!(model.devices.insert(number, new), None);
                        }
                    }
                }
                Op::Resize(number, pages) => {
                    let resized = region.resize_device(&name(number), pages * PAGE);
                    failed = resized.is_err();
                    let known = model.devices.get(&number);
                    match resized {
                        Err(Error::UnknownDevice(_)) => prop_assert!(known.is_none()),
                        Err(Error::Misaligned { .. }) => prop_assert!(pages % known.expect("known").unit != 0),
                        Err(Error::NoSpace { .. }) => {
                            let known = known.expect("known");
                            prop_assert_eq!(model.growth(known, pages - known.pages.len() as u64), None);
                        }
                        Err(error) => prop_assert!(false, "{}", error),
                        Ok(()) => {
                            let mut known = known.expect("known").clone();
                            if let Some(more) = pages.checked_sub(known.pages.len() as u64).filter(|more| *more > 0) {
                                let growth = model.growth(&known, more).expect("there is space");
                                known.pages.extend(growth.iter().flat_map(|at| *at..at + known.unit).map(|page| (page, 0)));
                            } else {
                                known.pages.truncate(pages as usize);
                            }
                            model.devices.insert(number, known);
                        }
                    }
                }
                Op::Destroy(number) => {
                    let destroyed = region.destroy_device(&name(number));
                    prop_assert_eq!(destroyed.is_ok(), model.devices.remove(&number).is_some());
                }
                Op::Rename(from, to) => {
                    let renamed = region.rename_device(&name(from), &name(to)).is_ok();
                    let known = model.devices.contains_key(&from);
                    prop_assert_eq!(renamed, known && (from == to || !model.devices.contains_key(&to)));
                    if let Some(device) = model.devices.remove(&from).filter(|_| renamed) {
                        model.devices.insert(to, device);
                    } else if known {
                        failed = true;
                        let device = region.device(&name(from)).expect("still there");
                        let pages = device.extents.iter().flat_map(|at| at.start / PAGE..at.end / PAGE);
                        let pages = pages.map(|page| (page, medium.load_u64(page * PAGE + 128).expect("in range")));
                        model.devices.insert(from, Modelled {
                            unit: device.align.pages(), contiguous: device.contiguous, pages: pages.collect(),
                        });
                    }
                }
                Op::Reopen => region = reopened(&region),
            }
            if failed {
                prop_assert_eq!(&before, &everything(&region));
            }
            for (number, modelled) in &mut model.devices {
                let found = region.device(&name(*number)).expect("it is there");
                let pages: Vec<u64> = found.extents.iter().flat_map(|at| at.start / PAGE..at.end / PAGE).collect();
                let expected: Vec<u64> = modelled.pages.iter().map(|(page, _)| *page).collect();
                prop_assert_eq!(pages, expected);
                for (page, value) in &mut modelled.pages {
                    prop_assert_eq!(medium.load_u64(*page * PAGE + 128), Ok(*value));
                    model.writes += 1;
                    *value = model.writes;
                    write(&medium, *page, *value);
                }
            }
            prop_assert_eq!(region.devices().len(), model.devices.len());
            prop_assert_eq!(region.info().free / PAGE, PAGES + 2 - model.used().len() as u64);
            let after = everything(&reopened(&region));
            prop_assert_eq!(after, everything(&region));
        }
    }
}
