//! What a host crash leaves of a disk in the page cache: its pages are on the disk as of different moments.
//!
//! Sectors that were flushed and not written since are promised. The block of such a sector is in no flog
//! entry of a later moment and in no other map entry, and its own map entry is the same at all moments, so
//! nothing that recovery, a repair or later writes do concerns it. Everything else may contradict itself:
//! two lanes may have the same free block, which opening refuses; a sector may have the block that another
//! sector or a lane has by now, which only a check finds. Writes to a disk that is not whole may destroy
//! each other, so that nothing is promised of them.

use std::sync::Arc;

use vhost_user_btt::btt::check::repair::{Plan, RepairOptions};
use vhost_user_btt::btt::check::{CheckOptions, Verdict, check};
use vhost_user_btt::btt::{Error, Queue};
use vhost_user_btt::pmem::simulated::{Contents, Simulated};
use vm_memory::VolatileSlice;

use super::figures::Left;
use super::scenario::{Scenario, open};
use super::value::Value;

/// The version that sectors are written with after the crash.
const VERSION: u64 = 1 << 31;

type Disk = Queue<Arc<Simulated>>;

/// Verifies that `promised` sectors are what they were, before and after all others are written. Counts in
/// `left` what it took to open the disk, and what the others hold.
pub fn verify(
    scenario: &Scenario,
    image: &Contents,
    promised: &[(u64, Vec<Value>)],
    left: &mut Left,
) -> Result<(), String> {
    let mut disk = open_somehow(image, left)?;
    check_promised(&mut disk, promised, "after a crash")?;
    let sectors = scenario.sectors();
    let others = sectors.iter().filter(|sector| promised.iter().all(|(known, _)| known != *sector));
    for sector in others.clone() {
        count(scenario, *sector, &read(&mut disk, *sector), left);
    }
    for version in [VERSION, VERSION + 1] {
        for sector in others.clone() {
            write(&mut disk, *sector, version)?;
        }
    }
    check_promised(&mut disk, promised, "after more writes")
}

fn check_promised(
    disk: &mut Disk,
    promised: &[(u64, Vec<Value>)],
    when: &str,
) -> Result<(), String> {
    for (sector, allowed) in promised {
        let value = read(disk, *sector);
        if !allowed.contains(&value) {
            return Err(format!(
                "{when}, sector {sector} reads as {value:?}, flushed was {allowed:?}"
            ));
        }
    }
    Ok(())
}

/// Opens the disk as it is, or repaired; as a last resort by force.
fn open_somehow(image: &Contents, left: &mut Left) -> Result<Disk, String> {
    if let Ok(disk) = opened(image) {
        *if is_whole(image) { &mut left.whole } else { &mut left.opened } += 1;
        return Ok(disk);
    }
    if let Ok(disk) = opened(&repaired(image, false)?) {
        left.repaired += 1;
        return Ok(disk);
    }
    left.forced += 1;
    opened(&repaired(image, true)?).map_err(|error| format!("repaired, it is not opened: {error}"))
}

/// Returns whether a disk is whole, but for writes that opening completes.
pub fn is_whole(image: &Contents) -> bool {
    let report = check(&Simulated::of(image.clone()), &CheckOptions::default(), &mut |_, _| {});
    report.verdict() == Verdict::Clean
}

fn opened(image: &Contents) -> Result<Disk, Error> {
    Ok(open(Arc::new(Simulated::of(image.clone())), 1)?.1.remove(0))
}

fn repaired(image: &Contents, force: bool) -> Result<Contents, String> {
    let medium = Simulated::of(image.clone());
    let options = RepairOptions { check: CheckOptions::default(), force, rewrite_log: false };
    let plan = Plan::make(&medium, &options, &mut |_, _| {});
    plan.carry_out(&medium, &mut |_, _| {}).map_err(|error| format!("not repaired: {error}"))?;
    Ok(medium.snapshot())
}

/// Counts what a sector holds that was written and not flushed.
fn count(scenario: &Scenario, sector: u64, value: &Value, left: &mut Left) {
    let counter = match (value, value.labels(scenario.disk.sector_size())) {
        (Value::Error, _) => &mut left.lost,
        (_, Some((of, _))) if of == sector => &mut left.own,
        (_, Some((0, 0))) => &mut left.own,
        (_, Some(_)) => &mut left.foreign,
        (_, None) => &mut left.torn,
    };
    *counter += 1;
}

fn read(disk: &mut Disk, sector: u64) -> Value {
    let mut bytes = vec![0; disk.btt().sector_size() as usize];
    match disk.batch().read(sector, &VolatileSlice::from(&mut bytes[..])) {
        Ok(()) => Value::of(&bytes),
        Err(_) => Value::Error,
    }
}

fn write(disk: &mut Disk, sector: u64, version: u64) -> Result<(), String> {
    let size = disk.btt().sector_size() as usize;
    let mut bytes = Value::stamp(sector, version, size).bytes().to_vec();
    let mut batch = disk.batch();
    let written = batch.write(sector, &VolatileSlice::from(&mut bytes[..]), 0);
    batch.commit();
    let failure = written.err().or_else(|| batch.take_failures().next().map(|(_, error)| error));
    failure.map_or(Ok(()), |error| Err(format!("sector {sector} cannot be written: {error}")))
}
