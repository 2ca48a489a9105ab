//! Sectors of a block device, or pages of several, written past the page cache.

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

/// Writes `together` sectors of 4096 bytes at a time, aligned, for ever, and says `acknowledged SECTOR:VERSION` of
/// each, where the sectors that are written together have one version.
pub fn write(device: &Path, seed: u64, together: u64) {
    let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_DIRECT).open(device);
    let (file, next) = (file.unwrap(), AtomicU64::new(1));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (file, next) = (&file, &next);
            scope.spawn(move || {
                let random = Random::new(seed.wrapping_mul(THREADS).wrapping_add(number));
                write_some(file, next, FIRST + number * SECTORS, together, random);
            });
        }
    });
}

fn write_some(file: &File, next: &AtomicU64, first: u64, together: u64, mut random: Random) {
    let length = together as usize * SIZE;
    let mut buffer = vec![0; length + SIZE];
    let aligned = buffer.as_ptr().align_offset(SIZE);
    let buffer = &mut buffer[aligned..][..length];
    loop {
        let sector = first + together * random.within(0..SECTORS / together);
        let version = next.fetch_add(1, Ordering::Relaxed);
        for (sector, data) in (sector..).zip(buffer.chunks_mut(SIZE)) {
            describe(sector, version, data);
        }
        file.write_all_at(buffer, sector * SIZE as u64).unwrap();
        let words: Vec<String> =
            (sector..sector + together).map(|sector| format!("{sector}:{version}")).collect();
        say(&format!("acknowledged {}", words.join(" ")));
    }
}
