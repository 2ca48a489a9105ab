//! A region as a whole. Tests of what DAX.md lists under "Corrected" are named after it.

mod alignment;
mod damage;
mod devices;
mod features;
mod growth;
mod hooked;
mod look;
mod media;
mod model;
#[cfg(feature = "mutants")]
mod mutants;
mod owners;
mod torn;

use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::pmem::simulated::Simulated;
use crate::pmem::{PAGE, PersistentMemory};

const A: Uuid = Uuid::from_u128(0xa);
const B: Uuid = Uuid::from_u128(0xb);
const MIB: u64 = 1 << 20;

/// A medium with room for `pages` pages beside the journal, which has two.
fn medium(pages: u64) -> Arc<Simulated> {
    let medium = Simulated::new(PAGES_OFFSET + (pages + 2) * PAGE);
    create(&medium, &options()).unwrap();
    Arc::new(medium)
}

fn options() -> CreateOptions {
    CreateOptions { uuid: Uuid::from_u128(1), align: Align::Page, journal_order: 1, file_offset: 0 }
}

fn region(pages: u64) -> Region<Arc<Simulated>> {
    open(&medium(pages))
}

fn open(medium: &Arc<Simulated>) -> Region<Arc<Simulated>> {
    Region::open(Arc::clone(medium), false).unwrap()
}

fn reopened(region: &Region<Arc<Simulated>>) -> Region<Arc<Simulated>> {
    open(region.medium())
}

fn device(name: &str, pages: u64) -> DeviceOptions {
    DeviceOptions {
        name: name.to_owned(),
        uuid: uuid_of(name),
        label: format!("label of {name}"),
        size: pages * PAGE,
        align: None,
        contiguous: false,
    }
}

fn uuid_of(name: &str) -> Uuid {
    let bytes = name.bytes().fold(1u128 << 100, |sum, byte| sum << 8 | u128::from(byte));
    Uuid::from_u128(bytes)
}

/// The extents of a device in pages from the first allocatable page on.
fn extents<M: PersistentMemory>(region: &Region<M>, name: &str) -> Vec<(u64, u64)> {
    let extents = region.device(name).unwrap().extents;
    let pages = |bytes: u64| bytes / PAGE;
    extents.iter().map(|at| (pages(at.start - PAGES_OFFSET), pages(at.end - at.start))).collect()
}

/// All there is to see.
type Everything = (RegionInfo, Vec<OwnerInfo>, Vec<Vec<OwnedBlock>>, Vec<DeviceInfo>);

fn everything<M: PersistentMemory>(region: &Region<M>) -> Everything {
    let owners = region.owners();
    let pages = owners.iter().map(|owner| region.pages_of(owner.uuid).unwrap()).collect();
    (region.info(), owners, pages, region.devices())
}
