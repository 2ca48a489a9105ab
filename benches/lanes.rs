//! Which lane does a thread write with? Two strategies, on the engine itself:
//!
//! * `static-hash`: a thread's own number, modulo the number of lanes. What the kernel's driver does
//!   with its CPU number, and what this engine does with its queue number.
//! * `last-used`: a counter that all threads share is advanced at every write, so that lanes are
//!   taken in turn and no two threads get the same one while there are enough.
//!
//! Lanes are locked in both, as threads may share them. Every thread writes sectors of its own.

#[allow(dead_code, reason = "the other benches use more of it")]
#[path = "common/disk.rs"]
mod disk;

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vhost_user_btt::btt::Queue;
use vhost_user_btt::pmem::{DurabilityRequest, Mapping};
use vm_memory::VolatileSlice;

const SIZE: u64 = 256 << 20;
/// Sets of lanes: as many as CPUs would be on a larger machine.
const LANES: usize = 16;
/// Sectors that each thread writes, in turn.
const SECTORS: u64 = 1000;

/// A BTT in memory, with one queue for each set of lanes.
fn lanes(sector_size: u32) -> Vec<Mutex<Queue<Mapping>>> {
    let (_, queues) = disk::new_disk(sector_size, SIZE, DurabilityRequest::Dax, LANES);
    queues.into_iter().map(Mutex::new).collect()
}

/// Lets `threads` threads write `writes` sectors each, with the lanes that `choose` gives for a
/// thread's number; returns how long it took.
fn run(
    lanes: &[Mutex<Queue<Mapping>>],
    sector_size: u32,
    threads: usize,
    writes: u64,
    choose: impl Fn(usize) -> usize + Sync,
) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, choose) = (&barrier, &choose);
            scope.spawn(move || {
                let mut data = vec![0x5a; sector_size as usize];
                barrier.wait();
                for number in 0..writes {
                    let sector = thread as u64 * SECTORS + number % SECTORS;
                    let mut queue = lanes[choose(thread)].lock().expect("nobody panics");
                    let mut batch = queue.batch();
                    batch.write(sector, &VolatileSlice::from(&mut data[..]), 0).expect("in range");
                    batch.commit();
                    assert_eq!(black_box(batch.take_failures().count()), 0);
                }
                barrier.wait();
            });
        }
        // Before the start: once the threads run, this one may not for a while.
        let begin = Instant::now();
        barrier.wait();
        barrier.wait();
        begin.elapsed()
    })
}

fn strategies(criterion: &mut Criterion) {
    for sector_size in [512u32, 4096] {
        let lanes = lanes(sector_size);
        let mut group = criterion.benchmark_group(format!("lanes/{sector_size}"));
        for threads in [1usize, 2, 4, 8] {
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::new("static-hash", threads), |bencher| {
                bencher.iter_custom(|writes| {
                    run(&lanes, sector_size, threads, writes, |thread| thread % LANES)
                });
            });
            let last_used = AtomicUsize::new(0);
            group.bench_function(BenchmarkId::new("last-used", threads), |bencher| {
                bencher.iter_custom(|writes| {
                    run(&lanes, sector_size, threads, writes, |_| {
                        last_used.fetch_add(1, Ordering::Relaxed) % LANES
                    })
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, strategies);
criterion_main!(benches);
