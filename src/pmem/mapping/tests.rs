use std::io::Read;

use super::*;
use crate::pmem::Intent;

const SIZE: u64 = 64 * 1024;

fn file_of(size: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    file
}

fn map(file: &File, request: DurabilityRequest) -> Mapping {
    Mapping::new(file.try_clone().unwrap(), 0..SIZE, Protection::ReadWrite, request).unwrap()
}

fn cause<T: std::fmt::Debug>(result: Result<T, MediaError>) -> Cause {
    result.unwrap_err().cause
}

const ALL: [DurabilityRequest; 4] = [
    DurabilityRequest::Auto,
    DurabilityRequest::Dax,
    DurabilityRequest::PageCache,
    DurabilityRequest::Strict,
];

#[test]
fn every_durability_stores_the_same_bytes() {
    for request in ALL {
        let file = file_of(SIZE);
        let medium = map(&file, request);
        medium.store_u32(4, 0x0403_0201).unwrap();
        medium.store_u64(8, 0x0807_0605_0403_0201).unwrap();
        medium.write_bytes(100, &[7; 1000]).unwrap();
        medium.flush(0, 16).unwrap();
        medium.fence().unwrap();
        medium.sync().unwrap();

        let mut expected = vec![0; SIZE as usize];
        expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
        expected[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        expected[100..1100].fill(7);
        let mut found = Vec::new();
        (&file).read_to_end(&mut found).unwrap();
        assert!(found == expected, "{request:?}");
        assert_eq!(medium.load_u32(4).unwrap(), 0x0403_0201);
        assert_eq!(medium.load_u64(8).unwrap(), 0x0807_0605_0403_0201);
        let mut read = [0; 1000];
        medium.read_bytes(100, &mut read).unwrap();
        assert_eq!(read, [7; 1000]);
    }
}

#[test]
fn a_streaming_write_of_any_place_and_length_is_exact() {
    let file = file_of(SIZE);
    let medium = map(&file, DurabilityRequest::Dax);
    for offset in [0, 1, 60, 63, 64, 65, 4090] {
        for length in [0, 1, 3, 4, 64, 65, 127, 128, 513, 4096] {
            medium.write_bytes(0, &vec![0xff; 16384]).unwrap();
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            medium.write_bytes(offset, &bytes).unwrap();
            medium.fence().unwrap();
            let mut found = vec![0; 16384];
            medium.read_bytes(0, &mut found).unwrap();
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            assert_eq!(found[start..end], bytes);
            assert!(found[..start].iter().chain(&found[end..]).all(|&byte| byte == 0xff));
        }
    }
}

/// Returns whether the next fence of this thread drains its stores.
fn fence_drains(medium: &Mapping) -> bool {
    let before = cpu::DRAINS.get();
    medium.fence().unwrap();
    cpu::DRAINS.get() > before
}

/// A reader on another CPU could otherwise see the map entry that is stored next before the data.
#[test]
fn a_fence_of_the_page_cache_drains_what_its_thread_has_streamed() {
    let (file, bytes) = (file_of(SIZE), [7; 4096]);
    let medium = map(&file, DurabilityRequest::PageCache);
    medium.store_u32(0, 1).unwrap();
    assert!(!fence_drains(&medium), "ordinary stores are seen in order");
    for length in [STREAMED, STREAMED + 1, 512, 4096] {
        medium.write_bytes(4096, &bytes[..length]).unwrap();
        medium.store_u32(0, 1).unwrap();
        std::thread::scope(|scope| {
            let fence_of_another = scope.spawn(|| fence_drains(&medium));
            assert!(!fence_of_another.join().unwrap(), "another thread has streamed nothing");
        });
        assert_eq!(fence_drains(&medium), cpu::STREAMS_PAST_CACHE, "{length} bytes");
        assert!(!fence_drains(&medium), "nothing was streamed since");
    }
}

#[test]
fn what_a_fence_makes_durable_follows_request_and_file() {
    let file = file_of(SIZE);
    // The file system of the temporary directory is assumed not to be DAX.
    let expected = [
        (DurabilityRequest::Auto, Durability::PageCache),
        (DurabilityRequest::Dax, Durability::Dax),
        (DurabilityRequest::PageCache, Durability::PageCache),
        (DurabilityRequest::Strict, Durability::Strict),
    ];
    for (request, durability) in expected {
        let medium = map(&file, request);
        assert_eq!((medium.backing(), medium.durability()), (Backing::PageCache, durability));
    }
}

#[test]
fn accesses_outside_the_range_are_refused() {
    let medium = map(&file_of(2 * SIZE), DurabilityRequest::Auto);
    for offset in [SIZE, SIZE - 4 + 8, u64::MAX - 7] {
        assert_eq!(cause(medium.load_u64(offset - offset % 8)), Cause::OutOfBounds);
        assert_eq!(cause(medium.write_bytes(offset, &[0; 64])), Cause::OutOfBounds);
        assert_eq!(cause(medium.flush(offset, 64)), Cause::OutOfBounds);
    }
    assert_eq!(cause(medium.zero(0, SIZE + 1)), Cause::OutOfBounds);
    assert_eq!(cause(medium.store_u32(2, 0)), Cause::Misaligned);
    assert_eq!(cause(medium.load_u64(4)), Cause::Misaligned);
    medium.read_bytes(SIZE, &mut []).unwrap();
}

#[test]
fn a_read_only_mapping_refuses_stores() {
    let file = file_of(SIZE);
    let medium =
        Mapping::new(file, 0..SIZE, Protection::ReadOnly, DurabilityRequest::Auto).unwrap();
    assert_eq!(cause(medium.store_u32(0, 1)), Cause::ReadOnly);
    assert_eq!(cause(medium.write_bytes(0, &[1])), Cause::ReadOnly);
    assert_eq!(cause(medium.zero(0, 4096)), Cause::ReadOnly);
    assert_eq!(medium.load_u32(0), Ok(0));
    medium.sync().unwrap();
}

#[test]
fn a_file_truncated_under_us_fails_the_access_and_nothing_else() {
    for request in ALL {
        let file = file_of(SIZE);
        let medium = map(&file, request);
        medium.store_u32(0, 42).unwrap();
        file.set_len(SIZE / 2).unwrap();
        let gone = SIZE / 2 + 64;
        let mut buffer = [0; 256];
        assert_eq!(cause(medium.load_u32(gone)), Cause::Medium);
        assert_eq!(cause(medium.load_u64(gone)), Cause::Medium);
        assert_eq!(cause(medium.store_u32(gone, 1)), Cause::Medium);
        assert_eq!(cause(medium.store_u64(gone, 1)), Cause::Medium);
        assert_eq!(cause(medium.read_bytes(gone, &mut buffer)), Cause::Medium);
        assert_eq!(cause(medium.write_bytes(gone, &buffer)), Cause::Medium);
        assert_eq!(cause(medium.write_bytes(gone + 1, &buffer)), Cause::Medium);
        // A copy that only ends in the missing part fails too.
        assert_eq!(cause(medium.write_bytes(SIZE / 2 - 128, &buffer)), Cause::Medium);
        if medium.durability() == Durability::Dax {
            assert_eq!(cause(medium.flush(gone, 64)), Cause::Medium);
        }
        assert_eq!(medium.load_u32(0), Ok(42));

        file.set_len(SIZE).unwrap();
        assert_eq!(medium.load_u32(gone), Ok(0), "the page is there again");
    }
}

#[test]
fn a_buffer_that_goes_away_is_told_from_a_bad_medium() {
    let (file, others) = (file_of(SIZE), file_of(SIZE));
    let medium = map(&file, DurabilityRequest::Auto);
    let buffer = map(&others, DurabilityRequest::Auto);
    others.set_len(0).unwrap();
    // SAFETY: the address range stays mapped for the life of `buffer`; its pages are missing, which
    // is the point.
    let buffer = unsafe { VolatileSlice::new(buffer.base, 4096) };
    assert_eq!(cause(medium.read(0, &buffer)), Cause::Buffer);
    assert_eq!(cause(medium.write(0, &buffer)), Cause::Buffer);
}

#[test]
fn faults_in_several_threads_do_not_mix() {
    let file = file_of(SIZE);
    let medium = map(&file, DurabilityRequest::Auto);
    medium.store_u32(0, 1).unwrap();
    file.set_len(4096).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    assert_eq!(cause(medium.load_u32(8192)), Cause::Medium);
                    assert_eq!(medium.load_u32(0), Ok(1));
                }
            });
        }
    });
}

