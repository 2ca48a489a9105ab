//! What the medium has to do for a write: with and without groups.

use std::collections::HashSet;

use super::*;
use crate::pmem::CACHE_LINE;
use crate::pmem::simulated::{Event, Recorder};

/// Bytes of a page of four sectors.
const PAGE: u64 = 16 << 10;

/// What was done to the medium.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Cost {
    fences: usize,
    /// Bytes of blocks.
    data: usize,
    /// Bytes of map, flog and record.
    metadata: usize,
    /// Cache lines that these are written back in.
    lines: usize,
}

impl Cost {
    fn of(trace: &[Event]) -> Cost {
        let mut cost = Cost { fences: 0, data: 0, metadata: 0, lines: 0 };
        let mut lines = HashSet::new();
        for event in trace {
            match event {
                Event::Fence { .. } => cost.fences += 1,
                Event::Stream { bytes, .. } => cost.data += bytes.len(),
                Event::Store { bytes, .. } => cost.metadata += bytes.len(),
                Event::Flush { offset, length, .. } => {
                    lines.extend(offset / CACHE_LINE..(offset + length).div_ceil(CACHE_LINE));
                }
                _ => {}
            }
        }
        Cost { lines: lines.len(), ..cost }
    }
}

/// Writes batches of extents, each a first sector and a number of sectors of 4096 bytes, where aligned writes of
/// up to `atomic` bytes are all or nothing. Returns what the last batch cost.
fn cost(atomic: u32, batches: &[&[(u64, u64)]]) -> Cost {
    let medium = Recorder::new(Simulated::of(new_medium(4096, Version::V1_1).snapshot()));
    let (btt, mut queues) = Btt::open(medium, &OpenOptions { atomic, ..OPEN }).unwrap();
    let mut last = Cost::of(&[]);
    for extents in batches {
        let _ = btt.medium.take_trace();
        let mut batch = queues[0].batch();
        for (first, count) in *extents {
            let mut data = vec![1; *count as usize * 4096];
            batch.begin_write(*first, *count);
            batch.write(*first, &VolatileSlice::from(&mut data[..]), 0).unwrap();
        }
        batch.commit();
        assert_eq!(batch.take_failures().count(), 0);
        last = Cost::of(&btt.medium.take_trace());
    }
    last
}

#[test]
fn a_page_that_is_all_or_nothing_costs_a_cache_line_and_no_fence() {
    let plain = cost(0, &[&[(8, 4)]]);
    // Four flog entries, and four map entries in one line.
    let expected = Cost { fences: 3, data: PAGE as usize, metadata: 4 * 16 + 4 * 4, lines: 5 };
    assert_eq!(plain, expected);
    for atomic in [16 << 10, 64 << 10] {
        let cost = cost(atomic, &[&[(8, 4)]]);
        assert_eq!(cost, Cost { metadata: plain.metadata + 64, lines: plain.lines + 1, ..plain });
    }
}

#[test]
fn pages_of_a_round_share_their_record() {
    let pages: Vec<(u64, u64)> = (0..16).map(|page| (4 * page, 4)).collect();
    let (plain, atomic) = (cost(0, &[&pages]), cost(64 << 10, &[&pages]));
    assert_eq!((plain.fences, plain.data), (3, 16 * PAGE as usize));
    assert_eq!(atomic, Cost { metadata: plain.metadata + 64, lines: plain.lines + 1, ..plain });
}

#[test]
fn sectors_cost_what_they_cost_without_groups() {
    let sectors: Vec<(u64, u64)> = (0..32).map(|sector| (3 * sector, 1)).collect();
    for batches in [&[&sectors[..]][..], &[&[(0, 1)], &sectors]] {
        assert_eq!(cost(64 << 10, batches), cost(0, batches));
    }
    // The first after a page clears its record.
    let [plain, atomic] = [0, 64 << 10].map(|atomic| cost(atomic, &[&[(8, 4)], &sectors]));
    assert_eq!(atomic, Cost { metadata: plain.metadata + 8, lines: plain.lines + 1, ..plain });
}
