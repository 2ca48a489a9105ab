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

/// Bytes of a [`Log`].
const LOG_SIZE: u64 = 1 << 20;

/// Makes a file of `bytes`, durable, by stores to a mapping of it.
pub fn write(path: &Path, bytes: &[u8]) {
    File::create(path).and_then(|file| file.set_len(bytes.len() as u64)).unwrap();
    let (_file, mut mapping) = map(path);
    mapping.copy_from_slice(bytes);
    mapping.flush().unwrap();
}

/// A file that is zero behind what was appended to it by stores to a mapping.
pub struct Log {
    mapping: MmapMut,
    length: usize,
}

impl Log {
    /// A new file, durable.
    pub fn new(path: &Path) -> Log {
        let file = File::create(path).unwrap();
        // Not a hole, so that nothing but the bytes is left to be made durable.
        file.write_all_at(&vec![0; LOG_SIZE as usize], 0).unwrap();
        file.sync_all().unwrap();
        Log { mapping: map(path).1, length: 0 }
    }

    /// Appends `bytes`, durable, if there is room; returns how many there are now.
    pub fn append(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = self.length + bytes.len();
        self.mapping.get_mut(self.length..end)?.copy_from_slice(bytes);
        self.mapping.flush_range(self.length, bytes.len()).unwrap();
        self.length = end;
        Some(end)
    }
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
