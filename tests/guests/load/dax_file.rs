//! Files on a DAX file system, used by way of mappings.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};
use nix::sys::resource::{UsageWho, getrusage};
use vhost_user_btt::pmem::simulated::Random;

use super::say;

const PAGE: usize = 4096;

fn map(path: &Path) -> (File, MmapMut) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: nobody else uses the file.
    let mapping = unsafe { MmapOptions::new().map_mut(&file) }.unwrap();
    (file, mapping)
}

fn faults() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).unwrap().minor_page_faults()
}

/// Fills a file that is there by stores to a mapping of it, makes that durable, and says how many page faults
/// it took: `faults COUNT PAGES`.
pub fn fill(path: &Path, seed: u64) {
    let (_file, mut mapping) = map(path);
    let mut random = Random::new(seed);
    let before = faults();
    for word in mapping.chunks_exact_mut(8) {
        word.copy_from_slice(&random.any().to_le_bytes());
    }
    let count = faults() - before;
    mapping.flush().unwrap();
    say(&format!("faults {count} {}", mapping.len() / PAGE));
}

/// Writes the first page of a file on DAX to a disk, and reads it back into the second, by direct input and
/// output: the disk gets and gives the bytes where they are.
pub fn direct(path: &Path, disk: &Path) {
    let (_file, mut mapping) = map(path);
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(disk)
        .unwrap();
    let (first, second) = mapping.split_at_mut(PAGE);
    let second = &mut second[..PAGE];
    second.fill(0);
    disk.write_all_at(first, 0).unwrap();
    disk.read_exact_at(second, 0).unwrap();
    assert_eq!(first, second);
    say("direct");
}
