//! The engine alone, against what the memory itself takes.
//!
//! * `engine`: sectors in no order, in batches of one and of sixteen, on a file that is treated as DAX
//!   and on one that is not.
//! * `floor`: the same stores, write-backs and fences, and nothing else (`common/floor.rs`).
//! * `streaming`, `plain`: the data alone, past the caches or through them.
//!
//! Names are kept: `cargo bench --bench engine -- --save-baseline`, and `scripts/bench`, know them.

mod common;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vhost_user_btt::btt::Queue;
use vhost_user_btt::pmem::{DurabilityRequest, Mapping};

use common::floor::Floor;
use common::load::{read, write};
use common::{SIZE, Shuffled, disk};

const KINDS: [(&str, DurabilityRequest); 2] =
    [("engine-dax", DurabilityRequest::Dax), ("engine-page-cache", DurabilityRequest::PageCache)];

fn one_queue(criterion: &mut Criterion) {
    for sector_size in [512, 4096usize] {
        let mut shuffled = Shuffled::new(1);
        for (name, durability) in KINDS {
            let (_, mut queues) = disk(sector_size as u32, SIZE, durability, 1);
            for count in [1, 16usize] {
                let mut data = vec![0x5a; count * sector_size];
                let queue = &mut queues[0];
                let mut group = criterion.benchmark_group(format!("write/{sector_size}/{count}"));
                group.throughput(Throughput::Elements(count as u64));
                group.bench_function(name, |bencher| {
                    bencher.iter(|| write(queue, &mut shuffled, sector_size, &mut data));
                });
                group.finish();
                let mut group = criterion.benchmark_group(format!("read/{sector_size}/{count}"));
                group.throughput(Throughput::Elements(count as u64));
                group.bench_function(name, |bencher| {
                    bencher.iter(|| read(queue, &mut shuffled, sector_size, &mut data));
                });
                group.finish();
            }
        }
        let mut floor = Floor::new(sector_size, SIZE);
        for count in [1, 16usize] {
            let mut data = vec![0x5a; count * sector_size];
            let mut group = criterion.benchmark_group(format!("write/{sector_size}/{count}"));
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function("floor", |bencher| bencher.iter(|| floor.write(&data)));
            group.bench_function("streaming", |bencher| bencher.iter(|| floor.stream_only(&data)));
            group.bench_function("plain", |bencher| bencher.iter(|| floor.copy_only(&data)));
            group.finish();
            let mut group = criterion.benchmark_group(format!("read/{sector_size}/{count}"));
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function("plain", |bencher| bencher.iter(|| floor.read(&mut data)));
            group.finish();
        }
    }
}

/// Lets each of `queues` write `batches` batches at the same time; returns how long it took.
fn together(
    queues: &mut [Queue<Mapping>],
    sector_size: usize,
    count: usize,
    batches: u64,
) -> Duration {
    let barrier = std::sync::Barrier::new(queues.len() + 1);
    std::thread::scope(|scope| {
        for (number, queue) in queues.iter_mut().enumerate() {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut data = vec![0x5a; count * sector_size];
                let mut shuffled = Shuffled::new(number as u64 + 1);
                barrier.wait();
                for _ in 0..batches {
                    write(queue, &mut shuffled, sector_size, &mut data);
                }
                barrier.wait();
            });
        }
        let begin = Instant::now();
        barrier.wait();
        barrier.wait();
        begin.elapsed()
    })
}

fn several_queues(criterion: &mut Criterion) {
    for sector_size in [512, 4096usize] {
        for (name, durability) in KINDS {
            let (_, mut all) = disk(sector_size as u32, SIZE, durability, 2);
            let mut group = criterion.benchmark_group(format!("queues/{sector_size}/{name}"));
            for queues in [1, 2usize] {
                group.throughput(Throughput::Elements(16 * queues as u64));
                group.bench_function(BenchmarkId::from_parameter(queues), |bencher| {
                    bencher.iter_custom(|batches| {
                        together(&mut all[..queues], sector_size, 16, batches)
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = one_queue, several_queues
}
criterion_main!(benches);
