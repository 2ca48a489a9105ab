//! A BTT in memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;
use vhost_user_btt::btt::{
    ARENA_MAX_SIZE, Btt, CreateOptions, LbaSize, OpenOptions, Queue, Version, create,
};
use vhost_user_btt::pmem::{DurabilityRequest, Mapping, Protection};
use vm_memory::VolatileSlice;

/// Bytes of the file: more than any cache holds.
pub const SIZE: u64 = 512 << 20;

/// A file in memory.
pub fn memory_file(size: u64) -> File {
    let folder = Path::new("/dev/shm");
    let file = if folder.is_dir() { tempfile::tempfile_in(folder) } else { tempfile::tempfile() };
    let file = file.expect("room for a temporary file");
    file.set_len(size).expect("room for a temporary file");
    file
}

/// An open BTT in memory with `queues` queues.
pub fn new_disk(
    sector_size: u32,
    size: u64,
    durability: DurabilityRequest,
    queues: usize,
) -> (Arc<Btt<Mapping>>, Vec<Queue<Mapping>>) {
    new_atomic_disk(sector_size, size, durability, queues, 0)
}

/// As [`new_disk`], where aligned writes of up to `atomic` bytes are all or nothing.
fn new_atomic_disk(
    sector_size: u32,
    size: u64,
    durability: DurabilityRequest,
    queues: usize,
    atomic: u32,
) -> (Arc<Btt<Mapping>>, Vec<Queue<Mapping>>) {
    let medium = Mapping::new(memory_file(size), 0..size, Protection::ReadWrite, durability)
        .expect("a temporary file can be mapped");
    let options = CreateOptions {
        lba_size: LbaSize::new(sector_size).expect("512 or 4096"),
        version: Version::V1_1,
        uuid: Uuid::max(),
        parent_uuid: Uuid::nil(),
        arena_size: ARENA_MAX_SIZE,
    };
    create(&medium, &options, |_, _| {}).expect("the medium is large enough");
    let options = OpenOptions { version: None, namespace: None, read_only: false, queues, atomic };
    Btt::open(medium, &options).expect("it was just made")
}

/// As [`new_disk`], with every sector written.
pub fn disk(
    sector_size: u32,
    size: u64,
    durability: DurabilityRequest,
    queues: usize,
) -> (Arc<Btt<Mapping>>, Vec<Queue<Mapping>>) {
    atomic_disk(sector_size, size, durability, queues, 0)
}

/// As [`disk`], where aligned writes of up to `atomic` bytes are all or nothing.
pub fn atomic_disk(
    sector_size: u32,
    size: u64,
    durability: DurabilityRequest,
    queues: usize,
    atomic: u32,
) -> (Arc<Btt<Mapping>>, Vec<Queue<Mapping>>) {
    let (btt, mut queues) = new_atomic_disk(sector_size, size, durability, queues, atomic);
    let mut data = vec![0x5a; sector_size as usize];
    let mut batch = queues[0].batch();
    for sector in 0..btt.sectors() {
        batch.write(sector, &VolatileSlice::from(&mut data[..]), 0).expect("in range");
    }
    batch.commit();
    assert_eq!(batch.take_failures().count(), 0);
    drop(batch);
    (btt, queues)
}
