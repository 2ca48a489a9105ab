//! What a region of 1 TiB costs with 100 000 devices in it: to open, to list, and to change.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use uuid::Uuid;
use vhost_user_btt::dax::{CreateOptions, DeviceOptions, Region, create};
use vhost_user_btt::pmem::{DurabilityRequest, Mapping, Protection};

const SIZE: u64 = 1 << 40;
const DEVICES: u64 = 100_000;
/// Four of five 2 MiB units of each device's share of the region.
const DEVICE_SIZE: u64 = 8 << 20;

type Shared = Arc<Mapping>;

/// A sparse file in memory.
fn medium() -> Shared {
    let folder = Path::new("/dev/shm");
    let file = if folder.is_dir() { tempfile::tempfile_in(folder) } else { tempfile::tempfile() };
    let file: File = file.expect("room for a temporary file");
    file.set_len(SIZE).expect("a sparse file of 1 TiB");
    let protection = Protection::ReadWrite;
    let mapping = Mapping::new(file, 0..SIZE, protection, DurabilityRequest::Dax);
    Arc::new(mapping.expect("a temporary file can be mapped"))
}

fn device(number: u64, size: u64) -> DeviceOptions {
    DeviceOptions {
        name: format!("device-{number}"),
        uuid: Uuid::from_u128(1 << 64 | u128::from(number)),
        label: String::new(),
        size,
        align: None,
        contiguous: false,
    }
}

/// A region with 100 000 devices, every tenth of them in two extents.
fn full() -> Shared {
    let medium = medium();
    create(&medium, &CreateOptions::new(Uuid::from_u128(1))).expect("large enough");
    let region = Region::open(Arc::clone(&medium), false).expect("just made");
    let begun = Instant::now();
    for number in 0..DEVICES {
        region.create_device(&device(number, DEVICE_SIZE)).expect("space");
    }
    for number in (0..DEVICES).step_by(10) {
        let resized = region.resize_device(&format!("device-{number}"), DEVICE_SIZE * 5 / 4);
        resized.expect("space");
    }
    println!("{DEVICES} devices made, {} resized, in {:.1?}", DEVICES / 10, begun.elapsed());
    medium
}

fn regions(criterion: &mut Criterion) {
    let medium = full();
    let mut group = criterion.benchmark_group("dax");
    group.sample_size(10);
    group.bench_function("open, 1 TiB, 100 000 devices", |bencher| {
        bencher.iter(|| Region::open(Arc::clone(&medium), false).expect("whole"));
    });
    let region = Region::open(medium, false).expect("whole");
    group.bench_function("list 100 000 devices", |bencher| bencher.iter(|| region.devices()));
    group.bench_function("free extents, and the largest", |bencher| {
        bencher.iter(|| black_box(region.info().largest));
    });
    group.sample_size(50);
    let owner = Uuid::from_u128(2);
    for order in [0, 9] {
        group.bench_function(format!("allocate and free, order {order}"), |bencher| {
            bencher.iter(|| {
                let offset = region.allocate(owner, "", order).expect("space");
                region.free(owner, offset, order).expect("just allocated");
            });
        });
    }
    // An owner that keeps a block keeps its record page, too.
    region.allocate(owner, "", 0).expect("space");
    group.bench_function("allocate and free, of an owner with pages", |bencher| {
        bencher.iter(|| {
            let offset = region.allocate(owner, "", 0).expect("space");
            region.free(owner, offset, 0).expect("just allocated");
        });
    });
    group.bench_function("create and destroy a device of 8 MiB", |bencher| {
        bencher.iter(|| {
            region.create_device(&device(DEVICES, DEVICE_SIZE)).expect("space");
            region.destroy_device(&format!("device-{DEVICES}")).expect("just made");
        });
    });
    group.bench_function("grow and shrink a device by 2 MiB", |bencher| {
        bencher.iter(|| {
            for size in [DEVICE_SIZE + (2 << 20), DEVICE_SIZE] {
                region.resize_device("device-1", size).expect("space");
            }
        });
    });
    group.finish();
}

criterion_group!(benches, regions);
criterion_main!(benches);
