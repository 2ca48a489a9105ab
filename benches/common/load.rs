//! Batches of sectors in no order, through a queue.

use vhost_user_btt::btt::Queue;
use vhost_user_btt::pmem::Mapping;
use vm_memory::VolatileSlice;

use super::Shuffled;

/// As in the worker.
const LOOK_AHEAD: usize = 3;

/// Writes a batch of as many sectors as `data` has.
pub fn write(
    queue: &mut Queue<Mapping>,
    shuffled: &mut Shuffled,
    sector_size: usize,
    data: &mut [u8],
) {
    let sectors = queue.btt().sectors();
    let mut batch = queue.batch();
    for (tag, data) in data.chunks_exact_mut(sector_size).enumerate() {
        let sector = shuffled.below(sectors);
        batch.write(sector, &VolatileSlice::from(data), tag).expect("in range");
    }
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

/// Writes a batch of as many pages of several sectors as `data` has, aligned.
pub fn write_pages(
    queue: &mut Queue<Mapping>,
    shuffled: &mut Shuffled,
    page_size: usize,
    data: &mut [u8],
) {
    let count = page_size as u64 / u64::from(queue.btt().sector_size());
    let pages = queue.btt().sectors() / count;
    let mut batch = queue.batch();
    for (tag, data) in data.chunks_exact_mut(page_size).enumerate() {
        let first = count * shuffled.below(pages);
        batch.begin_write(first, count);
        batch.write(first, &VolatileSlice::from(data), tag).expect("in range");
    }
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
}

/// Reads a batch of as many sectors as `data` has, and says before which they are, as a queue's worker
/// does.
pub fn read(
    queue: &mut Queue<Mapping>,
    shuffled: &mut Shuffled,
    sector_size: usize,
    data: &mut [u8],
) {
    let end = queue.btt().sectors();
    let mut sectors = [0; 64];
    let sectors = &mut sectors[..data.len() / sector_size];
    let mut batch = queue.batch();
    for sector in &mut *sectors {
        *sector = shuffled.below(end);
        batch.announce(*sector);
    }
    for (index, data) in data.chunks_exact_mut(sector_size).enumerate() {
        if let Some(ahead) = sectors.get(index + LOOK_AHEAD) {
            batch.prepare(*ahead);
        }
        batch.read(sectors[index], &VolatileSlice::from(data)).expect("in range");
    }
}