#[test]
fn zeroing_is_exact_at_its_edges() {
    let file = file_of(SIZE);
    let medium = map(&file, DurabilityRequest::Auto);
    for (start, end) in [(0, SIZE), (4096, 8192), (100, 200), (100, 9000), (4095, 8193), (64, 64)] {
        medium.write_bytes(0, &vec![0xaa; SIZE as usize]).unwrap();
        medium.zero(start, end - start).unwrap();
        let mut found = vec![0; SIZE as usize];
        medium.read_bytes(0, &mut found).unwrap();
        for (offset, byte) in (0..).zip(found) {
            let expected = if (start..end).contains(&offset) { 0 } else { 0xaa };
            assert_eq!(byte, expected, "byte {offset} after zeroing {start}..{end}");
        }
    }
}

#[test]
fn a_range_inside_the_file_is_mapped_where_it_is_and_congruent_with_huge_pages() {
    let file = file_of(8 << 20);
    file.write_all_at(b"here", (2 << 20) + 4096).unwrap();
    let start = (2 << 20) + 4096;
    let medium = Mapping::new(
        file.try_clone().unwrap(),
        start..start + SIZE,
        Protection::ReadWrite,
        DurabilityRequest::Auto,
    )
    .unwrap();
    assert_eq!(medium.load_u32(0), Ok(u32::from_le_bytes(*b"here")));
    assert_eq!(medium.base.addr() % (2 << 20), 4096);
    medium.zero(0, 4096).unwrap();
    assert_eq!(medium.load_u32(0), Ok(0));
}

