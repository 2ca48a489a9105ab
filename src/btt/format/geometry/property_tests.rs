//! Layouts of all sizes, up to several TiB.

use proptest::prelude::*;

use super::*;
use crate::btt::layout;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn lba_sizes() -> impl Strategy<Value = LbaSize> {
    prop::sample::select(LbaSize::ALL.to_vec())
}

/// Sizes of an arena: any, and such as are near the ends of what is allowed.
fn arena_sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        ARENA_MIN_SIZE..=ARENA_MAX_SIZE,
        ARENA_MIN_SIZE..=ARENA_MIN_SIZE + 4 * MIB,
        ARENA_MAX_SIZE - 4 * MIB..=ARENA_MAX_SIZE,
    ]
}

/// The parts of an arena in order, with their sizes.
fn parts(geometry: &Geometry) -> [(u64, u64); 5] {
    let blocks = u64::from(geometry.internal_nlba) * u64::from(geometry.internal_lbasize);
    [
        (0, INFO_SIZE),
        (geometry.dataoff, blocks),
        (geometry.mapoff, u64::from(geometry.external_nlba) * MAP_ENTRY_SIZE),
        (geometry.logoff, u64::from(geometry.nfree) * FLOG_PAIR_SIZE),
        (geometry.info2off, INFO_SIZE),
    ]
}

proptest! {
    #[test]
    fn the_parts_of_a_new_arena_lie_in_order_on_pages(size in arena_sizes(), lba_size in lba_sizes()) {
        let geometry = Geometry::new(size, lba_size, true);
        let mut end = 0;
        for (offset, length) in parts(&geometry) {
            prop_assert!(offset >= end && offset.is_multiple_of(PAGE));
            end = offset + length;
        }
        prop_assert!(end <= size);
        prop_assert_eq!(end, geometry.size());
        prop_assert_eq!(backup_offset(size), geometry.info2off);
        prop_assert_eq!(geometry.external_nlba + geometry.nfree, geometry.internal_nlba);
        prop_assert_eq!(geometry.validate(size), Ok(()));
    }

    /// Between the blocks and the map lies less than one more block with its map entry, the page
    /// that the kernel sets aside for rounding up the map, and map entries for the free blocks, which
    /// have none. All else is lost to rounding to pages.
    #[test]
    fn nothing_is_wasted(size in arena_sizes(), lba_size in lba_sizes()) {
        let geometry = Geometry::new(size, lba_size, true);
        let [_, (data, blocks), (map, entries), (log, lanes), (backup, _)] = parts(&geometry);
        let block = u64::from(lba_size.internal()) + MAP_ENTRY_SIZE;
        let of_free_blocks = u64::from(geometry.nfree) * MAP_ENTRY_SIZE;
        prop_assert!(map - (data + blocks) < block + PAGE + of_free_blocks);
        prop_assert!(log - (map + entries) < PAGE);
        prop_assert!(backup - (log + lanes) < PAGE);
        prop_assert!(size - geometry.size() < PAGE);
    }

    #[test]
    fn every_block_entry_and_lane_is_inside_its_part(
        size in arena_sizes(),
        lba_size in lba_sizes(),
        place in any::<prop::sample::Index>(),
    ) {
        let geometry = Geometry::new(size, lba_size, true);
        let [_, data, map, log, _] = parts(&geometry);
        let inside = |(start, length): (u64, u64), offset: u64, size: u64| {
            offset >= start && offset + size <= start + length && (offset - start).is_multiple_of(size)
        };
        let at_most = |count: u32| [0, place.index(count as usize) as u32, count - 1];
        for block in at_most(geometry.internal_nlba) {
            let size = u64::from(geometry.internal_lbasize);
            prop_assert!(inside(data, geometry.block_offset(Block(block)), size));
        }
        for lba in at_most(geometry.external_nlba) {
            prop_assert!(inside(map, geometry.map_entry_offset(Lba(lba)), MAP_ENTRY_SIZE));
        }
        for lane in at_most(geometry.nfree) {
            prop_assert!(inside(log, geometry.flog_offset(LaneIndex(lane)), FLOG_PAIR_SIZE));
        }
    }

    #[test]
    fn arenas_follow_each_other_and_leave_little(
        raw in prop_oneof![0..6 * TIB, 0..4 * ARENA_MIN_SIZE],
        arena_size in prop_oneof![Just(ARENA_MAX_SIZE), TIB / 64..=TIB / 2, 0..2 * TIB],
    ) {
        // No more than some thousand arenas, for the sake of time.
        let arena_size = arena_size.max(raw / 4096);
        let each = arena_size.clamp(ARENA_MIN_SIZE, ARENA_MAX_SIZE);
        let mut end = 0;
        for (offset, size) in arenas(raw, arena_size) {
            prop_assert_eq!(offset, end);
            prop_assert!((ARENA_MIN_SIZE..=each).contains(&size));
            end = offset + size;
            prop_assert!(size == each || end == raw);
        }
        prop_assert!(raw - end < ARENA_MIN_SIZE);
    }

    #[test]
    fn the_arenas_of_a_new_btt_are_valid_and_lead_to_each_other(
        raw in ARENA_MIN_SIZE..6 * TIB,
        lba_size in lba_sizes(),
    ) {
        let arenas: Vec<(u64, Geometry)> = layout(raw, ARENA_MAX_SIZE, lba_size).collect();
        for (index, (start, geometry)) in arenas.iter().enumerate() {
            prop_assert_eq!(geometry.validate(raw - start), Ok(()));
            let next = arenas.get(index + 1).map(|(next, _)| *next);
            prop_assert_eq!((geometry.nextoff != 0).then(|| start + geometry.nextoff), next);
            prop_assert!(next.is_none_or(|next| start + geometry.size() <= next));
        }
    }

    /// What is not refused can be used: no part reaches outside, whatever the numbers are.
    #[test]
    fn numbers_that_pass_describe_an_arena(
        size in ARENA_MIN_SIZE..=64 * MIB,
        lba_size in lba_sizes(),
        internal in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        numbers in any::<[prop::sample::Index; 2]>(),
        strange: u64,
        room in 0..200 * MIB,
    ) {
        let mut geometry = Geometry::new(size, lba_size, true);
        if let Some(internal) = internal {
            geometry.internal_lbasize = internal % 8192;
        }
        let near = geometry.info2off ^ (strange % (1 << 16));
        for (number, value) in numbers.into_iter().zip([strange, near]) {
            match number.index(8) {
                0 => geometry.nextoff = value,
                1 => geometry.dataoff = value,
                2 => geometry.mapoff = value,
                3 => geometry.logoff = value,
                4 => geometry.info2off = value,
                5 => geometry.nfree = value as u32 % 100_000,
                6 => geometry.internal_nlba = value as u32,
                _ => geometry.external_nlba = geometry.internal_nlba.wrapping_sub(geometry.nfree),
            }
        }
        if geometry.validate(room) != Ok(()) {
            return Ok(());
        }
        let mut end = 0;
        for (offset, length) in parts(&geometry) {
            prop_assert!(offset >= end && offset.is_multiple_of(PAGE));
            end = offset.checked_add(length).unwrap();
        }
        prop_assert!(end <= room && end == geometry.size());
        prop_assert!(geometry.nextoff == 0 || (end..room).contains(&geometry.nextoff));
        prop_assert!(geometry.external_nlba > 0 && geometry.nfree > 0);
    }
}
