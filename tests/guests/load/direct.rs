//! Sectors of a block device, written past the page cache.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vhost_user_btt::pmem::simulated::Random;

use super::common::sectors::describe;
use super::say;

const SIZE: usize = 4096;
/// The first sector, and how many each thread has.
const FIRST: u64 = 256;
const SECTORS: u64 = 16;
const THREADS: u64 = 4;

/// Writes sectors of 4096 bytes for ever, and says `acknowledged SECTOR:VERSION` of each.
pub fn write(device: &Path, seed: u64) {
    let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_DIRECT).open(device);
    let (file, next) = (file.unwrap(), AtomicU64::new(1));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (file, next) = (&file, &next);
            scope.spawn(move || {
                let random = Random::new(seed * THREADS + number);
                write_some(file, next, FIRST + number * SECTORS, random);
            });
        }
    });
}

fn write_some(file: &File, next: &AtomicU64, first: u64, mut random: Random) {
    let mut buffer = vec![0; 2 * SIZE];
    let aligned = buffer.as_ptr().align_offset(SIZE);
    let buffer = &mut buffer[aligned..][..SIZE];
    loop {
        let sector = first + random.within(0..SECTORS);
        let version = next.fetch_add(1, Ordering::Relaxed);
        describe(sector, version, buffer);
        file.write_all_at(buffer, sector * SIZE as u64).unwrap();
        say(&format!("acknowledged {sector}:{version}"));
    }
}