#[test]
fn ranges_that_cannot_be_mapped_are_refused() {
    let new = |start, end| {
        Mapping::new(file_of(SIZE), start..end, Protection::ReadWrite, DurabilityRequest::Auto)
    };
    assert!(matches!(new(0, SIZE + 1), Err(MapError::BeyondEnd { .. })));
    assert!(matches!(new(512, 4096), Err(MapError::BadRange { .. })));
    assert!(matches!(new(4096, 4096), Err(MapError::BadRange { .. })));
    let directory = File::open("/").unwrap();
    let mapped = Mapping::new(directory, 0..4096, Protection::ReadOnly, DurabilityRequest::Auto);
    assert!(matches!(mapped, Err(MapError::NotMappable)));
    let null = File::open("/dev/null").unwrap();
    let mapped = Mapping::new(null, 0..4096, Protection::ReadOnly, DurabilityRequest::Auto);
    assert!(matches!(mapped, Err(MapError::NotMappable)));
}

/// Also a store that no one has written back yet.
#[test]
fn a_hole_is_told_from_what_was_stored() {
    for start in [0, SIZE] {
        let file = file_of(3 * SIZE);
        let range = start..start + SIZE;
        let protection = Protection::ReadWrite;
        let medium =
            Mapping::new(file.try_clone().unwrap(), range, protection, DurabilityRequest::Auto)
                .unwrap();
        assert_eq!(medium.next_stored(100), SIZE);
        medium.store_u32(20_000, 1).unwrap();
        assert_eq!(medium.load_u32(40_000), Ok(0));
        for (offset, at_most) in [(0, 20_000), (20_000, 20_000), (20_002, 20_002)] {
            let stored = medium.next_stored(offset);
            assert!((offset..=at_most).contains(&stored), "{offset}: {stored}");
        }
        medium.store_u32(SIZE - 4, 1).unwrap();
        assert!(medium.next_stored(30_000) < SIZE);
        assert_eq!(medium.next_stored(SIZE), SIZE);

        // What is beyond the end of the file is no hole, but an error.
        file.set_len(start + 4096).unwrap();
        assert_eq!(medium.next_stored(0), 4096);
        assert_eq!(medium.next_stored(8192), 8192);
    }
}

#[test]
fn a_sync_takes_time_where_there_is_something_to_sync() {
    for (request, takes_time) in [
        (DurabilityRequest::PageCache, true),
        (DurabilityRequest::Strict, true),
        (DurabilityRequest::Dax, false),
    ] {
        let file = file_of(SIZE);
        let medium = map(&file, request);
        // A process before us may have left something.
        assert_eq!(medium.sync_takes_time(), takes_time, "{request:?}");
        medium.sync().unwrap();
        assert!(!medium.sync_takes_time(), "{request:?}");
        medium.store_u32(0, 1).unwrap();
        assert_eq!(medium.sync_takes_time(), takes_time, "{request:?}");
    }
}

#[test]
fn hints_go_anywhere() {
    let file = file_of(SIZE);
    let medium = map(&file, DurabilityRequest::Auto);
    file.set_len(0).unwrap();
    for offset in [0, 1, SIZE - 1, SIZE, u64::MAX] {
        for length in [0, 1, 256] {
            medium.prefetch(offset, length, Intent::Load);
            medium.prefetch(offset, length, Intent::Store);
        }
    }
}
