//! Two queues of the published user-space driver hammer the same few sectors: every read is whole,
//! and of a version that somebody wrote.

mod common;

use std::time::{Duration, Instant};

use common::daemon::{Daemon, make_namespace};
use common::driver::{Disk, wait_for};

/// How long the queues go at it.
const TIME: Duration = Duration::from_secs(2);
/// Sectors that they fight for.
const SECTORS: u64 = 6;
/// Requests in flight per queue.
const DEPTH: usize = 16;

/// Fills a sector with records that say what it is.
fn describe(sector: u64, queue: u64, version: u64, into: &mut [u8]) {
    let check =
        (sector ^ queue.rotate_left(17) ^ version.rotate_left(31)).wrapping_mul(0x9e37_79b9);
    let record = [sector, queue, version, check].map(u64::to_le_bytes).concat();
    for part in into.chunks_mut(record.len()) {
        part.copy_from_slice(&record);
    }
}

/// The queue and version that a sector's records agree on.
fn described(sector: u64, data: &[u8]) -> (u64, u64) {
    let word = |index: usize| u64::from_le_bytes(data[index * 8..][..8].try_into().unwrap());
    let (queue, version) = (word(1), word(2));
    let mut expected = vec![0; data.len()];
    describe(sector, queue, version, &mut expected);
    assert!(data == expected, "sector {sector} is torn or foreign");
    (queue, version)
}

/// Runs `queue` for a while, half of its requests writes; returns how many requests it made.
fn hammer(
    number: u64,
    queue: &mut virtio_driver::VirtioBlkQueue<'static, usize>,
    kick: &dyn Fn(),
    wait: &dyn Fn(),
    buffers: &mut [u8],
    sector_size: usize,
) -> u64 {
    let (mut seed, mut requests) = (number + 1, 0u64);
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    // What each slot is doing: its sector, and whether it reads.
    let mut slots: Vec<Option<(u64, bool)>> = vec![None; DEPTH];
    let end = Instant::now() + TIME;
    loop {
        let running = Instant::now() < end;
        for (slot, buffer) in buffers.chunks_mut(sector_size).take(DEPTH).enumerate() {
            if slots[slot].is_some() || !running {
                continue;
            }
            let (sector, reads) = (random() % SECTORS, random() % 2 == 0);
            let offset = sector * sector_size as u64;
            requests += 1;
            if reads {
                queue.read(offset, buffer, slot).unwrap();
            } else {
                describe(sector, number, requests, buffer);
                queue.write(offset, buffer, slot).unwrap();
            }
            slots[slot] = Some((sector, reads));
        }
        if slots.iter().all(Option::is_none) {
            return requests;
        }
        kick();
        wait();
        let done: Vec<usize> = queue
            .completions()
            .map(|completion| {
                assert_eq!(completion.ret, 0);
                completion.context
            })
            .collect();
        for slot in done {
            let (sector, reads) = slots[slot].take().unwrap();
            if reads {
                described(sector, &buffers[slot * sector_size..][..sector_size]);
            }
        }
    }
}

fn run(sector_size: usize, durability: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", sector_size as u32);
    let daemon = Daemon::start(&file, &["--num-queues", "2", "--durability", durability]);
    let mut disk = Disk::connect(&daemon.socket, 2, 256, 4 * DEPTH * sector_size);
    for sector in 0..SECTORS {
        let offset = sector * sector_size as u64;
        let buffer = &mut disk.buffers[sector as usize * sector_size..][..sector_size];
        describe(sector, 9, 0, buffer);
        disk.queues[0].write(offset, buffer, 0).unwrap();
        disk.finish(0, 1);
    }
    let mut queues = std::mem::take(&mut disk.queues);
    let (first, second) = disk.buffers.split_at_mut(2 * DEPTH * sector_size);
    let notifiers: Vec<_> =
        (0..2).map(|queue| disk.transport.get_submission_notifier(queue)).collect();
    let completions: Vec<_> = (0..2).map(|queue| disk.transport.get_completion_fd(queue)).collect();
    let requests: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = queues
            .iter_mut()
            .zip([first, second])
            .zip(0u64..)
            .map(|((queue, buffers), number)| {
                let (notifier, completion) =
                    (&notifiers[number as usize], &completions[number as usize]);
                scope.spawn(move || {
                    let kick = || notifier.notify().unwrap();
                    let wait = || wait_for(completion);
                    hammer(number, queue, &kick, &wait, buffers, sector_size)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(requests > 1000, "only {requests} requests");
    disk.queues = queues;
    drop(disk);
    let (status, log) = daemon.terminate();
    assert!(status.success(), "{log}");

    // What is left is whole, too, and so is everything around it.
    let file = file.to_str().unwrap();
    let raw = common::daemon::nvdimmctl_ok(&["export", file]);
    for sector in 0..SECTORS {
        let (queue, _) = described(sector, &raw[sector as usize * sector_size..][..sector_size]);
        assert!(queue < 2);
    }
    assert!(raw[SECTORS as usize * sector_size..].iter().all(|&byte| byte == 0));
}

#[test]
fn sectors_of_512_bytes_stay_whole() {
    run(512, "page-cache");
}

#[test]
fn sectors_of_4096_bytes_stay_whole() {
    run(4096, "page-cache");
}

#[test]
fn sectors_of_4096_bytes_stay_whole_with_streaming_stores() {
    run(4096, "dax");
}

/// The published driver uses what it knows of the disk.
#[test]
fn the_published_driver_reads_writes_flushes_discards_and_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&file, &[]);
    let mut disk = Disk::connect(&daemon.socket, 1, 512, 1 << 20);
    assert_eq!(u32::from(disk.config().blk_size), 4096);
    let half = 1 << 19;
    for (index, byte) in disk.buffers[..half].iter_mut().enumerate() {
        *byte = (index / 4096) as u8 + 1;
    }
    let queue = &mut disk.queues[0];
    queue.write(0, &disk.buffers[..half], 0).unwrap();
    queue.flush(1).unwrap();
    disk.finish(0, 2);
    let queue = &mut disk.queues[0];
    queue.discard(8192, 4096, 2).unwrap();
    queue.write_zeroes(16384, 512, false, 3).unwrap();
    queue.write_zeroes(20480, 8192, true, 4).unwrap();
    disk.finish(0, 3);
    disk.queues[0].read(0, &mut disk.buffers[half..], 5).unwrap();
    disk.finish(0, 1);
    let mut expected = disk.buffers[..half].to_vec();
    expected[8192..12288].fill(0);
    expected[16384..16896].fill(0);
    expected[20480..28672].fill(0);
    assert!(disk.buffers[half..] == expected);
}
